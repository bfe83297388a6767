"""Lines at the end of a terminal that are written anew while work goes on; nothing where there is no terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence


class LiveLines:
    """The lines that stand there now."""

    def __init__(self) -> None:
        self._shown: list[str] = []

    def show(self, lines: Sequence[str]) -> None:
        """Put these lines in the place of the last ones, each cut to the width of the terminal."""
        if not sys.stdout.isatty():
            return
        size = shutil.get_terminal_size()
        cut = [line[: size.columns - 1] for line in lines[: size.lines - 1]]
        if cut != self._shown:
            self.clear()
            print("".join(f"{line}\n" for line in cut), end="", flush=True)
            self._shown = cut

    def clear(self) -> None:
        """Take them away, before a line that stays."""
        if self._shown:
            print(f"\x1b[{len(self._shown)}F\x1b[J", end="", flush=True)
        self._shown = []
