"""Linked models whose frozen leading stages are computed once: the same numbers, and every obstacle."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from chainft.config.compose import compose
from chainft.config.saved import compose_resumed
from chainft.errors import ChainftError, ConfigError
from chainft.stages.links import LinkedModel
from chainft.train.learner import Learner
from chainft.train.session import run_training
from tests.clean_process import clean_process

Train = Callable[..., dict[str, Any]]
STILL = "frozen: true, eval_mode: true"


@pytest.fixture
def train(ner_files: list[str], tmp_path: Path) -> Iterator[Train]:
    """Trains for ten steps with a cache of the test's own; results, losses and what the plan says of the cache."""

    def run(*words: str, name: str = "run") -> dict[str, Any]:
        settings = ["train.batch_size=8", "train.num_train_epochs=2", "optimizer.lr=0.005"]
        settings += ["report.enabled=false", f"run={tmp_path / name}", *ner_files, "task=ner"]
        settings += [f"data.cache_dir={tmp_path / 'cache'}"]
        AcceleratorState._reset_state(reset_partial_state=True)
        resumes = words == ("resume=true",)
        composed = compose_resumed(str(tmp_path / name), []) if resumes else compose([*settings, *words])
        results = run_training(composed)
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        losses = [one["loss"] for one in records if one["kind"] == "train"]
        evaluated = [one["values"]["loss"] for one in records if one["kind"] == "evaluation"]
        plan = json.loads((tmp_path / name / "plan.json").read_text(encoding="utf-8"))
        return {**results, "losses": losses, "evaluated": evaluated, "prefix": plan["prefix_cache"]}

    with clean_process():
        yield run


def chain(model: Path, *stages: str) -> list[str]:
    """Settings of linked models `a`, `b`, ...; each stage's own settings as YAML."""
    names = "abc"[: len(stages)]
    given = [
        f"{name}: {{model: '{model}'{f', {one}' if one else ''}}}" for name, one in zip(names, stages, strict=True)
    ]
    return [f"chain={{order: [{', '.join(names)}], stages: {{{', '.join(given)}}}}}"]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each stage ran."""
    counts: Counter[str] = Counter()
    run_stage = LinkedModel.run_stage

    def counted(self: LinkedModel, name: str, *arguments: Any) -> Any:
        counts[name] += 1
        return run_stage(self, name, *arguments)

    monkeypatch.setattr(LinkedModel, "run_stage", counted)
    return counts


@pytest.mark.parametrize(
    ("stages", "kept"),
    [
        ([STILL, ""], "a"),
        ([STILL, "residual: true"], "a"),
        ([STILL, f"{STILL}, receive: all", "receive: all"], "a, b"),
        ([STILL, STILL, "residual: true"], "a, b"),
        ([STILL, "receive: all", "receive: all"], "a"),
    ],
)
def test_kept_stages_change_no_number_and_run_once(
    train: Train, tiny_encoder: Path, computed: Counter[str], stages: list[str], kept: str
) -> None:
    words = chain(tiny_encoder, *stages)
    plain = train(*words, "cache.prefix=false", name="plain")
    assert plain["prefix"]["used"] is False
    computed.clear()
    found = train(*words, name="kept")
    assert found["prefix"]["used"] and found["prefix"]["blocks"] == kept
    assert found["losses"] == pytest.approx(plain["losses"], abs=1e-6)
    assert found["evaluated"] == pytest.approx(plain["evaluated"], abs=1e-6)
    assert found["test"]["after"]["values"] == pytest.approx(plain["test"]["after"]["values"], abs=1e-6)
    once = computed["a"]
    computed.clear()
    again = train(*words, name="again")
    assert again["prefix"]["computed_bytes"] == 0 and again["losses"] == found["losses"]
    # What the trials need, but no batch any more: the last stage ran for all of them.
    assert computed["a"] < once and computed["a"] < 10 < computed["abc"[len(stages) - 1]]


def test_a_module_learns_on_a_model_that_is_kept(train: Train, tiny_encoder: Path) -> None:
    stages = f"a: {{model: '{tiny_encoder}', {STILL}}}, top: {{kind: {{name: recurrent, hidden_size: 8}}}}"
    words = [f"chain={{order: [a, top], stages: {{{stages}}}}}"]
    plain, found = train(*words, "cache.prefix=false", name="plain"), train(*words, name="kept")
    assert found["prefix"]["used"] and found["losses"] == pytest.approx(plain["losses"], abs=1e-6)


def test_a_plug_in_is_not_kept(train: Train, tiny_encoder: Path) -> None:
    """Its code is no part of the key."""
    middle = f"b: {{kind: {{name: recurrent, hidden_size: 8}}, {STILL}}}"
    stages = f"a: {{model: '{tiny_encoder}', {STILL}}}, {middle}, c: {{model: '{tiny_encoder}'}}"
    found = train(f"chain={{order: [a, b, c], stages: {{{stages}}}}}", "train.max_steps=6")
    assert found["prefix"]["used"] and found["prefix"]["stages"] == ["a"]


def test_other_weights_or_links_have_entries_of_their_own(
    train: Train, tiny_encoder: Path, still_encoder: Path, tmp_path: Path
) -> None:
    words = chain(tiny_encoder, STILL, "")
    first = train(*words, "train.max_steps=6", name="first")
    assert train(*words, "train.max_steps=6", "seed=5", name="seed")["prefix"]["entries"] == first["prefix"]["entries"]
    # Without dropout the same body: rates are no part of what a frozen stage computes.
    still = train(*chain(still_encoder, STILL, ""), "train.max_steps=6", name="still")
    assert still["prefix"]["entries"] == first["prefix"]["entries"]
    changed = shutil.copytree(tiny_encoder, tmp_path / "changed")
    weights = load_file(changed / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][3] += 0.1
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    other = train(*chain(changed, STILL, ""), "train.max_steps=6", name="other")
    assert other["prefix"]["computed_bytes"] > 0
    assert set(other["prefix"]["entries"].values()).isdisjoint(first["prefix"]["entries"].values())
    assert other["losses"][0] != first["losses"][0]
    links = [
        train(*chain(tiny_encoder, STILL, f"{STILL}{more}", ""), "train.max_steps=6", name=f"link{number}")["prefix"]
        for number, more in enumerate(["", ", residual: true", ", receive: all"])
    ]
    assert all(one["stages"] == ["a", "b"] for one in links)
    assert len({one["entries"]["train"] for one in links} | {first["prefix"]["entries"]["train"]}) == 4


def test_a_linked_decoder_writes_as_it_did(train: Train, tiny_decoder: Path, tmp_path: Path) -> None:
    """Texts are written by the whole chain: what was lent for the training is not left over."""
    rows = [{"source": f"the {word} of", "target": word} for word in ("river", "city", "house", "man")] * 4
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = [*chain(tiny_decoder, STILL, ""), "task=generate", "data=jsonl", "task.max_new_tokens=4"]
    words += [f"data.{split}={tmp_path / split}.jsonl" for split in ("train", "validation", "test")]
    plain, found = train(*words, "cache.prefix=false", name="plain"), train(*words, name="kept")
    assert found["prefix"]["used"] and found["losses"] == pytest.approx(plain["losses"], abs=1e-6)
    assert found["test"]["after"]["values"] == pytest.approx(plain["test"]["after"]["values"], abs=1e-6)


def test_a_broken_run_goes_on_with_what_is_kept(
    train: Train, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = [*chain(tiny_encoder, STILL, "residual: true"), "checkpoint.every=3"]
    whole = train(*words, name="whole")
    begin = Learner.begin

    def broken(self: Learner, step: int) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return begin(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "begin", broken)
        with pytest.raises((KeyboardInterrupt, ChainftError)):
            train(*words, name="run")
    again = train("resume=true", name="run")
    assert again["prefix"]["used"] and again["prefix"]["computed_bytes"] == 0
    assert again["losses"] == whole["losses"]
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]


def test_sixteen_bits_take_half_the_room(train: Train, tiny_encoder: Path) -> None:
    words = chain(tiny_encoder, STILL, "")
    whole, half = train(*words, name="whole"), train(*words, "cache.dtype=bfloat16", name="half")
    assert half["prefix"]["bytes"] < 0.6 * whole["prefix"]["bytes"]
    assert half["losses"] == pytest.approx(whole["losses"], rel=0.02) and half["losses"] != whole["losses"]


@pytest.mark.parametrize(
    ("stages", "because"),
    [
        (["frozen: true", ""], "stage 'a' has dropout in training"),
        ([f"{STILL}, auxiliary: {{weight: 0.3}}", ""], "stage 'a' has a head of its own"),
    ],
)
def test_what_stands_in_the_way_is_told(train: Train, tiny_encoder: Path, stages: list[str], because: str) -> None:
    words = chain(tiny_encoder, *stages)
    found = train(*words, "train.max_steps=6")
    assert not found["prefix"]["used"] and because in found["prefix"]["because"]
    with pytest.raises(ConfigError, match="cannot be kept"):
        train(*words, "cache.prefix=true", name="asked")
