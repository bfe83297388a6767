"""The qa task on other kinds of models, in chains, and in whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from chainft.config.compose import compose
from chainft.config.joint import JointConfig
from chainft.config.parse import parse
from chainft.config.run import ModelConfig
from chainft.data.example import Example, Origin
from chainft.data.load import load_splits
from chainft.infer.trained import load_run
from chainft.models.load import load_model
from chainft.stages.compare import compare
from chainft.stages.gates import Gates
from chainft.stages.packing import packing_of
from chainft.stages.spans import Span
from chainft.stages.trunk_load import build_joint
from chainft.tasks.joint import Joint
from chainft.tasks.qa import Qa
from tests.tasks.qa_case import answered, batch_of, examples, model_of, ready


@pytest.fixture(scope="module")
def task(tiny_encoder: Path) -> Qa:
    return ready(tiny_encoder)


@pytest.fixture(scope="module")
def model(tiny_encoder: Path, task: Qa) -> PreTrainedModel:
    return model_of(tiny_encoder, task)


# Models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bart", "t5"])
def test_other_kinds_of_models_answer(kind: str, writer: Callable[[str], Path]) -> None:
    """Decoders and encoder-decoders, by heads that transformers has; batches change nothing."""
    task = ready(writer(kind))
    model = load_model(ModelConfig(path=str(writer(kind))), task, seed=0).model.eval()
    one, many = (answered(task, model, examples(), size) for size in (1, 8))
    assert [found["answer"] for found in one] == [found["answer"] for found in many]
    batch = batch_of(task, examples())
    loss = task.loss(model(**batch.inputs), batch)
    assert np.isfinite(loss.item())


def test_body_of_a_language_model_is_read_though_its_head_calls_it_otherwise(
    writer: Callable[[str], Path], tmp_path: Path
) -> None:
    """transformers 5.23 leaves `LlamaForQuestionAnswering` random; saved again, it loads whole in plain transformers."""
    from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering

    task = ready(writer("llama"))
    loaded = load_model(ModelConfig(path=str(writer("llama"))), task, seed=0)
    body = AutoModelForCausalLM.from_pretrained(writer("llama")).model.state_dict()
    for name, value in loaded.model.base_model.state_dict().items():
        assert torch.equal(value, body[name]), name
    assert set(loaded.new) == {"qa_outputs.weight", "qa_outputs.bias"}
    loaded.model.save_pretrained(tmp_path)
    again, facts = AutoModelForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not facts["missing_keys"]
    for name, value in again.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["encoder", "llama", "bart"])
def test_stages_one_by_one_equal_the_whole(kind: str, tiny_encoder: Path, writer: Callable[[str], Path]) -> None:
    task = ready(tiny_encoder if kind == "encoder" else writer(kind))
    model = load_model(ModelConfig(path=str(tiny_encoder if kind == "encoder" else writer(kind))), task, seed=0).model
    batch = batch_of(task, examples())
    gates = Gates(model.eval())
    last = gates.blocks.num_blocks
    spans = [Span(0, 1, embeddings=True, head=False), Span(1, last, embeddings=False, head=True)]
    found = compare(gates, spans, batch.inputs, lambda output: task.loss(output, batch))
    assert (found.output, found.loss, found.missing) == (0.0, 0.0, ())
    assert max(found.gradient, found.shared_gradient) <= 1e-6


@pytest.mark.parametrize("kind", ["encoder", "llama"])
def test_batches_without_padding_have_the_same_loss(
    kind: str, tiny_encoder: Path, writer: Callable[[str], Path]
) -> None:
    folder = tiny_encoder if kind == "encoder" else writer(kind)
    task = ready(folder)
    model = load_model(ModelConfig(path=str(folder)), task, seed=0).model.eval()
    packing = packing_of(model)
    assert packing is not None
    batch = batch_of(task, examples())
    with torch.inference_mode():
        padded = task.loss(model(**batch.inputs), batch)
        packed = task.loss(packing.run(batch.inputs, batch.lengths.numpy()), batch)
    assert float(packed) == pytest.approx(float(padded), rel=1e-5)


def test_beside_another_head_it_answers_as_by_itself(tiny_encoder: Path) -> None:
    """Several heads on one trunk: windows of questions are rows beside those of other tasks."""
    task = Joint(parse(JointConfig, {"name": "joint", "tasks": {"qa": {"name": "qa"}, "mood": {"name": "classify"}}}))
    rows = [Example({"qa": row.values}, row.origin) for row in examples()]
    moods = [Example({"mood": {"text": text, "label": text}}, Origin("m", 1)) for text in ("good", "bad")]
    task.learn_labels({"train": [*rows, *moods]}, unseen="error")
    task.prepare(AutoTokenizer.from_pretrained(tiny_encoder), max_length=48)
    model: Any = build_joint(ModelConfig(path=str(tiny_encoder)), task, seed=0).model.eval()
    features = [feature for one in [*rows, *moods] for feature in task.encode(one)]
    with torch.inference_mode():
        found = task.infer(model, task.collate(features, range(len(features))))
    alone = task.tasks["qa"]
    assert isinstance(alone, Qa)
    expected = answered(alone, model.head("qa"), examples())
    place = 0
    for row, one in zip(rows, expected, strict=True):
        count = len(task.encode(row))
        given = task.decode(row, features[place : place + count], found.raw[place : place + count])["qa"]
        assert given["n_best"][0]["score"] == pytest.approx(one["n_best"][0]["score"], abs=1e-5)
        assert given["answer"] == one["answer"]
        place += count
    assert task.needs_tuning


# Runs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Small questions by kind of word; a third of those for a company have no answer, some contexts are windows."""
    folder = tmp_path_factory.mktemp("qa")
    people, places, companies = (["anna", "ben", "clara"], ["oslo", "paris", "rome"], ["acme", "globex"])
    for split, count in (("train", 120), ("validation", 24), ("test", 24)):
        rows = []
        for number in range(count):
            person, place, company = people[number % 3], places[number // 3 % 3], companies[number // 9 % 2]
            text = f"the old {person} visited {place} with a good report . "
            text += "near the river " * (14 if number % 8 == 0 else 0)
            text += f"{company} sold it ." if number // 2 % 3 else "."
            kind = ("person", "city", "company")[number % 7 % 3]
            answer = {"person": person, "city": place, "company": company if number // 2 % 3 else ""}[kind]
            rows.append({"question": f"{kind} ?", "context": text, "answers": answer})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ["task=qa", *(f"data.{split}={folder / split}.jsonl" for split in ("train", "validation", "test"))]


def trained(words: Sequence[str], run: Path) -> dict[str, Any]:
    from chainft.train.session import run_training

    return run_training(compose([*words, f"run={run}", "train.batch_size=16", "report.enabled=false"]))


@pytest.mark.slow
def test_training_learns_to_answer_and_when_not_to(tiny_encoder: Path, files: list[str], tmp_path: Path) -> None:
    """By the whole training in this process: loss falls, the threshold is tuned and kept, baselines are beaten."""
    words = [*files, f"model={tiny_encoder}", "optimizer.lr=0.003", "train.num_train_epochs=24"]
    results = trained(words, tmp_path / "run")
    before, after = (results["test"][when]["values"] for when in ("before", "after"))
    assert after["answer_f1"] > 0.8 > before["answer_f1"] + 0.3
    assert after["answer_f1"] > max(values["answer_f1"] for values in results["baselines"].values())
    assert after["no_answer_accuracy"] > 0.5
    loaded = load_run(tmp_path / "run")
    assert isinstance(loaded.task, Qa) and loaded.task.may_abstain
    assert loaded.task.config.null_threshold == results["tuned"]["null_threshold"] != "auto"
    asked = {"question": "city ?", "context": "the old ben visited rome with a good report ."}
    (found,) = answered(loaded.task, loaded.model, [loaded.task.read_input(asked, where="x:1")])
    assert found["answer"] == "rome"


@pytest.mark.parametrize(
    "chain",
    [
        ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.eval_mode=true"],
        ["chain=cascade", "chain.stages.first.auxiliary.weight=0.5"],
    ],
    ids=["frozen", "linked"],
)
def test_chains_train_and_are_loaded_again(
    chain: list[str], tiny_encoder: Path, files: list[str], tmp_path: Path
) -> None:
    """Frozen stages come from the prefix cache, linked models have a head of their own class."""
    words = [*files, f"model={tiny_encoder}", "optimizer.lr=0.003", "train.num_train_epochs=2", *chain]
    results = trained(words, tmp_path / "run")
    plan = json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))
    if chain[0] == "chain.split=2":
        assert plan["prefix_cache"]["computed_bytes"] > 0
    else:
        assert plan["model"]["class"] == "LinkedForQuestionAnswering"
    loaded = load_run(tmp_path / "run")
    rows = load_splits(compose(words).config.data, loaded.task).examples["test"]
    found = answered(loaded.task, loaded.model, rows)
    lines = (tmp_path / "run" / "predictions" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    expected = [json.loads(line)["prediction"] for line in lines]
    assert [one["answer"] for one in found] == [one["answer"] for one in expected]
    assert results["test"]["after"]["values"]["loss"] > 0


@pytest.mark.slow
def test_the_command_trains_and_answers_objects_alone(
    chainft: Callable[..., Any], tiny_encoder: Path, files: list[str], tmp_path: Path
) -> None:
    done = chainft("train", *files, f"model={tiny_encoder}", "train.max_steps=2", "run=run")
    assert done.returncode == 0, done.stderr
    assert "--file inputs.jsonl" in done.stderr
    asked = {"question": "city ?", "context": "the old ben visited rome ."}
    (tmp_path / "asked.jsonl").write_text(json.dumps(asked) + "\n", encoding="utf-8")
    by_word, by_file = chainft("predict", "run", json.dumps(asked)), chainft("predict", "run", "--file", "asked.jsonl")
    assert by_word.returncode == 0, by_word.stderr
    assert by_word.stdout == by_file.stdout
    assert {"answer", "score", "start", "end", "n_best"} <= json.loads(by_word.stdout).keys()
    refused = chainft("predict", "run", "where is ben ?")
    assert refused.returncode == 3
    assert "needs the context" in refused.stderr and "Traceback" not in refused.stderr
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "finds the answers to questions in texts" in card
    assert "chainft predict path/to/this/folder '{" in card
