"""Linked models through the real command: they train, resume bit for bit, predict, and load in plain transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Chainft = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def words(tiny_encoder: Path, ner_files: list[str]) -> list[str]:
    """Every kind of link at once: shared blocks, message passing, a mix, an auxiliary head and exits."""
    chain = ["chain=cascade", "chain.stages.second.share.with=first", "chain.stages.third.receive=all"]
    chain += ["chain.stages.first.auxiliary.weight=0.5", "chain.exit_confidence=0.6"]
    settings = ["task=ner", f"model={tiny_encoder}", "optimizer.lr=0.003", "train.batch_size=8"]
    return [*ner_files, *chain, *settings, "train.num_train_epochs=2", "checkpoint.every=3", "report.enabled=false"]


def succeed(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


def losses(run: Path) -> list[tuple[Any, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [(one["step"], one["loss"]) for one in map(json.loads, lines) if one["kind"] == "train"]


@pytest.mark.slow
def test_a_cascade_killed_and_resumed_equals_the_unbroken_run_and_is_evaluated_as_trained(
    chainft: Chainft, words: list[str], tmp_path: Path
) -> None:
    shown = succeed(chainft("train", *words, "run=whole"))
    assert "shares with first" in shown.stderr
    fault = {"CHAINFT_TESTING": "1", "CHAINFT_FAULT": "kill@step=8,phase=backward"}
    assert chainft("train", *words, "run=killed", env=fault).returncode == -9
    succeed(chainft("train", "run=killed", "resume=true"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    results = json.loads((tmp_path / "whole" / "all_results.json").read_text(encoding="utf-8"))
    found = json.loads(succeed(chainft("evaluate", "whole", "--json")).stdout)["values"]
    assert found == pytest.approx(results["test"]["after"]["values"])
    assert_same_answers_in_transformers(chainft, tmp_path / "whole")


def assert_same_answers_in_transformers(chainft: Chainft, run: Path) -> None:
    """In another process, as a stranger would: `import chainft`, then transformers' own pipeline."""
    text = "anna visited acme in paris yesterday ."
    ours = json.loads(succeed(chainft("predict", run, text)).stdout)["entities"]
    code = (
        "import json, chainft\nfrom transformers import pipeline\n"
        f"tagger = pipeline('token-classification', model={str(run / 'model')!r}, aggregation_strategy='first')\n"
        f"print(json.dumps([[one['entity_group'], one['start'], one['end']] for one in tagger({text!r})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs == [[one["type"], one["start"], one["end"]] for one in ours]


def test_a_cascade_learns_to_classify(chainft: Chainft, tiny_encoder: Path, tmp_path: Path) -> None:
    lines = [{"text": f"the {word} is here", "label": label} for word, label in (("good", "yes"), ("bad", "no"))] * 16
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    settings = ["data.train=texts.jsonl", "data.validation_fraction=0", f"model={tiny_encoder}", "optimizer.lr=0.01"]
    more = ["train.batch_size=8", "train.num_train_epochs=8", "report.enabled=false", "run=run"]
    succeed(chainft("train", "task=classify", "data=jsonl", "chain=cascade", *settings, *more))
    steps = losses(tmp_path / "run")
    assert steps[-1][1] < 0.7 * steps[0][1]
    answer = json.loads(succeed(chainft("predict", "run", "the good is here")).stdout)
    assert answer["label"] == "yes"
    assert "import chainft" in (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")


def test_linked_decoders_generate_what_each_token_by_token_would(tiny_decoder: Path, chainft: Chainft) -> None:
    """Padded on the left and batched, as each prompt by itself."""
    from transformers import AutoTokenizer

    from chainft.config.chain import ChainConfig, StageConfig
    from chainft.config.run import DataConfig, ModelConfig, RunConfig
    from chainft.models.generation import generate
    from chainft.stages.links_load import build_linked
    from chainft.tasks.generate import Generate, GenerateConfig

    task = Generate(GenerateConfig(max_new_tokens=4))
    task.prepare(AutoTokenizer.from_pretrained(tiny_decoder), max_length=64)
    stages = {"first": StageConfig(model=str(tiny_decoder)), "second": StageConfig(residual=True)}
    chain = ChainConfig(order=("first", "second"), stages=stages)
    model = ModelConfig(path=str(tiny_decoder))
    config = RunConfig(task=task.config, data=DataConfig(name="jsonl"), model=model, chain=chain)
    linked = build_linked(config, task, seed=1).model.eval()
    ids, lengths = torch.tensor([[2, 10, 11, 12, 13], [2, 20, 0, 0, 0]]), torch.tensor([5, 2])
    options: Any = {"count": 1, "pad_token_id": 0, "eos_token_id": 3, "options": {}}
    found = generate(linked, ids, lengths, settings=task.config, **options)
    for row, length in enumerate(lengths.tolist()):
        text = ids[row : row + 1, :length]
        for _ in range(4):
            text = torch.cat([text, linked(input_ids=text).logits[:, -1:].argmax(-1)], dim=1)
        new = text[0, length:].tolist()
        assert found[row][0].tolist() == (new[: new.index(3)] if 3 in new else new)
    beams = generate(linked, ids, lengths, settings=GenerateConfig(max_new_tokens=4, num_beams=2), **options)
    assert len(beams) == 2


def test_an_encoder_before_a_decoder_is_refused(
    chainft: Chainft, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    """Each token would see those that it has to predict."""
    (tmp_path / "texts.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 8, encoding="utf-8")
    chain = [
        "chain.order=[one,two]",
        f"chain.stages.one.model={tiny_encoder}",
        f"chain.stages.two.model={tiny_decoder}",
    ]
    done = chainft("train", "task=generate", "data=jsonl", "data.train=texts.jsonl", "task.max_new_tokens=4", *chain)
    assert done.returncode == 4, done.stderr
    assert "both directions" in done.stderr and "chain.stages.one.model" in done.stderr
