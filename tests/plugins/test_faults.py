"""A broken plug-in is an error that names package, entry point and cause, and only of the command that asks for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chainft import registry
from chainft.cli.completion import candidates
from chainft.cli.main import main
from chainft.config.compose import compose
from chainft.errors import ConfigError, SecurityError
from tests.plugins.conftest import Install, write_metadata

GOOD = """
from dataclasses import dataclass
from chainft.tasks.classify import ClassifyConfig, SingleLabel

@dataclass(frozen=True, kw_only=True)
class GoodConfig(ClassifyConfig):
    name: str = "good"
    loud: bool = False

class Good(SingleLabel):
    config_class = GoodConfig
"""
START = "from chainft.tasks.base import Task\nfrom chainft.tasks.classify import ClassifyConfig, SingleLabel\n"


def task_error(name: str = "bad") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        registry.find("task", name, key="task.name")
    return caught.value


CONFIG = f"from dataclasses import dataclass, field\n{START}@dataclass(frozen=True, kw_only=True)\n"
LISTED = f"""{CONFIG}class Conf(ClassifyConfig):
    more: list[int] = field(default_factory=list)
class Bad(SingleLabel):
    config_class = Conf
"""
UNREADABLE = f"""from __future__ import annotations
{CONFIG}class Conf(ClassifyConfig):
    more: Path = None
class Bad(SingleLabel):
    config_class = Conf
"""
UNDECORATED = f"""{START}class Conf(ClassifyConfig):
    more: int = 3
class Bad(SingleLabel):
    config_class = Conf
"""
GREEDY = f"""{START}class Bad(SingleLabel):
    config_class = ClassifyConfig
    def __init__(self, config, more): ...
"""
WRONG_KIND = f"""{START}class Bad(SingleLabel):
    config_class = dict
"""


@pytest.mark.parametrize(
    ("module", "cause"),
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def (:\n", "SyntaxError: invalid syntax"),
        ("import os\nos.no_such_name\n", "AttributeError: module 'os' has no attribute 'no_such_name'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
        ("class Other: ...\n", "AttributeError: module 'bad_tasks' has no attribute 'Bad'"),
        ("Bad = 3\n", "it is a int, not a class that extends chainft.tasks.base.Task"),
        ("import json as Bad\n", "it is a module, not a class"),
        ("class Bad: ...\n", "class Bad does not extend chainft.tasks.base.Task"),
        (GREEDY, "it cannot be made by Bad(config): missing a required argument: 'more'"),
        (WRONG_KIND, "config_class dict does not extend chainft.config.run.TaskConfig"),
        (UNDECORATED, "config_class Conf lacks the decorator @dataclass"),
        (LISTED, "field 'more' of config_class Conf has the type list[int]: take tuple"),
        (UNREADABLE, "the types of config_class Conf cannot be read: name 'Path' is not defined"),
    ],
    ids=lambda value: value[:40] if "\n" not in value else "",
)
def test_a_broken_task_names_package_entry_point_and_cause(install: Install, module: str, cause: str) -> None:
    install("bad-package", "[chainft.tasks]\nbad = bad_tasks:Bad\n", {"bad_tasks.py": module})
    text = task_error().render()
    assert cause in text
    assert "package 'bad-package' 1.0" in text
    assert "chainft.tasks: bad = bad_tasks:Bad" in text


def test_a_broken_stage_names_package_entry_point_and_cause(install: Install) -> None:
    module = "from chainft.stage_kinds.base import Stage\nclass Bad(Stage):\n    config_class = dict\n"
    install("bad-package", "[chainft.stages]\nbad = bad_stage:Bad\n", {"bad_stage.py": module})
    with pytest.raises(ConfigError) as caught:
        compose(["task=ner", "chain=recurrent", "chain.stages.top.kind.name=bad"])
    text = caught.value.render()
    assert "stage 'bad' of package 'bad-package' 1.0 cannot be loaded" in text
    assert "class Bad lacks the method build" in text
    assert "config_class dict does not extend chainft.config.chain.StageKindConfig" in text
    assert "chainft.stages: bad = bad_stage:Bad" in text


def test_missing_methods_and_attributes_are_told_by_name(install: Install) -> None:
    module = f"{START}class Bad(Task):\n    auto_class = 'AutoModel'\n    def validate(self, example): ...\n"
    install("bad-package", "[chainft.tasks]\nbad = bad_tasks:Bad\n", {"bad_tasks.py": module})
    text = task_error().render()
    assert "lacks the methods decode, encode, gold," in text
    assert "lacks the class attributes config_class, fields, features, main_metric, metric_family" in text
    assert "validate" not in text and "auto_class" not in text


def test_the_error_has_the_traceback_as_its_cause(install: Install) -> None:
    install("bad-package", "[chainft.tasks]\nbad = bad_tasks:Bad\n", {"bad_tasks.py": "1 / 0\n"})
    assert isinstance(task_error().__cause__, ZeroDivisionError)


def test_a_ctrl_c_while_importing_is_no_broken_plugin(install: Install) -> None:
    install("bad-package", "[chainft.tasks]\nbad = bad_tasks:Bad\n", {"bad_tasks.py": "raise KeyboardInterrupt\n"})
    with pytest.raises(KeyboardInterrupt):
        registry.find("task", "bad", key="task.name")


@pytest.mark.parametrize(
    ("requires", "refused"),
    [
        ("chainft>=99", True),
        ("chainft==0.0.1; python_version > '3'", True),
        ("chainft>=99; python_version < '3'", False),
        ("chainft>=0.0.1", False),
        ("chainft", False),
        ("chainft-extras>=99", False),
        ("chainft>=>1", True),
    ],
)
def test_the_version_that_the_package_requires_must_be_this_one(
    install: Install, requires: str, refused: bool
) -> None:
    install("good-package", "[chainft.tasks]\ngood = good:Good\n", {"good.py": GOOD}, requires=requires)
    if refused:
        assert requires in task_error("good").render()
    else:
        assert registry.find("task", "good", key="task.name").config_class.__name__ == "GoodConfig"


def test_two_packages_with_one_name_are_both_named_unless_one_is_allowed(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("first-package", "second-package"):
        module = package.replace("-", "_")
        install(package, f"[chainft.tasks]\ngood = {module}:Good\n", {f"{module}.py": GOOD})
    text = task_error("good").render()
    assert "'first-package', 'second-package'" in text and "CHAINFT_PLUGINS=first-package" in text
    monkeypatch.setenv("CHAINFT_PLUGINS", "second_package")
    assert registry.find("task", "good", key="task.name").__module__ == "second_package"
    monkeypatch.setenv("CHAINFT_PLUGINS", "")
    with pytest.raises(SecurityError):
        registry.find("task", "good", key="task.name")


def test_a_name_of_ours_cannot_be_taken(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("thief", "[chainft.tasks]\nner = thief:Good\n", {"thief.py": "1 / 0\n"})
    assert registry.find("task", "ner", key="task.name").__module__ == "chainft.tasks.ner"
    main(["doctor"])
    assert "task ner (thief 1.0): NOT usable: hidden: chainft has a task 'ner' itself" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("bad = not a target", "not of the form package.module:Class"),
        ("bad = module_only", "not of the form package.module:Class"),
        ("bad = os:system()", "not of the form package.module:Class"),
        ("bad = ../../evil:Class", "not of the form package.module:Class"),
    ],
)
def test_an_entry_point_that_is_garbage_is_refused(install: Install, line: str, cause: str) -> None:
    install("bad-package", f"[chainft.tasks]\n{line}\n")
    assert cause in task_error().render()


def test_entry_points_that_cannot_be_read_hide_only_their_package(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good-package", "[chainft.tasks]\ngood = good:Good\n", {"good.py": GOOD})
    install("bad-package", "[chainft.tasks]\n%%%% no equals sign\n")
    assert registry.find("task", "good", key="task.name").__module__ == "good"
    assert "'bad-package' cannot be read: line 2 of its entry_points.txt" in task_error().render()
    main(["doctor"])
    assert "package bad-package: NOT readable" in capsys.readouterr().out


def test_metadata_without_a_name_are_named_by_their_folder(install: Install) -> None:
    site = install("good-package", "[chainft.tasks]\ngood = good:Good\n", {"good.py": GOOD})
    (site / "good_package-1.0.dist-info" / "METADATA").unlink()
    (plugin,) = registry.installed("task")
    assert plugin.distribution == "good_package"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["config", "show"], 0),
        (["config", "show", "task"], 0),
        (["config", "show", "task.scheme"], 0),
        (["config", "show", "task=ner"], 0),
        (["train", "task=ner", "--cfg", "job"], 0),
        (["train", "task=nerr"], 2),
        (["train", "task=bad"], 2),
        (["config", "show", "task=bad"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_commands_go_on_beside_a_broken_plugin(
    install: Install, words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    entry_points = "[chainft.tasks]\nbad = bad_tasks:Bad\n[chainft.sources]\nworse = x\n[chainft.configs]\nbad = ..\n"
    install("bad-package", entry_points, {"bad_tasks.py": "1 / 0\n"})
    assert main(words) == code
    told = "ZeroDivisionError" in capsys.readouterr().err
    assert told == ("task=bad" in words)


def test_doctor_tells_package_version_and_whether_each_plugin_loads(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good-package", "[chainft.tasks]\ngood = good:Good\n", {"good.py": GOOD}, version="2.5")
    install("bad-package", "[chainft.metrics]\nbad = bad_tasks:Bad\n", {"bad_tasks.py": "1 / 0\n"})
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "task good (good-package 2.5): loads" in printed
    assert "metric bad (bad-package 1.0): NOT usable" in printed and "ZeroDivisionError" in printed
    main(["doctor", "--json"])
    facts = {one["name"]: one["problem"] for one in json.loads(capsys.readouterr().out)["plugins"]}
    assert facts["good"] is None and "division by zero" in facts["bad"]


def test_doctor_tells_what_the_configs_of_a_package_hide(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"good_conf/__init__.py": "", "good_conf/task/ner.yaml": "name: ner\n"}
    install("good-package", "[chainft.configs]\ngood = good_conf\nnone = no_such.folder\n", files)
    main(["doctor"])
    printed = capsys.readouterr().out
    assert "configs good_conf (good-package): takes the place of our task/ner.yaml" in printed
    assert "configs no_such.folder (good-package): there is no folder no_such.folder" in printed


def test_completion_and_settings_import_a_plugin_of_others_only_when_it_is_named(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    site = install("good-package", "[chainft.tasks]\ngood = good:Good\n", {"good.py": GOOD})
    marker = site / "imported"
    with (site / "good.py").open("a", encoding="utf-8") as stream:
        stream.write(f"open({str(marker)!r}, 'w').close()\n")
    assert "task=good" in candidates("chainft train task=g")
    assert "task.loud=" not in candidates("chainft train task.l")
    main(["config", "show", "task"])
    assert "with task.name = good (package good-package): chainft config show task=good" in capsys.readouterr().out
    assert not marker.exists()
    assert "task.loud=" in candidates("chainft train task=good task.l")
    assert marker.exists()
    main(["config", "show", "task=good"])
    assert "task.loud = false" in capsys.readouterr().out


def test_the_first_package_on_the_path_hides_another_of_the_same_name(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_metadata(tmp_path / "older", "good-package", "[chainft.tasks]\nold = old:Old\n", version="0.1")
    monkeypatch.syspath_prepend(tmp_path / "older")
    install("good-package", "[chainft.tasks]\ngood = good:Good\n", {"good.py": GOOD})
    assert [plugin.name for plugin in registry.installed("task")] == ["good"]
