"""Whole runs of ner with a CRF, in this process: alone, resumed, beside other heads, and over cut and kept stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from chainft.config.compose import compose
from chainft.config.saved import compose_resumed
from chainft.errors import ConfigError
from chainft.infer.evaluate import evaluate_run
from chainft.infer.predict import predict
from chainft.plan.budget import Asked, make_budget
from chainft.train.faults import InjectedError
from chainft.train.optimizer import build_optimizer
from chainft.train.session import run_training
from tests.clean_process import clean_process

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def train(tiny_encoder: Path, ner_files: list[str], tmp_path: Path) -> Iterator[Train]:
    """Trains a little, or without words goes on with a run; returns the results with the losses of all steps."""

    def run(*words: str, name: str = "run", files: list[str] | None = None) -> dict[str, Any]:
        settings = [f"model={tiny_encoder}", "train.batch_size=8", "optimizer.lr=0.005", "report.enabled=false"]
        AcceleratorState._reset_state(reset_partial_state=True)
        settings += [f"run={tmp_path / name}", *(ner_files if files is None else files)]
        results = run_training(compose([*settings, *words]) if words else compose_resumed(str(tmp_path / name), []))
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return {**results, "losses": [one["loss"] for one in map(json.loads, lines) if one["kind"] == "train"]}

    with clean_process():
        yield run


CRF = ["task=ner", "task.crf=true", "task.crf_lr=0.05"]


def test_a_crf_run_learns_is_resumed_bit_for_bit_and_evaluated_as_trained(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*CRF, "train.num_train_epochs=3", "checkpoint.every=3"]
    whole = train(*words)
    assert sum(whole["losses"][-5:]) < 0.5 * sum(whole["losses"][:5])
    assert whole["test"]["after"]["values"]["entity_f1"] > 0.6
    monkeypatch.setenv("CHAINFT_TESTING", "1")
    monkeypatch.setenv("CHAINFT_FAULT", "raise@step=8,phase=backward")
    with pytest.raises(InjectedError):
        train(*words, name="broken")
    monkeypatch.delenv("CHAINFT_FAULT")
    resumed = train(name="broken")
    assert resumed["losses"] == whole["losses"]
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("run", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert load_file(files[0])["crf.transitions"].abs().max() > 0.01
    config = compose_resumed(str(tmp_path / "run"), []).config
    found = evaluate_run(tmp_path / "run", config, "test").scores.values
    assert found == pytest.approx(whole["test"]["after"]["values"])
    (answer,) = predict(tmp_path / "run", ["anna met acme in oslo ."], form="lines", source="x")
    assert len(answer["tags"]) == 6


@pytest.mark.parametrize(
    "words",
    [
        ["train.padding_free=true"],
        ["train.padding_free=false", "model.max_length=9"],
        [
            "chain.split=2",
            "chain.stages.stage0.frozen=true",
            "chain.stages.stage0.eval_mode=true",
            "cache.prefix=true",
        ],
        ["chain.split=2", "chain.stages.stage0.share.with=stage1", "train.mixed_precision=bf16"],
        ["chain.split=2", "chain.stages.stage1.frozen=crf"],
    ],
    ids=lambda words: words[0] + words[-1],
)
def test_a_crf_goes_with_every_way_of_running(train: Train, words: list[str], tmp_path: Path) -> None:
    results = train(*CRF, *words, "train.num_train_epochs=4")
    assert sum(results["losses"][-5:]) < 0.8 * sum(results["losses"][:5])
    scores = load_file(tmp_path / "run" / "model" / "model.safetensors")["crf.transitions"]
    assert (scores.abs().max() == 0) == ("frozen=crf" in words[-1])


def test_packed_and_padded_batches_give_the_same_losses(train: Train, tiny_encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "still")
    settings = json.loads((tmp_path / "still" / "config.json").read_text(encoding="utf-8"))
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (tmp_path / "still" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    words = [*CRF, "train.max_steps=4", f"model={tmp_path / 'still'}"]
    packed = train(*words, "train.padding_free=true", name="packed")
    padded = train(*words, "train.padding_free=false", name="padded")
    assert packed["losses"] == pytest.approx(padded["losses"], rel=1e-4)


def test_a_crf_is_one_of_several_heads(train: Train, ner_files: list[str], tmp_path: Path) -> None:
    data = [word.replace("data.", "data.tasks.names.") for word in ner_files[1:]]
    rows = "text,label\n" + "".join(f"anna likes {place},{place}\n" for place in ("oslo", "rome")) * 5
    (tmp_path / "places.csv").write_text(rows, encoding="utf-8")
    words = ["task=joint", "data=joint", "task.tasks.names.name=ner", "task.tasks.names.crf=true"]
    words += ["task.tasks.place.name=classify", f"data.tasks.place.train={tmp_path / 'places.csv'}"]
    words += ["data.tasks.names.name=conll", "data.tasks.place.name=csv", "data.unseen_labels=allow"]
    results = train(*words, "train.max_steps=8", files=data)
    assert results["losses"][-1] < results["losses"][0]
    assert "crf.start" in load_file(tmp_path / "run" / "model" / "names" / "model.safetensors")
    (answer,) = predict(tmp_path / "run", ["anna likes oslo"], form="lines", source="x")
    assert set(answer) == {"names", "place"} and len(answer["names"]["tags"]) == 3


def test_linked_models_have_no_crf(train: Train) -> None:
    with pytest.raises(ConfigError) as caught:
        train(*CRF, "chain=cascade")
    assert caught.value.problems[0].key == "task.crf"


def test_a_crf_run_can_be_planned(tiny_encoder: Path) -> None:
    def parameters(*words: str) -> int:
        config = compose(["task=ner", f"model={tiny_encoder}", *words]).config
        asked = Asked(num_labels=5)
        return make_budget(
            config, lambda module: build_optimizer(module, config.optimizer), asked
        ).total.num_parameters

    assert parameters("task.crf=true") - parameters() == 5 * 5 + 2 * 5


def test_context_of_documents_is_read_from_conll(train: Train, tmp_path: Path) -> None:
    lines = ["-DOCSTART- O\n\n"]
    for number in range(20):
        lines.append(f"anna B-PER\nmet O\n{'acme B-ORG' if number % 2 else 'emil B-PER'}\n\n")
        lines += ["-DOCSTART- O\n\n"] if number % 5 == 4 else []
    (tmp_path / "train.conll").write_text("".join(lines), encoding="utf-8")
    words = ["task=ner", "task.context=document", "task.max_context=6", "data=conll", "train.max_steps=6"]
    results = train(*words, files=[f"data.train={tmp_path / 'train.conll'}", "data.test_fraction=0.2"])
    assert results["losses"][-1] < results["losses"][0]
