"""Completion offers commands, groups, values and keys, in the shells too."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chainft.cli.completion import SCRIPTS, candidates
from chainft.cli.main import main


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("chainft tr", ["train"]),
        ("chainft train optimi", ["optimizer=", "optimizer."]),
        ("chainft train optimizer.l", ["optimizer.lr="]),
        ("chainft train optimizer=s", ["optimizer=sgd"]),
        ("chainft train +optimizer=s", ["+optimizer=sgd"]),
        ("chainft train train.mixed_precision=b", ["train.mixed_precision=bf16"]),
        ("chainft train resume=", ["resume=true", "resume=false"]),
        ("chainft train task.sch", ["task.scheme="]),
        ("chainft train -m sweep.num_t", ["sweep.num_trials="]),
        ("chainft train --conf", ["--config-dir", "--config-name"]),
        ("chainft config s", ["show"]),
        ("chainft config show optimizer.l", ["optimizer.lr"]),
        ("chainft completion z", ["zsh"]),
        ("chainft cache c", ["clear"]),
        ("chainft cache ls --old", ["--older-than"]),
        ("chainft check d", ["data"]),
        ("chainft bench --r", ["--rounds"]),
        ("chainft bench optimizer.l", ["optimizer.lr="]),
        ("chainft predict runs/", []),
        ("chainft train nothing.like.this", []),
    ],
)
def test_last_word_is_completed(line: str, expected: list[str]) -> None:
    assert candidates(line) == expected


def test_every_completed_key_is_a_setting() -> None:
    keys = [word.rstrip("=") for word in candidates("chainft train train.")]
    assert "train.batch_size" in keys and len(keys) > 5


@pytest.mark.parametrize("shell", SCRIPTS)
def test_script_is_printed_and_is_valid(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", shell]) == 0
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    subprocess.run([program, "-n", str(script)], check=True)


@pytest.mark.parametrize(
    ("line", "words", "index", "expected"),
    [
        ("chainft train optimizer=s", ["chainft", "train", "optimizer", "=", "s"], 4, ["sgd"]),
        ("chainft train optimizer=", ["chainft", "train", "optimizer", "="], 3, ["adafactor", "adamw"]),
        ("chainft tr", ["chainft", "tr"], 1, ["train"]),
        (
            "chainft train train.mixed_precision=b",
            ["chainft", "train", "train.mixed_precision", "=", "b"],
            4,
            ["bf16"],
        ),
    ],
)
def test_bash_completes_after_equals_signs(
    line: str, words: list[str], index: int, expected: list[str], tmp_path: Path
) -> None:
    """Readline cuts words at `=`; what is given back must continue the last piece."""
    (tmp_path / "chainft").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m chainft "$@"\n', encoding="utf-8")
    (tmp_path / "chainft").chmod(0o755)
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"""
        PATH="{tmp_path}:$PATH"; compopt() {{ :; }}
        eval "$(chainft completion bash)"
        COMP_LINE='{line}' COMP_POINT={len(line)} COMP_WORDS=({quoted}) COMP_CWORD={index}
        _chainft; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[: len(expected)] == expected
