"""Requests to stop: what each signal does, and that handlers are given back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from signal import Signals

import pytest

from chainft.errors import ChainftError, Interrupted, Stopped
from chainft.train.signals import HANDLED, StopRequest, resume_command

PROGRAM = """
import sys, time
from pathlib import Path
from chainft.errors import ChainftError
from chainft.train.signals import StopRequest
try:
    with StopRequest(Path("runs/mine")) as stop:
        print("ready", flush=True)
        for _ in range(500):
            time.sleep(0.01)
            if {check}:
                stop.check()
            if stop.signal:
                print("seen", flush=True)
except ChainftError as error:
    print(error.render(), file=sys.stderr)
    sys.exit(error.exit_code)
"""


def send(number: Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "kind", "exit_code", "name"),
    [
        (signal.SIGTERM, Stopped, 75, "SIGTERM"),
        (signal.SIGUSR1, Stopped, 75, "SIGUSR1"),
        (signal.SIGINT, Interrupted, 130, "Ctrl-C"),
    ],
)
def test_signal_sets_the_flag_and_check_raises(
    number: Signals, kind: type[ChainftError], exit_code: int, name: str
) -> None:
    """fault 26."""
    with StopRequest(Path("runs/mine")) as stop:
        stop.check()
        assert stop.signal is None
        send(number)
        assert stop.signal is number
        with pytest.raises(kind, match=f"stopped by {name}") as caught:
            stop.check()
    assert caught.value.exit_code == exit_code
    assert "go on with: chainft train run=runs/mine resume=true" in caught.value.render()


def test_repeated_sigterm_goes_on_saving() -> None:
    with StopRequest() as stop:
        for _ in range(3):
            send(signal.SIGTERM)
        assert stop.signal is signal.SIGTERM


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in HANDLED]
    with pytest.raises(KeyError), StopRequest():
        raise KeyError
    assert [signal.getsignal(number) for number in HANDLED] == before


def test_nested_contexts_share_the_flag() -> None:
    before = [signal.getsignal(number) for number in HANDLED]
    with StopRequest() as outer:
        handlers = [signal.getsignal(number) for number in HANDLED]
        with StopRequest() as inner:
            assert [signal.getsignal(number) for number in HANDLED] == handlers
            send(signal.SIGTERM)
            assert inner.signal is signal.SIGTERM
        assert outer.signal is signal.SIGTERM
        assert [signal.getsignal(number) for number in HANDLED] == handlers
    assert [signal.getsignal(number) for number in HANDLED] == before


def test_request_from_elsewhere_counts_as_the_signal() -> None:
    with StopRequest() as outer, StopRequest() as inner:
        inner.request(signal.SIGTERM)
        with pytest.raises(Stopped):
            outer.check()


def test_other_threads_leave_the_handlers_alone() -> None:
    before = [signal.getsignal(number) for number in HANDLED]
    seen: list[object] = []

    def work() -> None:
        with StopRequest() as stop:
            seen.extend(signal.getsignal(number) for number in HANDLED)
            stop.request(signal.SIGTERM)
            seen.append(stop.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [*before, signal.SIGTERM]


def start(check: bool) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(check=check)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_process_leaves_with_the_documented_exit_code(number: Signals, exit_code: int) -> None:
    """fault 26."""
    process = start(check=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == exit_code
    assert "stopping as soon as everything is saved" in errors
    assert "go on with: chainft train run=runs/mine resume=true" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_second_ctrl_c_leaves_at_once(first: Signals) -> None:
    """fault 26: even where nothing looks at the flag."""
    process = start(check=False)
    process.send_signal(first)
    assert process.stdout is not None
    assert process.stdout.readline() == "seen\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "leaving at once; go on with: chainft train run=runs/mine resume=true" in errors


@pytest.mark.parametrize(
    ("run", "command"),
    [
        ("runs/2026-01-02_03-04-05_ner", "chainft train run=runs/2026-01-02_03-04-05_ner resume=true"),
        ("my runs/a", "chainft train \"run='my runs/a'\" resume=true"),
        ("a=b,c", "chainft train \"run='a=b,c'\" resume=true"),
    ],
)
def test_command_to_go_on_is_quoted_for_shell_and_hydra(run: str, command: str) -> None:
    assert resume_command(Path(run)) == command


@pytest.mark.parametrize("run", ["my runs/a", "it's", "a=b,c", "$HOME!", 'say "x"', "ünïcode", "{a}", "[b]"])
def test_command_to_go_on_names_the_same_folder_after_shell_and_hydra(run: str) -> None:
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = shlex.split(resume_command(Path(run)))
    parsed = OverridesParser.create().parse_overrides(words[2:])
    assert [override.value() for override in parsed] == [run, True]
