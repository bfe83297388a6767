"""The one live display of a console: rich allows a single one, so all progress bars share it."""

from __future__ import annotations

from functools import cache

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from chainft.report.words import printable

_BAR_WIDTH = 16
_NAME_WIDTH = 20


class Live:
    """Starts with its first bar and ends with its last, so that no cursor stays hidden."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=_BAR_WIDTH),
            _Facts(console),
            console=console,
            transient=True,
            refresh_per_second=5,
        )

    def add(self, name: str, total: int) -> Bar:
        """A new bar below the others."""
        if not self._progress.tasks:
            self._progress.start()
        task = self._progress.add_task(printable(name)[:_NAME_WIDTH], total=max(total, 1), facts=())
        return Bar(self, task)

    def move(self, task: TaskID, done: int, facts: list[str]) -> None:
        self._progress.update(task, completed=done, facts=facts)

    def remove(self, task: TaskID) -> None:
        self._progress.remove_task(task)
        if not self._progress.tasks:
            self._progress.stop()


class Bar:
    """One line of the display."""

    def __init__(self, live: Live, task: TaskID) -> None:
        self._live = live
        self._task = task

    def move(self, done: int, facts: list[str]) -> None:
        """Set how much is done and what stands beside it, most important first."""
        self._live.move(self._task, done, facts)

    def close(self) -> None:
        """Take the line away; call once."""
        self._live.remove(self._task)


class _Facts(ProgressColumn):
    """Done/total, then as many facts as fit on the line."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> Text:
        line = f"{int(task.completed):,}/{int(task.total or 0):,}"
        room = self._console.width - min(cell_len(task.description), _NAME_WIDTH) - _BAR_WIDTH - 4
        for fact in task.fields.get("facts", ()):
            if cell_len(line) + 2 + cell_len(fact) > room:
                break
            line += f"  {fact}"
        return Text(line, no_wrap=True)


def is_live(console: Console) -> bool:
    """Whether lines on this console can be redrawn: a terminal that understands cursor movements."""
    return console.is_terminal and not console.is_dumb_terminal


@cache
def live_on(console: Console) -> Live:
    """The display of a console."""
    return Live(console)
