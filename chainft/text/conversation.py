"""Conversations: turns of system, user and assistant, read from the forms in which data have them.

A turn is `{role, content}`, or `{from, value}` as ShareGPT writes it (human, gpt). Neighbouring turns of one role are
one turn. An assistant's turn is learned where a user's turn comes before it; a greeting before any is only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chainft.errors import Problem, did_you_mean
from chainft.text.inputs import text_problems

Role = Literal["system", "user", "assistant"]
ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "human": "user",
    "gpt": "assistant",
}
"""What a role may be called, and what it is."""
_ROLE_KEYS, _TEXT_KEYS = ("role", "from"), ("content", "value")
BETWEEN = "\n"
"""Stands between the texts of neighbouring turns of one role."""


@dataclass(frozen=True)
class Turn:
    """What one of the three says."""

    role: Role
    content: str

    def as_message(self) -> dict[str, str]:
        """As chat templates and JSON have it."""
        return {"role": self.role, "content": self.content}


def turns_of(value: Any) -> list[Turn]:
    """The turns of a value in which `turn_problems` finds nothing, without blanks around, neighbours of a role joined.

    >>> [turn.content for turn in turns_of([{"from": "human", "value": "a"}, {"from": "human", "value": "b "}])]
    ['a\\nb']
    """
    return joined(Turn(ROLES[_take(one, _ROLE_KEYS)], _take(one, _TEXT_KEYS).strip()) for one in value)


def joined(turns: Iterator[Turn]) -> list[Turn]:
    """Neighbouring turns of one role as one."""
    found: list[Turn] = []
    for turn in turns:
        if found and found[-1].role == turn.role:
            found[-1] = Turn(turn.role, f"{found[-1].content}{BETWEEN}{turn.content}")
        else:
            found.append(turn)
    return found


def answered(turns: Sequence[Turn]) -> list[int]:
    """The places of the assistant's turns that answer a user: all after the first user's turn."""
    first = next((place for place, turn in enumerate(turns) if turn.role == "user"), len(turns))
    return [place for place, turn in enumerate(turns) if turn.role == "assistant" and place > first]


def turn_problems(value: Any, where: Callable[[int | None], str]) -> Iterator[Problem]:
    """What keeps a value from being a conversation; `where`: the place of a turn by its number, or of the whole."""
    if not isinstance(value, list) or not value:
        shown = "an empty list" if value == [] else f"{type(value).__name__}"
        help = (
            'a conversation is a list: [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
        )
        yield Problem("not-a-conversation", f"messages must be a list of turns, not {shown}", where(None), help=help)
        return
    for number, one in enumerate(value):
        yield from _of_turn(one, number, where(number))


def answer_problems(value: Sequence[Any], where: str) -> Iterator[Problem]:
    """What keeps a sound conversation from teaching anything: nobody answers a user."""
    if not answered(turns_of(value)):
        roles = [_take(one, _ROLE_KEYS) for one in value]
        yield Problem(
            "no-assistant-turn",
            f"no assistant's turn comes after a user's: the roles are {', '.join(roles[:6])}{', ...' * (len(roles) > 6)}",
            where,
            help="remove the conversation, or correct the roles (in a table of turns: data.roles)",
        )


def _of_turn(one: Any, number: int, where: str) -> Iterator[Problem]:
    name = f"turn {number + 1}"
    if not isinstance(one, Mapping):
        yield Problem("not-a-turn", f"{name} must be an object with role and content, not {one!r:.40}", where)
        return
    role, content = _take(one, _ROLE_KEYS), _take(one, _TEXT_KEYS)
    if not isinstance(role, str) or role not in ROLES:
        missing = role is None
        near = did_you_mean(str(role), ROLES)
        yield Problem(
            "unknown-role",
            f"{name} has no role; its keys are: {', '.join(map(str, one))}"
            if missing
            else f"{name} has the role {role!r}",
            where,
            help=near
            or f"roles are {', '.join(ROLES)}; in a table of turns give others by data.roles, such as {{agent: assistant}}",
        )
    elif ROLES[role] == "system" and number > 0:
        yield Problem("late-system-turn", f"{name} is the system's, which may only open a conversation", where)
    if content is None:
        yield Problem("no-content", f"{name} has no content; its keys are: {', '.join(map(str, one))}", where)
        return
    wrong = list(text_problems(content, f"the content of {name}", where))
    yield from wrong
    if not wrong and not content.strip():
        yield Problem("empty-turn", f"{name} ({role}) is empty", where, help="remove the turn, or the conversation")


def _take(one: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((one[key] for key in keys if one.get(key) is not None), None)
