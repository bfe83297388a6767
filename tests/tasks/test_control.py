"""Controlled generation: meanings and attributes in, texts out that are chosen and scored by what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from chainft.config.parse import parse
from chainft.config.run import ModelConfig
from chainft.data.batching import collate
from chainft.data.example import Example, Origin
from chainft.data.load import load_splits
from chainft.data.sources.csv import CsvConfig
from chainft.errors import ConfigError, DataError
from chainft.infer.engine import Engine
from chainft.metrics.base import check_metric
from chainft.models.load import load_model
from chainft.registry import find
from chainft.tasks.control import Control, ControlConfig
from chainft.train.baselines import score_baselines

Chainft = Callable[..., Any]
EAGLE = "name[The Eagle], food[French], familyFriendly[yes]"
SAID = "The Eagle is a family-friendly French place."


def example(meaning: Any = EAGLE, text: Any = SAID, line: int = 1, **more: Any) -> Example:
    values = {"meaning": meaning, "text": text, **more}
    return Example({name: value for name, value in values.items() if value is not None}, Origin("data.csv", line))


def make(folder: Path | None = None, *, train: Any = (), **settings: Any) -> Control:
    task = Control(parse(ControlConfig, {"name": "control", "max_new_tokens": 8, **settings}))
    task.learn_labels({"train": train or [example()]}, unseen="error")
    if folder is not None:
        task.prepare(AutoTokenizer.from_pretrained(folder), max_length=64)
    return task


def decoded(task: Control, one: Example, *texts: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The prediction for answers that a model might have written."""
    monkeypatch.setattr(task, "to_text", lambda ids: texts[int(ids[0])])
    return task.decode(one, [{"tokens_cut": np.array([0])}], [[np.array([number]) for number in range(len(texts))]])


def test_the_plugin_is_found() -> None:
    assert find("task", "control", key="task.name") is Control


# Data and sources -----------------------------------------------------------------------------------


def test_rows_of_one_meaning_are_learned_apart_and_evaluated_together(tmp_path: Path) -> None:
    file = tmp_path / "e2e.csv"
    rows = ["mr,ref", '"name[A], food[B]",one', '"food[B], name[A]",two', "name[C],three"]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    config = CsvConfig(name="csv", train=str(file), test=str(file), validation_fraction=0)
    examples = load_splits(config, make()).examples
    assert [one.values["text"] for one in examples["train"]] == ["one", "two", "three"]
    assert [one.values["text"] for one in examples["test"]] == [["one", "two"], ["three"]]
    assert [one.where() for one in examples["test"]] == [f"{file}:2", f"{file}:4"]


def test_a_row_of_several_texts_is_several_rows_of_train() -> None:
    rows = make().grouped("train", [example(text=["a", "b"])])
    assert [one.values["text"] for one in rows] == ["a", "b"]


def test_other_attributes_or_prefixes_are_other_sources() -> None:
    task = make(attributes=["tone"])
    rows = [example(tone="warm"), example(tone="cold"), example(tone="warm", prefix="So"), example(tone="warm")]
    assert [len(one.values["text"]) for one in task.grouped("test", rows)] == [2, 1, 1]


def test_a_broken_meaning_is_told_by_its_line() -> None:
    (problem,) = make().validate(example("name[The Eagle, food[French]", line=7))
    assert (problem.slug, problem.where) == ("broken-meaning", "data.csv:7")
    assert "character 0" in problem.message


@pytest.mark.parametrize(
    ("settings", "source"),
    [
        ({}, "name: The Eagle; food: French; familyFriendly: yes"),
        ({"slot_order": "sorted"}, "familyFriendly: yes; food: French; name: The Eagle"),
        ({"control": "codes"}, "<name> The Eagle <food> French <familyFriendly> yes"),
        (
            {"attributes": ["tone"], "control": "codes"},
            "<tone> warm <name> The Eagle <food> French <familyFriendly> yes\nSo",
        ),
        ({"attributes": ["tone"]}, "tone: warm; name: The Eagle; food: French; familyFriendly: yes\nSo"),
    ],
)
def test_meaning_attributes_and_prefix_are_put_as_asked(settings: dict[str, Any], source: str) -> None:
    more = {"tone": "warm", "prefix": "So"} if "attributes" in settings else {}
    assert make(**settings).source(example(**more)) == source


def test_shuffled_slots_are_in_the_same_order_each_time_and_whatever_was_given() -> None:
    task = make(slot_order="shuffled")
    pairs = [(f"slot{number}", "x") for number in range(6)]
    meanings = [dict(pairs), dict(reversed(pairs))]
    first, second = (task.source(example(meaning)) for meaning in meanings)
    assert first == second
    assert sorted(first.split("; ")) == [f"slot{number}: x" for number in range(6)]
    orders = {task.source(example({**meanings[0], "other": str(value)})) for value in range(5)}
    assert len({tuple(part.partition(":")[0] for part in one.split("; ")) for one in orders}) > 1


def test_attributes_alone_need_no_meaning() -> None:
    task = make(attributes=["tone"], train=[example(meaning=None, tone="warm")])
    one = example(meaning=None, tone="warm")
    assert (list(task.validate(one)), task.source(one)) == ([], "tone: warm")
    assert [type(metric).__name__ for metric in task.metrics()] == ["_OnTexts", "_OnTexts"]
    assert set(task.baselines([one])) == {"nearest"}
    (problem,) = task.validate(example(meaning=None))
    assert "tone" in problem.message


def test_codes_are_no_new_tokens_and_have_no_instruction(tiny_decoder: Path) -> None:
    task = make(tiny_decoder, control="codes")
    assert task._template.render("<name> anna") == "<name> anna\n"
    assert make(tiny_decoder)._template.render("name: anna").startswith("Write a text")


# Choosing among candidates --------------------------------------------------------------------------

CANDIDATES = ("The Eagle.", "The Eagle is French.", SAID, "The Eagle is a French place, good for kids.")


def test_the_candidate_with_the_fewest_slot_errors_is_taken(
    tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(tiny_decoder, require_values=True, num_beams=4)
    assert decoded(task, example(), *CANDIDATES, monkeypatch=monkeypatch)["text"] == SAID
    found = decoded(task, example(text=None), *CANDIDATES[:2], monkeypatch=monkeypatch)
    assert found == {
        "meaning": EAGLE,
        "text": "The Eagle is French.",
        "slots_missing": ["familyFriendly[yes]"],
    }


def test_several_answers_are_the_best_candidates(tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(tiny_decoder, require_values=True, num_beams=4, num_return_sequences=2)
    assert decoded(task, example(text=None), *CANDIDATES, monkeypatch=monkeypatch)["candidates"] == list(
        CANDIDATES[2:]
    )


def test_without_require_values_the_likeliest_is_taken(tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoded(make(tiny_decoder), example(), "The Eagle.", monkeypatch=monkeypatch)["text"] == "The Eagle."


def test_a_forbidden_word_weighs_more_than_slots(tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(tiny_decoder, require_values=True, num_beams=4, forbidden=["place"])
    assert decoded(task, example(), *CANDIDATES, monkeypatch=monkeypatch)["text"] == "The Eagle is French."


@pytest.fixture(scope="module")
def model(tiny_decoder: Path) -> PreTrainedModel:
    return load_model(ModelConfig(path=str(tiny_decoder)), make(tiny_decoder), seed=0).model.eval()


def written(task: Control, model: PreTrainedModel, one: Example) -> list[list[int]]:
    with torch.inference_mode():
        raw = task.infer(model, collate(task.encode(one), task, range(1))).raw
    return [row.tolist() for row in raw[0]]


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"do_sample": True, "sampling_seed": 3}])
def test_forbidden_words_are_never_written(
    tiny_decoder: Path, model: PreTrainedModel, settings: dict[str, Any]
) -> None:
    """Each word that is written is forbidden in turn, until none of them is left."""
    one, forbidden = example({"name": "anna"}, None), []
    for _ in range(3):
        task = make(tiny_decoder, forbidden=forbidden, **settings)
        (ids,) = written(task, model, one)
        words = {str(task.tokenizer.decode([number])) for number in ids}
        assert words.isdisjoint(forbidden)
        forbidden += sorted(word for word in words if word.isalpha() and len(word) > 1)[:2]
    assert forbidden


def test_candidates_are_as_many_as_asked_for(tiny_decoder: Path, model: PreTrainedModel) -> None:
    task = make(tiny_decoder, require_values=True, do_sample=True, num_candidates=3)
    assert len(written(task, model, example({"name": "anna"}, "anna"))) == 3
    engine = Engine(model, task, 2, lambda: torch.autocast("cpu", enabled=False))
    (found,) = engine.predict(iter([example({"name": "anna"}, None)]))
    assert isinstance(found.prediction["text"], str)
    assert "candidates" not in found.prediction


# Scores ---------------------------------------------------------------------------------------------


def test_scores_are_of_texts_and_of_slots() -> None:
    task = make()
    one = example(text=["Something else entirely.", SAID])
    scores = score_baselines(task, [example()], [one])
    assert scores["nearest"]["chrf"] == pytest.approx(1.0)
    assert scores["values"]["slot_error_rate"] == 0.0
    assert task.baselines([one])["values"](one) == "The Eagle, French, family friendly."
    assert {"bleu", "chrf", "slot_error_rate"} <= set(scores["values"])
    check_metric("slot_error_rate", task)


def test_known_phrasings_count_for_slots_of_the_data_only() -> None:
    task = make(train=[example("name[A]", "A")])
    meaning = task.meaning(example("name[A]", "A"))
    assert task._lexicon.judge(meaning, "A is a cheap pub.").redundant == ()


def test_phrases_of_the_config_replace_known_ones_and_unknown_slots_are_reported() -> None:
    task = make(phrases={"family friendly[yes]": ["a place for the small"], "garden[yes]": ["with garden"]})
    meaning = task.meaning(example())
    assert task._lexicon.judge(meaning, "The Eagle, French, a place for the small.").errors == 0
    assert task._lexicon.judge(meaning, "The Eagle, French, kid friendly.").errors == 1
    findings = {one.slug: one for one in task.contract({"train": [example("garden[no], name[A]")]})}
    assert "garden[yes]" in findings["unknown-slot"].message
    assert findings["unjudged-slot"].count == 1


def test_a_slot_that_train_lacks_is_refused_unless_allowed() -> None:
    splits: Any = {"train": [example("name[A]")], "test": [example("name[A], garden[yes]", line=3)]}
    with pytest.raises(DataError, match="garden"):
        make().learn_labels(splits, unseen="error")
    make().learn_labels(splits, unseen="allow")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"num_candidates": 3}, "task.num_candidates"),
        ({"require_values": True}, "task.require_values"),
        ({"require_values": True, "num_beams": 2, "num_candidates": 3}, "task.num_candidates"),
        (
            {"require_values": True, "num_beams": 3, "num_candidates": 2, "num_return_sequences": 3},
            "task.num_return_sequences",
        ),
        ({"attributes": ["text"]}, "task.attributes"),
        ({"forbidden": [" "]}, "task.forbidden"),
        ({"phrases": {"food": ["a"]}}, "task.phrases"),
        ({"phrases": {"food[x]": []}}, "task.phrases"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**settings)
    assert [one.key for one in caught.value.problems] == [key]


def test_an_input_is_a_line_or_an_object() -> None:
    assert make().read_input(EAGLE, where="<stdin>:1").values == {"meaning": EAGLE}
    task = make(attributes=["tone"])
    row = {"mr": {"name": "A"}, "tone": "warm", "prefix": "So"}
    assert task.read_input(row, where="in:1").values == {"meaning": {"name": "A"}, "tone": "warm", "prefix": "So"}
    for wrong in (EAGLE, {"tone": 3}, {"tone": "warm", "mr": "name["}):
        with pytest.raises(DataError):
            task.read_input(wrong, where="in:1")
    with pytest.raises(DataError, match="broken"):
        make().read_input("name", where="in:1")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_texts_of_the_starter_data_say_their_meanings(split: str) -> None:
    config = CsvConfig(name="csv", train=f"pkg://chainft.starter/control/{split}.csv", validation_fraction=0)
    examples = load_splits(config, make()).examples["train"]
    task = make(train=examples)
    for one in examples:
        assert task._lexicon.judge(task.meaning(one), one.values["text"]).errors == 0, one


@pytest.mark.slow
def test_a_run_trains_evaluates_and_predicts(chainft: Chainft, tiny_decoder: Path, tmp_path: Path) -> None:
    lines = [
        "meaning,text",
        *(f"name[{name}],{name} visited rome" for name in ("anna", "ben", "clara", "david", "emil")),
    ]
    file = tmp_path / "rows.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = [
        "task=control",
        f"model={tiny_decoder}",
        "data=csv",
        *(f"data.{one}={file}" for one in ("train", "validation", "test")),
    ]
    words += ["task.max_new_tokens=6", "task.require_values=true", "task.num_beams=2", "train.max_steps=3"]
    done = chainft("train", *words, f"run={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "all_results.json").read_text(encoding="utf-8"))
    assert {"bleu", "chrf", "slot_error_rate"} <= set(results["test"]["after"]["values"])
    assert results["baselines"]["values"]["slot_error_rate"] == 0.0
    said = chainft("predict", tmp_path / "run", "name[anna]")
    assert json.loads(said.stdout)["meaning"] == "name[anna]", said.stderr
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "answers with the labels" not in card
