"""A turn a row becomes a conversation an example, and what is wrong with a table is told by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chainft.config.compose import compose
from chainft.config.parse import parse
from chainft.data.example import Example
from chainft.data.load import load_splits
from chainft.data.sources.turns import TurnsConfig, TurnsSource
from chainft.errors import ConfigError, DataError, Problem
from chainft.tasks.dialogue import Dialogue, DialogueConfig

HEADER = "conversationId\tturnNumber\tauthorRole\tutterance\n"
ROWS = HEADER + (
    "c1\t0.0\tcustomer\thi\nc1\t1.0\tagent\thello\nc1\t4.0\tcustomer\tbye\n"
    "c2\t0\tcustomer\ta card\nc2\t1\tagent\twhich one\n"
)
ROLES = {"agent": "assistant", "customer": "user"}


def read(folder: Path, text: str, **settings: Any) -> list[Example | Problem]:
    file = folder / "turns.tsv"
    file.write_text(text, encoding="utf-8")
    return list(TurnsSource(parse(TurnsConfig, {"name": "turns", **settings})).read(str(file)))


def test_the_rows_of_a_conversation_are_one_example_with_the_line_of_each_turn(tmp_path: Path) -> None:
    first, second = read(tmp_path, ROWS, roles=ROLES)
    assert isinstance(first, Example)
    assert isinstance(second, Example)
    assert first.values["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "bye"},
    ]
    assert first.where(1).endswith("turns.tsv:3")
    assert second.where().endswith("turns.tsv:5")


def test_columns_have_any_name(tmp_path: Path) -> None:
    text = "talk,n,who,words\nx,1,user,a\nx,2,assistant,b\n"
    names = {"conversation_column": "talk", "turn_column": "n", "role_column": "who", "text_column": "words"}
    (found,) = read(tmp_path, text, delimiter=",", **names)
    assert isinstance(found, Example)
    assert [turn["content"] for turn in found.values["messages"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "slug", "line"),
    [
        ("c1\t1\tuser\ta\nc1\t0\tassistant\tb\n", "turn-order", 3),
        ("c1\t1\tuser\ta\nc1\t1\tassistant\tb\n", "turn-order", 3),
        ("c1\t1\tuser\ta\nc1\ttwo\tassistant\tb\n", "bad-turn-number", 3),
        ("c1\t1\tuser\ta\nc2\t1\tuser\ta\nc1\t2\tassistant\tb\n", "scattered-conversation", 4),
        ("c1\t1\tuser\n", "ragged-row", 2),
    ],
)
def test_what_is_wrong_is_told_at_its_line(tmp_path: Path, rows: str, slug: str, line: int) -> None:
    problems = [one for one in read(tmp_path, HEADER + rows) if isinstance(one, Problem)]
    assert [(one.slug, str(one.where).rpartition(":")[2]) for one in problems] == [(slug, str(line))]


def test_roles_and_empty_turns_are_told_at_their_lines_when_the_task_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "turns.tsv"
    file.write_text(ROWS.replace("hello", " "), encoding="utf-8")
    config = compose(["task=dialogue", "data=turns", f"data.train={file}", "data.roles={customer: user}"]).config
    with pytest.raises(DataError) as caught:
        load_splits(config.data, Dialogue(DialogueConfig()))
    found = [(one.slug, str(one.where).rpartition(":")[2]) for one in caught.value.problems]
    assert ("unknown-role", "3") in found
    assert ("empty-turn", "3") in found
    assert ("unknown-role", "6") in found


def test_a_table_without_a_role_column_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column holds the role; there are: conversationId, ") as caught:
        read(tmp_path, ROWS.replace("authorRole", "intent"))
    assert caught.value.problems[0].key == "data.role_column"


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"roles": {"agent": "bot"}}, "data.roles.agent"), ({"columns": {"messages": "text"}}, "data.columns")],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(TurnsConfig, {"name": "turns", **settings})
    assert caught.value.problems[0].key == key


def test_the_published_turns_hold_customers_only_which_is_told(shared_data: Path) -> None:
    """MultiDoGO's files annotated at the turn level have neither the agents' turns nor a role column."""
    file = shared_data / "dialogue" / "multidogo_turn" / "finance.dev.tsv"
    source = TurnsSource(parse(TurnsConfig, {"name": "turns"}))
    with pytest.raises(DataError, match="no column holds the role"):
        next(source.read(str(file)))
