"""Whole runs of encoder-decoders in this process: chains, caches and adapters give the numbers that they promise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from transformers import PreTrainedModel

from chainft.cli.main import main
from chainft.config.compose import compose, load_run_config
from chainft.config.saved import existing_run
from chainft.errors import ChainftError
from chainft.infer.evaluate import evaluate_run
from chainft.infer.predict import make_engine, read_examples
from chainft.infer.trained import load_run
from chainft.models import generation
from chainft.stages.deferred_head import DeferredHead
from chainft.train.session import run_training
from tests.clean_process import clean_process

Writer = Callable[[str], Path]
Train = Callable[..., dict[str, Any]]
NAMES, PLACES = ("anna", "ben", "clara", "david", "emil"), ("oslo", "paris", "rome", "lima")
FROZEN = ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.eval_mode=true"]


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name small parallel texts: a sentence and its words in another order."""
    folder = tmp_path_factory.mktemp("parallel")
    pairs = [(f"{name} visited {place} .", f"{place} {name} .") for name in NAMES for place in PLACES]
    words = ["task=translate", "task.source_lang=en", "task.target_lang=de", "data=parallel"]
    for split, chosen in (("train", pairs[:14]), ("validation", pairs[14:17]), ("test", pairs[17:])):
        for side, ending in enumerate(("en", "de")):
            file = folder / f"{split}.{ending}"
            file.write_text("".join(f"{pair[side]}\n" for pair in chosen), encoding="utf-8")
            words.append(f"data.{split}{'_target' if side else ''}={file}")
    return words


@pytest.fixture
def train(parallel: list[str], writer: Writer, tmp_path: Path) -> Iterator[Train]:
    """Trains a model of that type for some steps; returns the results, with the losses of all steps and the plan."""

    def run(kind: str, *words: str, name: str = "run") -> dict[str, Any]:
        settings = [f"model={writer(kind)}", "model.max_length=32", "train.batch_size=7", "train.max_steps=5"]
        settings += ["optimizer.lr=0.005", "task.max_new_tokens=6", "evaluation.before_training=false"]
        settings += [f"run={tmp_path / name}", "report.enabled=false"]
        kept = [one for one in settings if one.split("=")[0] not in {word.split("=")[0] for word in words}]
        AcceleratorState._reset_state(reset_partial_state=True)
        results = run_training(compose([*parallel, *kept, *words]))
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [one["loss"] for one in map(json.loads, lines) if one["kind"] == "train"]
        plan = json.loads((tmp_path / name / "plan.json").read_text(encoding="utf-8"))
        return {**results, "losses": losses, "prefix": plan["prefix_cache"]}

    with clean_process():
        yield run


@pytest.mark.parametrize("kind", ["t5", "marian"])
def test_a_chain_learns_what_the_whole_model_learns(train: Train, kind: str) -> None:
    whole = train(kind, name="whole")
    chained = train(kind, "chain.split=2", name="chained")
    assert chained["losses"] == pytest.approx(whole["losses"], abs=1e-6)
    assert chained["test"]["after"]["values"] == pytest.approx(whole["test"]["after"]["values"], abs=1e-6)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_no_pass_for_a_loss_makes_all_logits_and_every_score_stays(
    train: Train, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training, in its evaluations and in `chainft evaluate`; texts are written with the model's own logits."""
    sizes: list[int] = []
    finish = DeferredHead.finish

    def noted(self: DeferredHead, output: Any) -> Any:
        sizes.append(output.logits.shape[-1])
        return finish(self, output)

    only = generation._only

    def checked(config: Any, model: Any) -> Any:
        assert isinstance(model, PreTrainedModel)  # It hides the model's own settings, of which a stand-in has none.
        return only(config, model)

    monkeypatch.setattr(DeferredHead, "finish", noted)
    monkeypatch.setattr(generation, "_only", checked)
    # Adam makes a difference of a tiny gradient's rounding, and so do more steps: one multiplies it by about fifty.
    words = ["optimizer=sgd", "optimizer.lr=0.05", "train.max_steps=3"]
    found = train(kind, *words)
    width = json.loads((tmp_path / "run" / "model" / "config.json").read_text(encoding="utf-8"))["d_model"]
    assert len(sizes) > 5 and set(sizes) == {width}
    sizes.clear()
    run = load_run_config(existing_run(tmp_path / "run").config)
    again = evaluate_run(tmp_path / "run", run, "test").scores.values
    assert width in sizes
    assert again == pytest.approx(found["test"]["after"]["values"], rel=1e-5)
    for place in ("chainft.train.session", "chainft.infer.evaluate"):
        monkeypatch.setattr(f"{place}.find_deferred_head", lambda *_: None)
    sizes.clear()
    whole = train(kind, *words, name="whole")
    assert not sizes
    assert whole["losses"] == pytest.approx(found["losses"], rel=1e-5)
    assert whole["test"]["after"]["values"] == pytest.approx(found["test"]["after"]["values"], rel=1e-3)


def test_frozen_encoders_are_computed_once_and_change_no_loss(train: Train) -> None:
    cached = train("bart", *FROZEN, "cache.prefix=true", name="cached")
    plain = train("bart", *FROZEN, "cache.prefix=false", name="plain")
    assert (cached["prefix"]["used"], list(cached["prefix"]["entries"])) == (True, ["train"])
    assert cached["losses"] == pytest.approx(plain["losses"], abs=1e-6)


def test_adapters_learn_and_the_saved_model_answers_as_the_trained_one(train: Train, tmp_path: Path) -> None:
    words = ["chain.split=1", "chain.stages.stage0.lora.r=4", "optimizer.lr=0.05", "train.max_steps=60"]
    results = train("t5", *words, "task.num_beams=2", "task.length_penalty=0.5")
    assert results["losses"][-1] < 0.7 * results["losses"][0]
    told = [json.loads(one) for one in (tmp_path / "run/predictions/test.jsonl").read_text("utf-8").splitlines()]
    trained = load_run(tmp_path / "run")
    lines = ["emil visited paris .", "emil visited rome .", "emil visited lima ."]
    engine = make_engine(trained, batch_size=2, device="cpu")
    found = [
        one.prediction for one in engine.predict(read_examples(trained.task, lines, form="lines", source="<stdin>"))
    ]
    assert [one["source"] for one in found] == lines
    assert [one["translation"] for one in found] == [one["prediction"]["translation"] for one in told]


def test_results_have_signatures_baselines_and_charts(train: Train) -> None:
    results = train("t5", "report.enabled=true")
    after = results["test"]["after"]
    assert "tok:13a" in after["meanings"]["bleu"]
    assert set(results["baselines"]["copy"]) == {"bleu", "chrf"}
    assert [one["title"] for one in after["charts"]] == ["Length ratio", "Score by source length"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train.padding_free=true"], "two sequences"),
        (["chain=cascade"], "an encoder-decoder, which cannot be a linked stage"),
        (["task.max_new_tokens=40"], "task.max_new_tokens = 40 leaves no room in 32 tokens"),
    ],
)
def test_what_encoder_decoders_cannot_do_is_refused(train: Train, words: list[str], told: str) -> None:
    with pytest.raises(ChainftError, match=told):
        train("bart", *words)


def test_a_plan_is_made_without_weights(
    parallel: list[str], writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*parallel, f"model={writer('t5')}", "task.max_new_tokens=6", "model.max_length=32", "chain.split=2"]
    assert main(["plan", *words, "--length", "16"]) == 0
    assert "decoder.0:2" in capsys.readouterr().out
