"""Lines of running jobs are written anew on a terminal, and nowhere else."""

from __future__ import annotations

import io
import os
import shutil
import sys

import pytest

from chainft.cli.live import LiveLines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_take_the_place_of_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((10, 24)))
    lines = LiveLines()
    lines.show(["a", "b" * 50])
    lines.show(["a", "b" * 50])
    lines.show(["c"])
    lines.clear()
    lines.clear()
    assert terminal.getvalue() == f"a\n{'b' * 9}\n\x1b[2F\x1b[Jc\n\x1b[1F\x1b[J"


def test_nothing_is_written_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = LiveLines()
    lines.show(["a"])
    lines.clear()
    assert capsys.readouterr().out == ""
