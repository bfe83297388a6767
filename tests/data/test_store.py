"""The tokenised store: what goes in comes out, damage is noticed, writers do not disturb each other."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chainft.data.example import Example, Origin
from chainft.data.store import FeatureStore, open_store
from chainft.errors import StorageError

Pairs = Callable[..., list[Example]]
TEXTS = st.lists(st.text(alphabet="ab 🙂é\u200b", max_size=20), max_size=8)


def entry(cache: Path) -> Path:
    (folder,) = [one for one in (cache / "store").iterdir() if not one.name.startswith(".")]
    return folder


@given(texts=TEXTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_what_goes_in_comes_out(texts: list[str], word_task: Any, tmp_path: Path) -> None:
    task = word_task()
    rows = [Example({"text": text, "label": "x"}, Origin("f", line)) for line, text in enumerate(texts)]
    store = open_store(rows, task, cache_dir=tmp_path, split="train")
    expected = [feature for row in rows for feature in task.encode(row)]
    assert len(store) == len(expected)
    for index, feature in enumerate(expected):
        assert {name: values.tolist() for name, values in store[index].items()} == {
            name: values.tolist() for name, values in feature.items()
        }
    assert store.lengths.tolist() == [len(feature["input_ids"]) for feature in expected]
    assert [len(task.encode(row)) for row in rows] == np.diff(store.first_of).tolist()
    assert store.example_of.tolist() == [i for i, row in enumerate(rows) for _ in task.encode(row)]


def test_a_second_opening_tokenises_nothing(word_task: Any, examples: Pairs, tmp_path: Path) -> None:
    rows = examples(("one two", "x"), ("three", "y"))
    first = open_store(rows, word_task(), cache_dir=tmp_path, split="train")
    task = word_task()
    task.encode = None
    assert open_store(rows, task, cache_dir=tmp_path, split="train").key == first.key


def test_whatever_changes_the_features_makes_another_entry(word_task: Any, examples: Pairs, tmp_path: Path) -> None:
    """fault 16: by content, whatever the file's size and time."""
    rows = examples(("one two", "x"))

    def key(task: Any, chosen: list[Example]) -> str:
        return open_store(chosen, task, cache_dir=tmp_path, split="train").key

    keys = {
        key(word_task(), rows),
        key(word_task(), examples(("one twx", "x"))),
        key(word_task(), examples(("one two", "z"))),
        key(word_task(tokenizer="others"), rows),
        key(word_task(max_length=4), rows),
    }
    assert len(keys) == 5
    assert key(word_task(), examples(("one two", "x"), file="moved.csv")) in keys


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "meta", "meta-type"])
def test_a_damaged_entry_is_named_and_made_again(
    damage: str, word_task: Any, examples: Pairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = examples(("one two three four", "x"), ("five", "y"))
    before = open_store(rows, word_task(), cache_dir=tmp_path, split="train")
    expected = [before[index]["input_ids"].tolist() for index in range(len(before))]
    file = entry(tmp_path) / "input_ids.values"
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[5] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-1])
    elif damage == "remove":
        file.unlink()
    else:
        (entry(tmp_path) / "meta.json").write_text("{" if damage == "meta" else "[1]", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        again = open_store(rows, word_task(), cache_dir=tmp_path, split="train")
    assert [again[index]["input_ids"].tolist() for index in range(len(again))] == expected
    assert "damaged" in caplog.text
    assert ("meta.json" if damage.startswith("meta") else "input_ids.values") in caplog.text


def test_progress_may_stop_the_work_and_leaves_nothing(word_task: Any, examples: Pairs, tmp_path: Path) -> None:
    """fault 26"""

    class Stop(Exception):
        pass

    told = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done:
            raise Stop

    with pytest.raises(Stop):
        open_store(examples(("a", "b")), word_task(), cache_dir=tmp_path, split="train", progress=stop)
    assert told == [(0, 1), (1, 1)], "the clock of a progress begins with the work"
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_says_so(word_task: Any, examples: Pairs, tmp_path: Path) -> None:
    """fault 28"""
    tmp_path.chmod(stat.S_IREAD | stat.S_IEXEC)
    with pytest.raises(StorageError, match="cannot write"):
        open_store(examples(("a", "b")), word_task(), cache_dir=tmp_path / "x", split="train")


def test_a_file_in_the_place_of_the_cache_says_so(word_task: Any, examples: Pairs, tmp_path: Path) -> None:
    """fault 28"""
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot write") as caught:
        open_store(examples(("a", "b")), word_task(), cache_dir=tmp_path / "file", split="train")
    assert "data.cache_dir" in caught.value.render()


def _open(make: Any, rows: list[Example], cache: Path, results: Any) -> None:
    store: FeatureStore = open_store(rows, make(), cache_dir=cache, split="train")
    results.put([store[index]["input_ids"].tolist() for index in range(len(store))])


def test_writers_at_the_same_time_get_the_same(word_task: Any, examples: Pairs, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    rows = examples(*((f"{'x ' * (number % 9)}end", "label") for number in range(400)))
    results = context.Queue()
    workers = [context.Process(target=_open, args=(word_task, rows, tmp_path, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert all(one == found[0] for one in found)
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_a_full_disk_is_told_with_folder_and_bytes(word_task: Any, examples: Pairs, tmp_path: Path) -> None:
    """fault 27"""
    rows = examples(*((f"{'x ' * 30}{number}", "label") for number in range(20_000)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError) as caught:
            open_store(rows, word_task(), cache_dir=tmp_path, split="train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    text = caught.value.render()
    assert caught.value.exit_code == 7
    assert str(tmp_path) in text
    assert re.search(r"[1-9][0-9,]+ bytes were written, [0-9,]+ are free", text)
    assert list((tmp_path / "store").iterdir()) == []


def test_what_a_killed_writer_left_is_removed(word_task: Any, examples: Pairs, tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    root, host = tmp_path / "store", socket.gethostname()
    orphan = root / f".key.tmp-{host}-{int(ended.stdout)}-0123"
    working, foreign = root / f".key.tmp-{host}-{os.getpid()}-0123", root / ".key.tmp-other-host-1-0123"
    for folder in (orphan, working, foreign):
        folder.mkdir(parents=True)
    open_store(examples(("one", "x")), word_task(), cache_dir=tmp_path, split="train")
    assert not orphan.exists()
    assert working.exists() and foreign.exists()


def test_features_longer_than_a_block_come_out(word_task: Any, examples: Pairs, tmp_path: Path) -> None:
    rows = examples(*((" ".join(["x" * (number % 7 + 1)] * 3), "label") for number in range(70_000)))
    store = open_store(rows, word_task(), cache_dir=tmp_path, split="train")
    for index in (0, 1, 21_845, 65_535, 65_536, 69_999):
        assert store[index]["input_ids"].tolist() == [index % 7 + 1] * 3
        assert store[index]["labels"].tolist() == [5]


def test_the_last_call_of_the_tokenizer_does_not_matter(tiny_encoder: Path, tmp_path: Path) -> None:
    """A fast tokenizer remembers truncation and padding: the same entry must be found after any call."""
    from transformers import AutoTokenizer

    from chainft.data.store import _tokenizer_content

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    before = _tokenizer_content(tokenizer)
    tokenizer("a b c", truncation=True, max_length=4, padding="max_length")
    assert tokenizer.backend_tokenizer.truncation is not None
    assert _tokenizer_content(tokenizer) == before
    tokenizer.add_tokens(["zebra"])
    assert _tokenizer_content(tokenizer) != before
