"""Entities and their relations with two heads on one trunk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from chainft.config.compose import compose
from chainft.config.joint import JointConfig
from chainft.config.saved import compose_resumed, compose_saved
from chainft.data.contract import check_contract
from chainft.data.example import Example, Origin
from chainft.data.load import Splits
from chainft.errors import ChainftError, CheckpointError, ConfigError, DataError
from chainft.infer.evaluate import evaluate_run
from chainft.infer.predict import predict
from chainft.run_folder import RunFolder
from chainft.tasks._extract_config import ExtractConfig
from chainft.tasks._ner_config import NerConfig
from chainft.tasks.base import merge_scores
from chainft.tasks.extract import PAIR, Extract
from chainft.tasks.joint import Joint
from chainft.tasks.ner import Ner
from chainft.train.launch import launch
from chainft.train.session import run_training
from tests.clean_process import clean_process

TEXT = "anna of acme met ben in oslo"
VALUES = {
    "text": TEXT,
    "entities": [[0, 4, "person"], [8, 12, "org"], [17, 20, "person"], [24, 28, "place"]],
    "relations": [[1, 0, "pays"], [0, 2, "knows"]],
}


def row(**changes: Any) -> Example:
    return Example(VALUES | changes, Origin("x.jsonl", 1))


def ready(tokenizer: Path, *examples: Example, max_length: int = 40, **settings: Any) -> Extract:
    task = Extract(ExtractConfig(**{"symmetric": ("knows",)} | settings))
    task.learn_labels({"train": list(examples) or [row()]}, unseen="error")
    task.prepare(AutoTokenizer.from_pretrained(tokenizer), max_length=max_length)
    return task


def words(task: Extract, feature: Any) -> str:
    return str(task.tokenizer.decode(feature["input_ids"]))


def found(*entities: Sequence[Any], text: str = TEXT) -> dict[str, Any]:
    shown = [{"start": start, "end": end, "type": kind, "text": text[start:end]} for start, end, kind in entities]
    return {"text": text, "entities": shown, "relations": []}


def test_labels_are_of_both_heads_and_both_directions(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder)
    kinds = [f"entities/{prefix}-{kind}" for kind in ("org", "person", "place") for prefix in "BI"]
    relations = [f"relations/{name}" for name in ("no_relation", "knows", "pays(e1,e2)", "pays(e2,e1)")]
    assert task.labels.names == ("entities/O", *kinds, *relations)
    assert task.labels.counts["relations/no_relation"] == 1 and task.labels.counts["relations/pays(e2,e1)"] == 1
    assert task.learned == {"type_pairs": [["org", "person"], ["person", "person"]]}


def test_a_text_and_each_pair_are_features_with_targets(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder)
    text, *pairs = task.encode(row())
    tags, labels = task.tasks["entities"].labels.names, task.tasks["relations"].labels.names
    told = [tags[number] for number in text["entities.labels"] if number >= 0]
    assert told == ["B-person", "O", "B-org", "O", "B-person", "O", "B-place"]
    assert [labels[int(one["relations.labels"][0])] for one in pairs] == ["pays(e2,e1)", "knows", "no_relation"]
    assert (
        words(task, pairs[0])
        == "[CLS] [UNK] [UNK] person [UNK] anna [UNK] of [UNK] [UNK] org [UNK] acme [UNK] met ben in oslo [SEP]"
    )
    assert sum(float(one["relations.part"][0]) for one in pairs) == pytest.approx(1)


def test_a_follow_up_is_of_the_entities_that_were_found(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder)
    prediction = found((17, 20, "org"), (0, 4, "person"), (24, 28, "place"))
    (only,) = task.follow_up(row(), prediction)
    assert only[PAIR].tolist() == [1, 0]  # Entity 1 stands first.
    logits = np.array([0.0, 0.0, 0.0, 9.0])
    (relation,) = task.concluded(prediction, [only], [{"relations": logits}])["relations"]
    assert (relation["head"]["text"], relation["relation"], relation["tail"]["text"]) == ("ben", "pays", "anna")
    assert relation["label"] == "pays(e2,e1)" and relation["direction"] == "head->tail" and relation["score"] > 0.99
    none = task.concluded(prediction, [only], [{"relations": np.array([9.0, 0, 0, 0])}])
    assert none["relations"] == []
    assert len(ready(tiny_encoder, type_pairs="all").follow_up(row(), prediction)) == 3
    assert ready(tiny_encoder, max_distance=2).follow_up(row(), prediction) == []
    assert task.follow_up(row(), found()) == []


def test_found_entities_that_fill_the_model_are_not_asked_but_told_ones_are_an_error(tiny_encoder: Path) -> None:
    text = "anna ben " * 6 + "acme"
    entities = [[0, 26, "person"], [27, 53, "person"], [54, 58, "org"]]
    wide = row(text=text, entities=entities, relations=[[0, 1, "knows"]])
    task = ready(tiny_encoder, wide, max_length=12)
    assert task.follow_up(wide, found(*entities, text=text)) == []
    with pytest.raises(DataError) as caught:
        task.encode(wide)
    assert caught.value.problems[0].where == "x.jsonl:1"


def test_only_the_text_of_an_input_is_read(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder)
    one, other = task.read_input(TEXT, where="x:1"), task.read_input(VALUES, where="x:1")
    assert one.values == other.values == {"text": TEXT}
    assert len(task.encode(one)) == 1
    with pytest.raises(DataError):
        task.read_input({"txt": TEXT}, where="x:1")


def test_what_pairs_cannot_have_is_found(tiny_encoder: Path) -> None:
    twice = row(relations=[[1, 0, "pays"], [0, 1, "knows"]])
    foreign = row(relations=[[1, 3, "pays"]])
    cut = row(text="anna of acme met ben in oslo", entities=[[0, 4, "person"], [8, 11, "org"]], relations=[])
    task = ready(tiny_encoder, row())
    told = check_contract(Splits({"train": [row()], "validation": [twice, foreign, cut]}, ""), task)
    slugs = {one.slug: one for one in told if one.severity == "warning" and one.message.startswith("validation")}
    assert {"several-relations", "foreign-relations", "cut-entities"} <= set(slugs)
    assert all(one.where == "x.jsonl:1" for one in slugs.values())
    far = check_contract(Splits({"train": [row()]}, ""), ready(tiny_encoder, row(), max_distance=1))
    assert "far-relations" in {one.slug for one in far}
    bare = row(entities=VALUES["entities"][:2], relations=[[1, 0, "pays"]])
    only = ready(tiny_encoder, bare, symmetric=())
    assert "no-negatives" in {one.slug for one in check_contract(Splits({"train": [bare]}, ""), only)}
    without = row(relations=[])
    errors = check_contract(Splits({"train": [without]}, ""), ready(tiny_encoder, without, symmetric=()))
    assert errors[0].slug == "no-relations" and errors[0].severity == "error"


def test_pairs_are_no_windows_of_a_long_text(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder)
    features = len(task.encode(row()))
    stores: Any = {"train": SimpleNamespace(first_of=np.array([0, features]))}
    assert features > 1
    assert "over-long" not in {one.slug for one in check_contract(Splits({"train": [row()]}, ""), task, stores=stores)}
    short = ready(tiny_encoder, max_length=14)
    long = row(text=f"{TEXT} with the old river near the new house and the company of david")
    told = {one.slug for one in check_contract(Splits({"train": [long]}, ""), short, stores=stores)}
    assert "over-long" in told


def test_baselines_look_names_up_and_take_what_types_mostly_have(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder)
    answers = task.baselines([row()])
    new = row(text="ben of acme", entities=[[0, 3, "person"], [7, 11, "org"]], relations=[[1, 0, "pays"]])
    for name in ("lexicon_nearest", "lexicon_every_pair"):
        metrics = task.metrics()
        for metric in metrics:
            metric.update(task.gold(new), answers[name](new))
        values = merge_scores(metric.compute() for metric in metrics).values
        assert values["entity_f1"] == values["relation_given_entities_f1_micro"] == 1.0, name
    assert answers["lexicon_nearest"](new)["relations"] == task.gold(new)["relations"]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"symmetric": ("know",)}, "task.symmetric"),
        ({"weights": {"entity": 2.0}}, "task.weights.entity"),
        ({"metrics": ("entities",)}, "task.metrics"),
    ],
)
def test_settings_that_name_nothing_are_refused(tiny_encoder: Path, settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ready(tiny_encoder, **settings)
    assert caught.value.problems[0].key == key


def test_it_is_no_part_of_a_joint_task() -> None:
    with pytest.raises(ConfigError) as caught:
        Joint(JointConfig(name="joint", tasks={"both": ExtractConfig(), "names": NerConfig()}))
    assert "'both' (extract) is several tasks itself" in caught.value.problems[0].message


@pytest.mark.parametrize("learned", [{}, {"type_pairs": 5}, {"type_pairs": [["a", "b", "c"]]}])
def test_a_damaged_memory_is_told(tiny_encoder: Path, learned: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        ready(tiny_encoder).remember(learned)
    Ner(NerConfig()).remember({})
    with pytest.raises(CheckpointError):
        Ner(NerConfig()).remember({"type_pairs": []})


# Runs -----------------------------------------------------------------------------------------------


@pytest.fixture
def clean_logging() -> Iterator[None]:
    with clean_process():
        yield


def write(path: Path, numbers: Sequence[int]) -> Path:
    """Sentences whose order of words, not whose words, tell who acts; two of three persons have nothing to do with it."""
    people, firms = ["anna", "ben", "clara", "david", "emil"], ["acme", "globex", "initech"]
    lines = []
    for number in numbers:
        firm, one, other = firms[number % 3], people[number % 5], people[(number + 1 + number // 5 % 3) % 5]
        if number % 2:
            parts, links = [(one, "person"), "visited", (firm, "org"), "with", (other, "person")], [[0, 1, "visit"]]
        else:
            parts, links = [(firm, "org"), "visited", (one, "person"), "near", (other, "person")], [[0, 1, "visit"]]
        text, entities = "", []
        for part in parts:
            word = part if isinstance(part, str) else part[0]
            text += " " if text else ""
            if not isinstance(part, str):
                entities.append({"start": len(text), "end": len(text) + len(word), "type": part[1]})
            text += word
        lines.append(json.dumps({"sentence": text, "entities": entities, "relations": links}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def settings(tiny_encoder: Path, tmp_path: Path) -> list[str]:
    train, test = write(tmp_path / "train.jsonl", range(60)), write(tmp_path / "test.jsonl", range(60, 75))
    files = [f"data.train={train}", f"data.validation={test}", f"data.test={test}"]
    return ["task=extract", "data=jsonl", *files, f"model={tiny_encoder}", "optimizer.lr=0.01", "train.batch_size=8"]


@pytest.mark.usefixtures("clean_logging")
def test_a_run_learns_end_to_end_and_is_evaluated_and_predicts_as_trained(settings: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    results = run_training(compose([*settings, "train.num_train_epochs=12", f"run={run}"]))
    values = results["test"]["after"]["values"]
    assert values["entity_f1"] > 0.9 and values["relation_strict_f1_micro"] > 0.8
    for baseline in results["baselines"].values():
        assert values["relation_strict_f1_micro"] > baseline["relation_strict_f1_micro"]

    again = evaluate_run(run, compose_saved(RunFolder(run), []).config, "test").scores.values
    assert again == pytest.approx(values)

    (one,) = predict(run, ["globex visited ben near anna"], form="lines", source="x")
    assert set(one) == {"text", "entities", "relations"}
    assert [(entity["text"], entity["type"]) for entity in one["entities"]] == [
        ("globex", "org"),
        ("ben", "person"),
        ("anna", "person"),
    ]
    (relation,) = one["relations"]
    assert (relation["head"]["text"], relation["relation"], relation["tail"]["text"]) == ("globex", "visit", "ben")

    head = AutoModelForSequenceClassification.from_pretrained(run / "model" / "relations")
    tokenizer = AutoTokenizer.from_pretrained(run / "model" / "relations")
    text = "@ * org * globex @ visited # ^ person ^ ben # near anna"
    logits = head(**tokenizer(text, return_tensors="pt")).logits[0]
    assert head.config.id2label[int(logits.argmax())] == relation["label"]
    assert float(logits.softmax(0).max().detach()) == pytest.approx(relation["score"], abs=1e-5)

    state = json.loads((run / "model" / "chainft.json").read_text(encoding="utf-8"))
    assert state["learned"] == {"type_pairs": [["org", "person"]]}
    changed = compose_saved(RunFolder(run), ["task.symmetric=[visit]"]).config
    with pytest.raises(ChainftError, match="visit"):
        evaluate_run(run, changed, "test")


@pytest.mark.usefixtures("clean_logging")
def test_a_frozen_prefix_is_kept_and_changes_no_number(settings: list[str], tmp_path: Path) -> None:
    chain = ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.eval_mode=true"]
    rest = ["train.max_steps=8", "report.enabled=false"]
    found = {}
    for name in ("true", "false"):
        run = tmp_path / name
        results = run_training(compose([*settings, *chain, *rest, f"cache.prefix={name}", f"run={run}"]))
        found[name] = results["test"]["after"]["values"]
        AcceleratorState._reset_state(reset_partial_state=True)
    assert found["true"] == pytest.approx(found["false"], abs=1e-5)


@pytest.mark.usefixtures("clean_logging")
def test_a_resumed_run_ends_as_an_unbroken_one(settings: list[str], tmp_path: Path) -> None:
    rest = ["report.enabled=false", "scheduler=constant", "scheduler.warmup_steps=0", "evaluation.metric=loss"]
    whole = run_training(compose([*settings, *rest, "train.max_steps=8", f"run={tmp_path / 'whole'}"]))
    AcceleratorState._reset_state(reset_partial_state=True)
    run = tmp_path / "broken"
    first = run_training(compose([*settings, *rest, "train.max_steps=5", f"run={run}"]))
    AcceleratorState._reset_state(reset_partial_state=True)
    resumed = run_training(compose_resumed(str(run), ["train.max_steps=8", "allow_change=[train.max_steps]"]))
    assert first["test"]["after"] != resumed["test"]["after"] == whole["test"]["after"]


@pytest.mark.slow
@pytest.mark.usefixtures("clean_logging")
def test_two_processes_find_what_one_finds(settings: list[str], tiny_encoder: Path, tmp_path: Path) -> None:
    still = tmp_path / "still"
    shutil.copytree(tiny_encoder, still)
    config = json.loads((still / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (still / "config.json").write_text(json.dumps(config))
    rest = [f"model={still}", "report.enabled=false", "evaluation.batch_size=4", "train.num_train_epochs=4"]
    words = [one for one in settings if not one.startswith("model=")]
    found = []
    for count in (1, 2):
        run = tmp_path / str(count)
        launch(compose([*words, *rest, f"launch.num_processes={count}", f"run={run}"]))
        results = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
        found.append(
            (results["test"]["after"]["values"], len((run / "predictions/test.jsonl").read_text().splitlines()))
        )
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4) and found[0][0]["entity_f1"] > 0.5
    assert found[0][1] == found[1][1] == 15
