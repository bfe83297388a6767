"""Tables with one turn of a conversation a row: which conversation, which turn, who speaks, what is said.

The rows of a conversation stand together, their turn numbers rise. The rows become one example with `messages`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from chainft.config.run import DataConfig
from chainft.data.columns import look_up
from chainft.data.example import Example, Origin
from chainft.data.sources.base import Source
from chainft.data.sources.csv import CsvConfig, CsvSource
from chainft.errors import ConfigError, DataError, Problem, did_you_mean
from chainft.text.conversation import ROLES

_USUAL: Mapping[str, tuple[str, ...]] = {
    "conversation": ("conversation_id", "conversationId", "conversation", "dialogue_id", "dialog_id", "dialogueId"),
    "turn": ("turn_number", "turnNumber", "turn_id", "turn", "turn_idx", "utterance_idx"),
    "role": ("role", "speaker", "authorRole", "author_role", "author", "from"),
    "text": ("text", "content", "utterance", "message", "value"),
}
"""What the columns are often called."""


@dataclass(frozen=True, kw_only=True)
class TurnsConfig(CsvConfig):
    """A table as text, comma- or tab-separated, with one turn of a conversation a row."""

    conversation_column: str | None = None
    """Which column tells conversations apart; default: a usual name, such as conversation_id or conversationId."""
    turn_column: str | None = None
    """Which column has the number of the turn; default: a usual name, such as turn or turnNumber."""
    role_column: str | None = None
    """Which column says who speaks; default: a usual name, such as role, speaker or authorRole."""
    text_column: str | None = None
    """Which column says what; default: a usual name, such as text or utterance."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """What each name in the role column is, for example {agent: assistant, customer: user}."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.columns:
            raise ConfigError(
                f"data.columns={dict(self.columns)} has no effect: a conversation is many rows",
                slug="no-effect",
                key="data.columns",
                help="name columns by data.conversation_column, data.turn_column, data.role_column, data.text_column",
            )
        for name, role in self.roles.items():
            if role not in ("system", "user", "assistant"):
                raise ConfigError(
                    f"data.roles.{name} = {role!r}: expected system, user or assistant",
                    slug="unknown-role",
                    key=f"data.roles.{name}",
                    help=did_you_mean(role, ROLES),
                )


@dataclass
class _Conversation:
    """Rows that were read of one conversation."""

    name: str
    first: Example
    messages: list[dict[str, str]]
    lines: list[int]
    number: float = -math.inf
    """Of the last turn."""
    problem: Problem | None = None
    """The first thing that is wrong with it."""

    def done(self) -> Example | Problem:
        origin = Origin(self.first.origin.file, self.lines[0])
        return self.problem or Example({"messages": self.messages}, origin, tuple(self.lines))


class TurnsSource(Source):
    """Reads CSV and TSV as `csv` does; holds one conversation at a time, and the names of all."""

    config_class: ClassVar[type[DataConfig]] = TurnsConfig
    reads_files: ClassVar[bool] = True
    config: TurnsConfig

    def read(self, file: str) -> Iterator[Example | Problem]:
        names: dict[str, str] = {}
        seen: set[str] = set()
        current: _Conversation | None = None
        for row in self._table().read(file):
            if isinstance(row, Problem):
                yield row  # Of which conversation is not known; that lacks a turn then.
                continue
            names = names or self._columns(row, file)
            name = str(row.values[names["conversation"]])
            if current is None or name != current.name:
                if current is not None:
                    yield current.done()
                current = _Conversation(name, row, [], [])
                if name in seen:
                    current.problem = _scattered(name, row)
                seen.add(name)
            self._add(current, row, names)
        if current is not None:
            yield current.done()

    def column_names(self, file: str) -> tuple[str, ...]:
        return ("messages",) if self._table().column_names(file) else ()

    def _table(self) -> CsvSource:
        """The rows, under the same settings."""
        given = {one.name: getattr(self.config, one.name) for one in fields(CsvConfig)}
        return CsvSource(CsvConfig(**given))

    def _columns(self, row: Example, file: str) -> dict[str, str]:
        """Which column is what. Raises DataError that lists the columns there are."""
        found: dict[str, str] = {}
        wrong = []
        for part, usual in _USUAL.items():
            chosen: str | None = getattr(self.config, f"{part}_column")
            column = chosen if chosen is not None else next((name for name in usual if name in row.values), None)
            if column is None or column not in row.values:
                what = f"no column {chosen!r}" if chosen is not None else f"no column holds the {part}"
                help = did_you_mean(chosen or "", row.values) or f"say which one it is: data.{part}_column=COLUMN"
                there = f"{what}; there are: {', '.join(row.values)}"
                wrong.append(Problem("no-column", there, file, f"data.{part}_column", help))
            else:
                found[part] = column
        if wrong:
            raise DataError.of(wrong)
        return found

    def _add(self, to: _Conversation, row: Example, names: Mapping[str, str]) -> None:
        role, text = (str(look_up(row.values, names[part])) for part in ("role", "text"))
        number = _number(row.values[names["turn"]])
        if number is None or number <= to.number:
            to.problem = to.problem or _unordered(to, row, names["turn"])
        to.number = to.number if number is None else number
        to.messages.append({"role": self.config.roles.get(role, role), "content": text})
        to.lines.append(row.origin.line)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _scattered(name: str, row: Example) -> Problem:
    return Problem(
        "scattered-conversation",
        f"conversation {name!r} goes on here, after others began",
        row.where(),
        help="sort the table by conversation and turn",
    )


def _unordered(to: _Conversation, row: Example, column: str) -> Problem:
    value = row.values[column]
    if _number(value) is None:
        return Problem("bad-turn-number", f"column {column!r}: {value!r} is not the number of a turn", row.where())
    return Problem(
        "turn-order",
        f"turn {value} of conversation {to.name!r} comes after turn {to.number:g}",
        row.where(),
        help="sort the table by conversation and turn; a number may come once in a conversation",
    )


PLUGIN = TurnsSource
