"""Chains through the real command: they learn, resume bit for bit, and leave a plain Hugging Face folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from chainft.errors import CheckpointError, ModelError
from chainft.infer.trained import load_run

Chainft = Callable[..., "subprocess.CompletedProcess[str]"]

RECIPES = {
    "frozen": [
        "chain.split=2",
        "chain.stages.stage0.frozen=true",
        "chain.stages.stage0.eval_mode=true",
        "chain.stages.stage1.lr=1e-3",
        "chain.stages.stage1.weight_decay=0",
    ],
    "lora": ["chain.split=2", "chain.stages.stage1.lora.r=4"],
    "shared": ["chain.split=2", "chain.stages.stage1.share.with=stage0"],
    "repeated": ["chain.split=1", "chain.stages.stage0.repeat=2"],
    "unfrozen": ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.unfreeze_at=0.5"],
    "measured": [
        "chain.split=auto",
        "chain.num_stages=2",
        "chain.stages.stage0.frozen=true",
        "chain.stages.stage0.dtype=bfloat16",
    ],
}


@pytest.fixture(scope="module")
def words(tiny_encoder: Path, ner_files: list[str]) -> list[str]:
    settings = ["task=ner", f"model={tiny_encoder}", "optimizer.lr=0.01", "train.batch_size=8"]
    return [*ner_files, *settings, "train.num_train_epochs=2", "checkpoint.every=3", "report.enabled=false"]


def succeed(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_chain_killed_and_resumed_equals_the_unbroken_run_and_is_evaluated_as_trained(
    chainft: Chainft, words: list[str], tmp_path: Path, recipe: str
) -> None:
    chain = RECIPES[recipe]
    succeed(chainft("train", *words, *chain, "run=whole"))
    fault = {"CHAINFT_TESTING": "1", "CHAINFT_FAULT": "kill@step=8,phase=backward"}
    assert chainft("train", *words, *chain, "run=killed", env=fault).returncode == -9
    if recipe == "measured":  # Times differ between runs; the cut that was made is kept.
        assert json.loads((tmp_path / "killed" / "chain.json").read_text())["cuts"] == [0, 1, 2]
    succeed(chainft("train", "run=killed", "resume=true"))
    for name in ("whole", "killed"):
        assert json.loads((tmp_path / name / "plan.json").read_text(encoding="utf-8"))["model"]["trainable"] > 0
    losses = [
        [(one["step"], one["loss"]) for one in lines(tmp_path / name / "metrics.jsonl") if one["kind"] == "train"]
        for name in ("whole", "killed")
    ]
    assert losses[0] == losses[1]
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    results = json.loads((tmp_path / "whole" / "all_results.json").read_text(encoding="utf-8"))
    found = json.loads(succeed(chainft("evaluate", "whole", "--json")).stdout)["values"]
    assert found == pytest.approx(results["test"]["after"]["values"])


@pytest.fixture(scope="module")
def body(tiny_encoder: Path) -> dict[str, torch.Tensor]:
    return {f"bert.{name}": value for name, value in load_file(tiny_encoder / "model.safetensors").items()}


def test_frozen_parameters_do_not_change_by_a_bit(
    chainft: Chainft, words: list[str], body: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """fault 21"""
    succeed(chainft("train", *words, *RECIPES["frozen"], "run=run"))
    trained = load_file(tmp_path / "run" / "model" / "model.safetensors")
    for name, value in body.items():
        if "embeddings" in name or ".layer.0." in name:
            assert torch.equal(trained[name], value), name
    assert not torch.equal(
        trained["bert.encoder.layer.1.output.dense.weight"], body["bert.encoder.layer.1.output.dense.weight"]
    )


def test_adapters_are_merged_into_a_plain_model(
    chainft: Chainft, words: list[str], body: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    from transformers import AutoModelForTokenClassification

    succeed(chainft("train", *words, *RECIPES["lora"], "run=run"))
    model, facts = AutoModelForTokenClassification.from_pretrained(
        tmp_path / "run" / "model", output_loading_info=True
    )
    assert not facts["missing_keys"] and not facts["unexpected_keys"]
    query = "bert.encoder.layer.1.attention.self.query.weight"
    change = model.state_dict()[query] - body[query]
    assert 0 < int(torch.linalg.matrix_rank(change, atol=1e-5)) <= 4


def test_shared_stages_stay_one_through_training_and_a_change_by_others_is_noticed(
    chainft: Chainft, words: list[str], tmp_path: Path
) -> None:
    """fault 20"""
    shown = succeed(chainft("train", *words, *RECIPES["shared"], "run=run"))
    assert "shares with stage0" in shown.stderr
    file = tmp_path / "run" / "model" / "model.safetensors"
    tensors = load_file(file)
    one, other = (f"bert.encoder.layer.{number}.output.dense.weight" for number in (0, 1))
    assert torch.equal(tensors[one], tensors[other])
    tensors[other] = tensors[other] + 1
    save_file(tensors, file, metadata={"format": "pt"})
    refused = chainft("predict", "run", "anna")
    assert refused.returncode == 4
    assert "were one parameter" in refused.stderr


def test_a_stage_of_an_earlier_run_is_taken_with_its_digest(
    chainft: Chainft, words: list[str], tmp_path: Path
) -> None:
    succeed(chainft("train", *words, "run=first"))
    more = ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.from=first", "seed=3"]
    shown = succeed(chainft("train", *words, *more, "run=second"))
    assert "weights sha256:" in shown.stderr
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("first", "second"))
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(first[name], second[name])


def test_stages_frozen_with_random_values_and_lost_ties_are_told(
    chainft: Chainft, words: list[str], trained: Path
) -> None:
    short = [one for one in words if "num_train_epochs" not in one and not one.startswith("model=")]
    short += ["train.max_steps=1", f"model={trained}", "chain.split=2", "chain.stages.stage0.frozen=true"]
    apart = succeed(chainft("train", *short, "run=apart")).stderr
    assert "which are trained apart here" in apart
    assert "random values" not in apart
    told = succeed(chainft("train", *short, "model.pretrained=false", "run=random")).stderr
    assert "stage stage0 is frozen with random values" in told


@pytest.mark.parametrize(
    ("chain", "code", "told"),
    [
        (["chain.split=5"], 2, "has 2 blocks"),
        (["chain.order=[a]", "chain.stages.a.blocks=':1, head'"], 2, "embeddings, 0:2, head"),
        (["chain.split=2", "chain.stages.stage7.frozen=true"], 2, "there is no 'stage7'"),
        (["chain.split=2", "chain.stages.stage0.frosen=true"], 2, "did you mean"),
        (["chain.split=2", "chain.stages.stage0.from=nowhere"], 2, "does not exist"),
        (["chain=frozen_bas"], 2, "frozen_base"),
        (
            ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.unfreeze_at=0.95"],
            2,
            "the training has 10 steps",
        ),
        (
            [
                "optimizer.name=rprop",
                "optimizer.weight_decay=0",
                "chain.split=2",
                "chain.stages.stage0.weight_decay=1",
            ],
            2,
            "Rprop has no weight decay",
        ),
    ],
)
def test_a_wrong_chain_is_refused_with_a_remedy(
    chainft: Chainft, words: list[str], chain: list[str], code: int, told: str
) -> None:
    done = chainft("train", *words, *chain, "run=run")
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("ties", []),
        ("ties", {"a": 1}),
        ("ties", {"bert.nothing": "classifier.weight"}),
        ("ties", {"bert.encoder": "classifier.weight"}),
        ("dtypes", {"bert.encoder.layer.0": "float8"}),
        ("dtypes", {"bert.encoder.layer.9": "bfloat16"}),
        ("max_length", "long"),
        ("format", "1"),
        ("labels", {"O": 0}),
    ],
)
def test_a_changed_chainft_json_is_refused_without_traceback(
    trained: Path, tmp_path: Path, entry: str, value: object
) -> None:
    shutil.copytree(trained, tmp_path / "model")
    file = tmp_path / "model" / "chainft.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**state, entry: value}), encoding="utf-8")
    with pytest.raises((CheckpointError, ModelError), match=r"chainft\.json"):
        load_run(tmp_path / "model")


@pytest.fixture(scope="module")
def trained(tiny_encoder: Path, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-m", "chainft", "train", *words, *RECIPES["shared"], "run=run", "train.max_steps=1"]
    subprocess.run([one for one in command if "num_train_epochs" not in one], cwd=folder, check=True)
    return folder / "run" / "model"
