"""A new task, source, metric or head is a file of its own: nothing else of chainft knows one by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from chainft import registry

PACKAGE = Path(registry.__file__).parent
ALLOWED = {
    "bench": {"ner", "classify"},  # What the Hugging Face Trainer is told for them is written out there.
    "config/compose.py": {"joint"},  # Several tasks are put together by chainft itself.
    "report/commands.py": {"joint"},
    "cli/doctor.py": {"generate"},  # The extra of that name.
    "text/pairs.py": {"relation"},  # A part of an answer.
}


def chosen_by(path: Path) -> Iterator[str]:
    """The texts by which a file chooses what to do: keys of dicts, and what is compared."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts = node.keys if isinstance(node, ast.Dict) else []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


@pytest.mark.parametrize("kind", ["task", "head"])
def test_no_other_file_chooses_by_the_name_of_one_of_ours(kind: registry.Kind) -> None:
    """Of sources and metrics the names are common words (`csv`, `text`)."""
    home = registry.PACKAGES[kind].removeprefix("chainft.").replace(".", "/")
    names = {plugin.name for plugin in registry.plugins(kind) if plugin.distribution == registry.OWN}
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE).as_posix()
        allowed = set().union(*(words for place, words in ALLOWED.items() if inside.startswith(place)))
        if not inside.startswith(f"{home}/"):
            found += [f"{inside}: {word!r}" for word in chosen_by(path) if word in names - allowed]
    assert found == []


def test_sources_of_ours_read_different_endings() -> None:
    """A file is given without its source: one of ours has to be the one."""
    endings = [ending for plugin in registry.plugins("source") for ending in plugin.load().endings]
    assert len(endings) == len(set(endings))
    assert {".csv", ".tsv", ".jsonl", ".json", ".conll", ".parquet"} <= set(endings)


def test_every_task_of_ours_says_what_it_is() -> None:
    for plugin in registry.plugins("task"):
        about = plugin.load().about
        assert about.title and (about.purpose or plugin.name == "joint"), plugin.name
        assert about.sample != type(about)().sample, plugin.name
