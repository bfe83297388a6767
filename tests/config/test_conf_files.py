"""Every YAML that ships composes and parses."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainft import registry
from chainft.config.compose import compose
from chainft.config.search import GROUPS, own_folder, search_folders
from chainft.config.sweep import plan_sweep

FILES = sorted(file.relative_to(own_folder()).as_posix() for file in own_folder().rglob("*.yaml"))


def words(group: str, name: str) -> list[str]:
    """A run that uses one file."""
    choice = f"{group}={name}"
    if group == "task":
        return [choice]
    if group == "experiment":
        return [choice]
    if group == "data":
        tasks = [plugin.name for plugin in registry.plugins("task") if name.startswith(f"starter_{plugin.name}")]
        if name == "joint":
            both = "{a: {name: ner}, b: {name: ner}}"
            return [
                "task=joint",
                choice,
                f"task.tasks={both}",
                "data.tasks.a.train=x.conll",
                "data.tasks.b.train=x.conll",
            ]
        files = [] if name.startswith("starter") else ["data.train=x"]
        files += ["data.train_target=y"] if name == "parallel" else []
        kinds = {"_multi": "task.multi_label=true", "_regression": "task.regression=true"}
        kind = [word for ending, word in kinds.items() if name.endswith(ending)]
        return [f"task={tasks[0] if tasks else 'ner'}", choice, *files, *kind]
    return ["task=ner", choice]


@pytest.mark.parametrize("file", [file for file in FILES if "/" in file])
def test_file_composes_and_parses(file: str) -> None:
    group, name = file.removesuffix(".yaml").split("/")
    extra = ["data.path=x"] if file == "data/hub.yaml" else []
    if group == "sweep":
        assert plan_sweep(["task=ner", "seed=1,2", f"sweep={name}"]).config.name == name
        return
    composed = compose([*words(group, name), *extra])
    if group == "chain":
        assert composed.config.chain.order or composed.config.chain.split
    elif group not in ("experiment", "data"):
        assert composed.resolved[group]["name" if "name" in composed.resolved[group] else "path"] == name


def test_every_group_has_files_and_every_folder_is_a_group() -> None:
    assert {Path(file).parts[0] for file in FILES if "/" in file} == set(GROUPS)


def test_every_task_and_source_of_ours_has_a_file() -> None:
    for group, kind in (("task", "task"), ("data", "source")):
        own = {plugin.name for plugin in registry.plugins(kind) if "toy" not in plugin.name}  # type: ignore[arg-type]
        assert own <= {Path(file).stem for file in FILES if file.startswith(f"{group}/")}


def test_every_file_says_what_it_is_for() -> None:
    for file in FILES:
        first = (own_folder() / file).read_text(encoding="utf-8").splitlines()[:2]
        assert any(line.startswith("# ") and not line.startswith("# @") for line in first), file


def test_files_hold_only_what_differs_from_the_defaults() -> None:
    """A default repeated in YAML would be a second place for it; `name` says which file was chosen."""
    default = compose(["task=ner", "model.path=x"]).resolved
    for file in FILES:
        group, _, name = file.removesuffix(".yaml").partition("/")
        if group in ("optimizer", "scheduler", "tracker"):
            chosen = compose(["task=ner", "model.path=x", f"{group}={name}"]).resolved[group]
            text = (own_folder() / file).read_text(encoding="utf-8")
            for key, value in chosen.items():
                if key != "name" and value == default[group][key]:
                    assert f"\n{key}:" not in text, (file, key)


def test_sources_checkout_has_its_conf_beside_the_package() -> None:
    assert search_folders()[-1].path.name == "conf"
    assert (own_folder() / "train.yaml").is_file()
