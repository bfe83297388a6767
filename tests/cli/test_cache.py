"""`chainft cache` lists and removes what chainft keeps for later runs, and nothing else."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chainft.cli.main import main
from chainft.data.cache import cache_entries, remove_entry
from chainft.data.prefix_layout import Layout
from chainft.data.prefix_store import PrefixEntry, Shape

LENGTHS = np.array([2, 3])
KEYS = ("a" * 40, "ab" * 20)
STORE = "c" * 40


def prefix_entry(cache: Path, key: str) -> PrefixEntry:
    about = {"model": "BertModel", "blocks": "embeddings, 0:4"}
    return PrefixEntry(cache / "prefix" / key, Layout(LENGTHS, 16), Shape(4, "float32", "float32"), about)


def zeros(rows: np.ndarray) -> Tensor:
    return torch.zeros(int(LENGTHS[rows].sum()), 4)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two entries of outputs, one of them not used for ten days, and a tokenised one."""
    folder = tmp_path / "cache"
    for key in KEYS:
        prefix_entry(folder, key).open(zeros, tell=lambda done, total: None)
    store = folder / "store" / STORE
    store.mkdir(parents=True)
    (store / "input_ids.values").write_bytes(b"12345678")
    (store / "meta.json").write_text(json.dumps({"examples": 2, "columns": {"input_ids": "int32"}}), encoding="utf-8")
    before = time.time() - 10 * 86_400
    os.utime(folder / "prefix" / KEYS[0] / "meta.json", (before, before))
    monkeypatch.setenv("CHAINFT_CACHE", str(folder))
    return folder


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["cache", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_entries_are_listed_for_people(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls"]) == 0
    text = capsys.readouterr().out
    assert "3 entries" in text and "embeddings, 0:4" in text and STORE[:12] in text


def test_entries_are_listed_for_programs(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = shown(capsys, "ls")
    assert [(one["kind"], one["key"]) for one in facts["entries"]][-1] == ("prefix", KEYS[0])
    assert {(one["kind"], one["examples"]) for one in facts["entries"]} == {("prefix", 2), ("store", 2)}
    assert facts["bytes"] == sum(one["bytes"] for one in facts["entries"]) > 160


def test_an_empty_cache_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "ls", "--dir", str(tmp_path / "nowhere"))["entries"] == []


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        ([], {*KEYS, STORE}),
        (["--older-than", "5"], {KEYS[0]}),
        (["--older-than", "50"], set()),
        ([STORE[:12], "aba"], {STORE, KEYS[1]}),
    ],
)
def test_chosen_entries_are_removed(
    cache: Path, capsys: pytest.CaptureFixture[str], words: list[str], gone: set[str]
) -> None:
    facts = shown(capsys, "clear", *words)
    assert {one["key"] for one in facts["entries"] if one["removed"]} == gone
    assert {one.key for one in cache_entries(cache)} == {*KEYS, STORE} - gone
    assert {path.name for path in (cache / "prefix").glob("*/")} == set(KEYS) - gone


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list"], "cannot 'list'"),
        (["ls", "d"], "no entry begins with 'd'"),
        (["clear", "a"], "2 entries begin with 'a'"),
        (["clear", "--older-than", "x"], "whole number of days"),
    ],
)
def test_what_is_not_there_is_named(
    cache: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["cache", *words]) == 2
    assert message in capsys.readouterr().err
    assert len(cache_entries(cache)) == 3


def test_what_is_not_ours_is_neither_listed_nor_touched(
    cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    theirs = [cache / "notes.txt", cache / "prefix" / "mine" / "a.hidden", cache / "store" / STORE / "diary.txt"]
    outside = tmp_path / "outside"
    outside.mkdir()
    theirs += [outside / "meta.json", cache / "prefix" / KEYS[0] / "below" / "x"]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("kept", encoding="utf-8")
    (cache / "prefix" / ("e" * 40)).symlink_to(outside)
    assert [one["key"] for one in shown(capsys, "clear")["entries"]] == [KEYS[1]]
    assert all(path.read_text(encoding="utf-8") == "kept" for path in theirs)
    assert (cache / "prefix" / ("e" * 40)).is_symlink()


def test_an_unfinished_entry_is_listed_and_removed(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "prefix" / KEYS[0] / "meta.json").write_text("{", encoding="utf-8")
    (cache / "prefix" / KEYS[0] / ".00001.tmp-host-1-0").write_bytes(b"")
    assert [one["examples"] for one in shown(capsys, "ls", KEYS[0])["entries"]] == [None]
    shown(capsys, "clear", KEYS[0])
    assert not (cache / "prefix" / KEYS[0]).exists()


def test_an_entry_that_is_being_computed_stays(cache: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begun, end = context.Event(), context.Event()

    def build() -> None:
        def wait(rows: np.ndarray) -> Tensor:
            begun.set()
            end.wait(30)
            return zeros(rows)

        prefix_entry(cache, "f" * 40).open(wait, tell=lambda done, total: None)

    process = context.Process(target=build)
    process.start()
    assert begun.wait(30)
    (entry,) = [one for one in cache_entries(cache) if one.key == "f" * 40]
    assert not remove_entry(entry)
    end.set()
    process.join()
    assert process.exitcode == 0
    assert remove_entry(entry) and not entry.path.exists()
