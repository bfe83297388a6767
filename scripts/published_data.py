"""Data sets as published, read for the comparisons of `compare_trainer` and `bench_prefix`.

ner wnut17=FOLDER          wnut17train.conll, emerging.dev.conll, emerging.test.annotated
ner multidogo=FOLDER       finance.train.tsv, finance.dev.tsv, finance.test.tsv: what customers of a bank say
classify banking77=FOLDER  train.csv, test.csv
classify clinc150=FOLDER   data_full.json, without what is out of scope
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def add_data(parser: argparse.ArgumentParser) -> None:
    """The words that say which data."""
    parser.add_argument("task", choices=["ner", "classify"])
    parser.add_argument("data", help="NAME=FOLDER: " + ", ".join(f"{task} {name}" for task, name in READERS))


def write_splits(task: str, data: str, folder: Path) -> None:
    """Train, validation and test as JSON lines in `folder`."""
    name, _, source = data.partition("=")
    if (task, name) not in READERS or not source:
        raise SystemExit(f"unknown data {task} {data}: give one of {', '.join(f'{t} {n}=FOLDER' for t, n in READERS)}")
    for split, rows in READERS[task, name](Path(source)).items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def read_wnut17(folder: Path) -> dict[str, Rows]:
    """Of several tags of a token the first counts."""
    files = {"train": "wnut17train.conll", "validation": "emerging.dev.conll", "test": "emerging.test.annotated"}
    return {split: _read_conll(folder / file) for split, file in files.items()}


def read_multidogo(folder: Path) -> dict[str, Rows]:
    """Slots of turns; neighbours with one slot are one value. The ten turns with more or fewer slots than words are left out."""
    return {
        split: _read_turns(folder / f"finance.{part}.tsv")
        for split, part in (("train", "train"), ("validation", "dev"), ("test", "test"))
    }


def read_banking77(folder: Path) -> dict[str, Rows]:
    """A tenth of train, drawn with a fixed seed, is validation."""
    tables = {}
    for split in ("train", "test"):
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as stream:
            tables[split] = [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(stream)]
    random.Random(0).shuffle(tables["train"])
    held = len(tables["train"]) // 10
    return {"train": tables["train"][held:], "validation": tables["train"][:held], "test": tables["test"]}


def read_clinc150(folder: Path) -> dict[str, Rows]:
    """The 150 intents."""
    content = json.loads((folder / "data_full.json").read_text(encoding="utf-8"))
    names = {"train": "train", "validation": "val", "test": "test"}
    return {split: [{"text": text, "label": label} for text, label in content[name]] for split, name in names.items()}


def _read_conll(path: Path) -> Rows:
    rows: Rows = [{"tokens": [], "tags": []}]
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            rows.append({"tokens": [], "tags": []})
            continue
        token, tag = line.split("\t")[:2]
        rows[-1]["tokens"].append(token)
        rows[-1]["tags"].append(tag.split(",")[0])
    return [row for row in rows if row["tokens"]]


def _read_turns(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as stream:
        turns = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    pairs = [(turn["utterance"].split(), turn["slot-labels"].split()) for turn in turns]
    return [{"tokens": words, "tags": _iob2(slots)} for words, slots in pairs if words and len(words) == len(slots)]


def _iob2(slots: list[str]) -> list[str]:
    steps = pairwise(["O", *slots])
    return [slot if slot == "O" else f"{'I' if slot == before else 'B'}-{slot}" for before, slot in steps]


READERS: dict[tuple[str, str], Callable[[Path], dict[str, Rows]]] = {
    ("ner", "wnut17"): read_wnut17,
    ("ner", "multidogo"): read_multidogo,
    ("classify", "banking77"): read_banking77,
    ("classify", "clinc150"): read_clinc150,
}
