"""Features made by several processes: the same as by one, in order, whatever becomes of the processes."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chainft.data import encoding
from chainft.data.encoding import encoded
from chainft.data.example import Example
from chainft.errors import DataError

Pairs = Callable[..., list[Example]]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CHUNK", 4)
    monkeypatch.setattr(encoding, "LEAST", 4)


@pytest.fixture
def rows(examples: Pairs) -> list[Example]:
    return examples(*((f"{'x ' * (number % 9)}{'y' * number}", "label") for number in range(67)))


def plain(features: Any) -> Any:
    return [[{name: values.tolist() for name, values in one.items()} for one in windows] for windows in features]


def processes() -> list[Any]:
    return [one for one in multiprocessing.active_children() if one.name.startswith("encode-")]


@pytest.mark.parametrize("num_workers", [1, 2, 3, 40])
def test_processes_make_what_one_makes_in_order(num_workers: int, word_task: Any, rows: list[Example]) -> None:
    task = word_task()
    found = encoded(task, rows, num_workers=num_workers)
    first = next(found)
    assert bool(processes()) == (num_workers > 1)
    assert plain([first, *found]) == plain(map(task.encode, rows))
    assert not processes()


def test_an_error_is_that_of_the_first_example_that_has_one(
    word_task: Any, rows: list[Example], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    task = word_task()
    encode = task.encode

    def picky(example: Example) -> Any:
        if example.origin.line in (40, 41, 60):
            raise DataError(f"bad row {example.origin.line}", slug="bad")
        return encode(example)

    task.encode = picky
    found: list[Any] = []
    with pytest.raises(DataError, match="bad row 40"):
        found.extend(encoded(task, rows, num_workers=2))
    assert plain(found) == plain(map(encode, rows[:38]))
    assert not processes()
    assert not caplog.text and capfd.readouterr().err == ""


def test_the_work_of_a_killed_process_is_done_and_told(
    word_task: Any, rows: list[Example], caplog: pytest.LogCaptureFixture
) -> None:
    task, parent = word_task(), os.getpid()
    encode = task.encode

    def deadly(example: Example) -> Any:
        if os.getpid() != parent and example.origin.line == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(example)

    task.encode = deadly
    with caplog.at_level(logging.WARNING):
        assert plain(encoded(task, rows, num_workers=3)) == plain(map(encode, rows))
    assert "SIGKILL" in caplog.text
    assert not processes()


def test_where_no_process_can_be_started_this_one_does_the_work(
    word_task: Any, rows: list[Example], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = encoding._start

    def scarce(*given: Any) -> Any:
        if given[2] == 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return start(*given)

    monkeypatch.setattr(encoding, "_start", scarce)
    task = word_task()
    assert plain(encoded(task, rows, num_workers=3)) == plain(map(task.encode, rows))
    assert "cannot start processes" in caplog.text and "temporarily unavailable" in caplog.text
    assert not processes()


def test_a_task_may_compute_with_torch(rows: list[Example]) -> None:
    """The threads that torch has here are not there in a fork."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    class Task:
        def encode(self, example: Example) -> Any:
            return [{"input_ids": torch.ones(300, 300).mul(2).sum().numpy().reshape(1)}]

    task: Any = Task()
    try:
        expected = plain(map(task.encode, rows))
        assert plain(encoded(task, rows, num_workers=2)) == expected
    finally:
        torch.set_num_threads(before)


def test_a_process_that_is_killed_while_it_sends_is_told_too(
    word_task: Any, examples: Pairs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a pipe holds: its end comes in the middle of what is received."""
    monkeypatch.setattr(encoding, "CHUNK", 64)
    monkeypatch.setattr(encoding, "LEAST", 64)
    task, rows = word_task(), examples(*(("x " * 900, "label") for _ in range(256)))
    found = encoded(task, rows, num_workers=2)
    first = next(found)
    (other,) = [one for one in processes() if one.name == "encode-1"]
    time.sleep(1)  # Until it waits for room in the pipe.
    other.kill()
    with caplog.at_level(logging.WARNING):
        assert plain([first, *found]) == plain(map(task.encode, rows))
    assert "SIGKILL" in caplog.text
    assert not processes()


def _encode_all(task: Any, rows: list[Example], results: Any) -> None:
    results.put(plain(encoded(task, rows, num_workers=2)))


def test_a_process_that_may_start_none_does_the_work(word_task: Any, rows: list[Example]) -> None:
    context, task = multiprocessing.get_context("fork"), word_task()
    results = context.Queue()
    process = context.Process(target=_encode_all, args=(task, rows, results), daemon=True)
    process.start()
    assert results.get(timeout=60) == plain(map(task.encode, rows))
    process.join()


def test_left_in_the_middle_no_process_stays(word_task: Any, rows: list[Example]) -> None:
    found = encoded(word_task(), rows, num_workers=2)
    next(found)
    assert len(processes()) == 2
    found.close()
    assert not processes()


def test_the_setting_of_tokenizers_is_as_before(
    word_task: Any, rows: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    next(found := encoded(word_task(), rows, num_workers=2))
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    found.close()
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    next(found := encoded(word_task(), rows, num_workers=2))
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    found.close()


def test_processes_end_with_the_one_that_started_them() -> None:
    """fault 24: killed, it cannot tell them."""
    code = """
        import multiprocessing, os, signal
        from chainft.data import encoding

        class Task:
            def encode(self, example):
                return [{"input_ids": example * 1000}]

        encoding.CHUNK, encoding.LEAST = 50, 50
        found = encoding.encoded(Task(), ["x" * 100] * 5000, num_workers=3)
        next(found)
        print(*(one.pid for one in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    numbers = [int(one) for one in ended.stdout.split()]
    assert len(numbers) == 3
    until = time.monotonic() + 20
    while any(_runs(number) for number in numbers):
        assert time.monotonic() < until, "a process outlived its parent"
        time.sleep(0.05)


def _runs(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_fast_tokenizer_works_in_forks_after_it_was_used_here(tiny_encoder: Any, examples: Pairs) -> None:
    """Its own threads, started before, are not there in a fork."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer(["an apple", "the old river"] * 64)

    class Task:
        def encode(self, example: Example) -> Any:
            return [{"input_ids": tokenizer(example.values["text"])["input_ids"]}]

    rows = examples(*((f"the old river {number}", "x") for number in range(40)))
    task: Any = Task()
    assert list(encoded(task, rows, num_workers=2)) == [task.encode(row) for row in rows]
