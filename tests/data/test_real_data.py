"""Published data sets as a user would read them; skipped where the folder `../shared/data` is absent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from chainft import registry
from chainft.config.compose import compose
from chainft.data.contract import check_contract
from chainft.data.example import Finding
from chainft.data.load import Splits, load_splits
from chainft.tasks.base import Task
from chainft.train.baselines import score_baselines


def load(*words: str, labels: str = "error") -> tuple[Splits, Task]:
    config = compose(words).config
    task: Task = registry.find("task", config.task.name, key="task.name")(config.task)
    splits = load_splits(config.data, task)
    task.learn_labels(splits.examples, unseen=labels)  # type: ignore[arg-type]
    return splits, task


def sizes(splits: Splits) -> dict[str, int]:
    return {split: len(rows) for split, rows in splits.examples.items()}


def findings(splits: Splits, task: Task) -> dict[str, Finding]:
    return {finding.slug: finding for finding in check_contract(splits, task)}


@pytest.fixture(scope="module")
def wnut17(shared_data: Path) -> tuple[Splits, Task]:
    folder = shared_data / "ner" / "wnut17"
    return load(
        *("task=ner", "data=conll", "data.tag_separator=','"),
        f"data.train={folder}/wnut17train.conll",
        f"data.validation={folder}/emerging.dev.conll",
        f"data.test={folder}/emerging.test.annotated",
    )


def test_wnut17_is_read_whole(wnut17: tuple[Splits, Task]) -> None:
    """Sentences and entities as the task's paper counts them (Derczynski et al. 2017, table 2)."""
    splits, task = wnut17
    assert sizes(splits) == {"train": 3394, "validation": 1009, "test": 1287}
    words = {split: sum(len(row.values["tokens"]) for row in rows) for split, rows in splits.examples.items()}
    assert words == {"train": 62730, "validation": 15733, "test": 23394}
    test = Counter(tag for row in splits.examples["test"] for tag in row.values["tags"] if tag.startswith("B-"))
    assert test["B-person"] == 429
    assert len(task.labels.names) == 13


def test_wnut17_has_no_errors(wnut17: tuple[Splits, Task]) -> None:
    found = findings(*wnut17)
    assert not [finding for finding in found.values() if finding.severity == "error"]
    assert "emerging.dev.conll:" in str(found["zero-width"].where)


def test_banking77_is_read_and_cut(shared_data: Path) -> None:
    folder = shared_data / "text_classification" / "banking77"
    splits, task = load("task=classify", f"data.train={folder}/train.csv", f"data.test={folder}/test.csv")
    assert sizes(splits) == {"train": 9003, "validation": 1000, "test": 3080}
    assert len(task.labels.names) == 77
    shares = Counter(row.values["label"] for row in splits.examples["validation"])
    whole = shares + Counter(row.values["label"] for row in splits.examples["train"])
    assert all(abs(shares[label] - 0.1 * count) <= 1 for label, count in whole.items())
    assert findings(splits, task).keys() == {"leak"}


def test_clinc150_is_read_from_one_document(shared_data: Path) -> None:
    file = shared_data / "text_classification" / "clinc150" / "data_full.json"
    splits, task = load(
        *("task=classify", "data=jsonl", "data.columns={text: 0, label: 1}"),
        *(f"data.train=[{file}::train,{file}::oos_train]", f"data.validation={file}::val", f"data.test={file}::test"),
    )
    assert sizes(splits) == {"train": 15100, "validation": 3000, "test": 4500}
    assert len(task.labels.names) == 151


def test_slots_and_intents_are_read_from_one_table(shared_data: Path) -> None:
    """Words and tags as texts with blanks between them; a few rows have none and are left out."""
    folder = shared_data / "dialogue" / "multidogo_turn"
    files = (f"data.train={folder}/finance.train.tsv", f"data.validation={folder}/finance.dev.tsv")
    splits, _ = load(
        *("task=ner", "data=csv", "data.columns={tokens: utterance, tags: slot-labels}", "data.on_error=skip"),
        *files,
        labels="allow",
    )
    assert splits.rejected
    assert len(splits.examples["train"]) > 10_000
    splits, task = load(
        "task=classify", "data=csv", "data.columns={text: utterance, label: intent}", *files, labels="allow"
    )
    assert "conflicting-labels" in findings(splits, task)


def test_multi30k_is_read_from_aligned_files(shared_data: Path) -> None:
    folder = shared_data / "translation" / "multi30k"
    names = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
    files = [
        f"data.{split}{suffix}={folder}/{name}.{ending}.gz"
        for split, name in names.items()
        for suffix, ending in (("", "en"), ("_target", "de"))
    ]
    splits, task = load("task=translate", "task.source_lang=en", "task.target_lang=de", "data=parallel", *files)
    assert sizes(splits) == {"train": 29000, "validation": 1014, "test": 1000}
    first = splits.examples["train"][0].values
    assert first["source"].startswith("Two young, White males") and first["target"].startswith("Zwei junge weiße")
    scores = score_baselines(task, splits.examples["train"], splits.examples["test"])
    assert scores["copy"] == {"bleu": pytest.approx(0.0048, abs=1e-4), "chrf": pytest.approx(0.1634, abs=1e-4)}


def test_scitldr_has_several_references_and_sentences_as_lists(shared_data: Path) -> None:
    folder = shared_data / "summarization" / "scitldr_A"
    names = {"train": "train", "validation": "dev", "test": "test"}
    files = [f"data.{split}={folder}/{name}.jsonl" for split, name in names.items()]
    splits, task = load("task=summarize", "data=jsonl", *files, "data.max_test_samples=20")
    assert sizes(splits) == {"train": 1992, "validation": 619, "test": 20}
    assert all(isinstance(row.values["document"], list) for row in splits.examples["test"])
    assert max(len(row.values["summary"]) for row in splits.examples["test"]) > 1
    scores = score_baselines(task, splits.examples["train"], splits.examples["test"])
    assert scores["lead_1"]["rouge1"] > 0.25


def test_squad_is_read_whole_from_its_archive(shared_data: Path) -> None:
    """Questions as the paper counts them (Rajpurkar et al. 2016, table 1: 10,570 in the development set)."""
    file = shared_data / "qa" / "squad_v1_dev" / "dev-v1.1.json.zip"
    splits, task = load("task=qa", f"data.train={file}", "data.validation_fraction=0")
    assert sizes(splits) == {"train": 10570}
    assert dict(task.labels.counts) == {"answerable": 10570}
    found = findings(splits, task)
    assert not [finding for finding in found.values() if finding.severity == "error"]
    assert found["duplicate"].count == 15
    assert "article 'Super_Bowl_50', paragraph 1, question '56bf10f43aeaaa14008c94fe'" in str(found["duplicate"].where)


@pytest.mark.parametrize(("language", "compared"), [("de", "words"), ("en", "words"), ("zh", "characters")])
def test_xquad_is_compared_by_the_script_of_its_contexts(shared_data: Path, language: str, compared: str) -> None:
    file = shared_data / "qa" / "xquad" / f"xquad.{language}.json"
    splits, task = load("task=qa", "data=squad", f"data.train={file}", "data.validation_fraction=0")
    golds = [task.gold(row) for row in splits.examples["train"]]
    assert len(golds) == 1190
    assert {gold["compared"] for gold in golds} == {compared}
    for cut, exact in ((0, 1.0), (1, 0.0)):
        (metric,) = task.metrics()
        for gold in golds:
            metric.update(gold, gold["answers"][0][cut:])
        values = metric.compute().values
        assert values["exact_match"] == pytest.approx(exact, abs=0.06)
        assert values["answer_f1"] >= values["exact_match"]


def test_a_chinese_answer_earns_points_for_its_characters(shared_data: Path) -> None:
    """By hand: 5 of 7 characters found, none too many: F1 = 10 / 12."""
    file = shared_data / "qa" / "xquad" / "xquad.zh.json"
    splits, task = load("task=qa", "data=squad", f"data.train={file}", "data.validation_fraction=0")
    (row,) = [one for one in splits.examples["train"] if "5726eb8bf1498d1400e8efe2" in one.where()]
    assert ":7825, article 'Immune_system'" in row.where()
    (metric,) = task.metrics()
    assert task.gold(row)["answers"] == ["自身免疫性疾病"]
    metric.update(task.gold(row), "免疫性疾病。")
    assert metric.compute().values == {"exact_match": 0.0, "answer_f1": pytest.approx(10 / 12)}
