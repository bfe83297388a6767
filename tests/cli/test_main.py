"""The command finds its verb, prints failures in one shape, and is quick."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from chainft import __version__
from chainft.cli import main as cli
from chainft.errors import DataError, Problem


def verb(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    """Make `chainft train` call `run`."""
    monkeypatch.setitem(sys.modules, "chainft.cli.train", types.SimpleNamespace(run=run))  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in cli.VERBS)


@pytest.mark.parametrize("words", [["--version"], ["-V"]])
def test_version_is_printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    assert capsys.readouterr().out == f"chainft {__version__}\n"


@pytest.mark.parametrize(
    ("words", "help"),
    [
        (["trian"], "did you mean 'train'?"),
        (["eval"], "did you mean 'evaluate'?"),
        (["fine-tune"], "did you mean 'train'?"),
        (["task=ner", "seed=1"], "did you mean 'chainft train task=ner seed=1'?"),
        (["--versoin"], "did you mean '--version'?"),
        (["--errors", "xml", "train"], ""),
        (["train", "--confg"], "did you mean '--cfg'?"),
        (["train", "--learning-rate=3"], "settings have no dashes: learning_rate=..."),
        (["train", "--cfg", "jobs"], "did you mean 'job'?"),
        (["train", "--config-dir"], ""),
        (["train", "-m=3"], ""),
        (["config", "shw"], "did you mean 'show'?"),
        (["completion", "bsh"], "did you mean 'bash'?"),
        (["doctor", "x"], ""),
        (["predict", "run", "--batch-size", "0"], "see 'chainft predict --help'"),
        (["predict"], "RUN_FOLDER is required\n  help: chainft predict RUN_FOLDER ...; see 'chainft predict --help'"),
        (
            ["evaluate"],
            "RUN_FOLDER is required\n  help: chainft evaluate RUN_FOLDER ...; see 'chainft evaluate --help'",
        ),
        (["evaluate", "run", "--split", "dev"], "see 'chainft evaluate --help'"),
    ],
)
def test_wrong_command_line_ends_with_2_and_a_hint(
    words: list[str], help: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error[config/") and help in printed.err
    assert "Traceback" not in printed.err and printed.out == ""


def test_failure_is_printed_with_place_key_and_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> int:
        raise DataError("label 'PERS' is unknown", slug="unknown-label", where="a.conll:3", key="data.train", help="x")

    verb(monkeypatch, fail)
    assert cli.main(["train"]) == 3
    assert capsys.readouterr().err == (
        "error[data/unknown-label]: label 'PERS' is unknown\n  --> a.conll:3\n  config: data.train\n  help: x\n"
    )


@pytest.mark.parametrize("flag", [["--errors", "json"], ["--errors=json"]])
def test_failure_as_json_holds_every_problem(
    flag: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> int:
        assert words == ["task=ner"]
        raise DataError.of([Problem("a", "one"), Problem("b", "two", key="k")])

    verb(monkeypatch, fail)
    assert cli.main(["train", *flag, "task=ner"]) == 3
    record = json.loads(capsys.readouterr().err)
    assert record["exit_code"] == 3
    assert [error["slug"] for error in record["errors"]] == ["a", "b"]


def test_words_after_two_dashes_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    verb(monkeypatch, lambda words: seen.extend(words) or 0)
    assert cli.main(["train", "--", "--errors", "json"]) == 0
    assert seen == ["--", "--errors", "json"]


def test_debug_adds_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CHAINFT_DEBUG", "1")
    assert cli.main(["trian"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: list[str]) -> int:
        raise ZeroDivisionError

    verb(monkeypatch, fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


def test_ctrl_c_ends_with_130_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fault 26"""

    def fail(words: list[str]) -> int:
        raise KeyboardInterrupt

    verb(monkeypatch, fail)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_inside_an_import_is_no_death_by_signal(tmp_path: Path) -> None:
    """fault 26: dataclasses and named tuples run code in strings, which CPython remembers as interrupted."""
    program = "import sys\nfrom chainft.cli import main\n"
    program += "main.run = lambda words: exec('raise KeyboardInterrupt')\nsys.exit(main.main(['train']))\n"
    (tmp_path / "interrupted.py").write_text(program)
    path = f"{tmp_path}{os.pathsep}{Path(cli.__file__).parents[2]}"
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m chainft config show data | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_command_works_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chainft", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_signals_of_the_parent_are_untouched_by_the_command() -> None:
    before = signal.getsignal(signal.SIGTERM)
    cli.main(["--version"])
    assert signal.getsignal(signal.SIGTERM) == before


def test_full_disk_behind_standard_output_ends_with_7(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """fault 27"""

    def fail(words: list[str]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    verb(monkeypatch, fail)
    monkeypatch.setattr(cli, "_discard_output", lambda: None)
    assert cli.main(["train"]) == 7
    assert capfd.readouterr().err.startswith("error[storage/disk-full]: cannot write the output: No space")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_told_without_traceback() -> None:
    """fault 27"""
    command = f"{sys.executable} -m chainft config show > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (7, 2), done.stderr
