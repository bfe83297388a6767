"""`chainft new` writes packages that work as they are."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from chainft import registry
from chainft.cli.completion import candidates
from chainft.cli.main import main
from chainft.cli.new import MAX_NAME, files
from chainft.config.compose import compose
from chainft.config.search import options
from tests.plugins.conftest import Install, write_metadata

REPOSITORY = Path(__file__).parents[2]
LONGEST = "x" * MAX_NAME


def entry_points(folder: Path) -> str:
    """What pip writes of the entry points in `pyproject.toml`."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parts = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    return "\n".join(parts)


@pytest.mark.parametrize("kind", registry.KINDS)
@pytest.mark.parametrize("name", ["own", "two_words", LONGEST])
def test_everything_is_filled_in_and_is_python_toml_and_yaml(kind: registry.Kind, name: str) -> None:
    found = files(kind, name)
    for path, text in found.items():
        assert "$" not in text and "PACKAGE" not in path and "NAME" not in path, path
        if path.endswith(".py"):
            ast.parse(text)
    project = tomllib.loads(found["pyproject.toml"])["project"]
    assert project["name"] == f"chainft-{name}".replace("_", "-")
    assert name in project["entry-points"][registry.GROUPS[kind]]


@pytest.mark.parametrize("kind", registry.KINDS)
def test_the_package_is_found_with_its_configs(
    kind: registry.Kind, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", kind, "own"]) == 0
    package = {
        path.relative_to("own/src").as_posix(): path.read_text(encoding="utf-8")
        for path in Path("own/src").rglob("*")
        if path.is_file()
    }
    install("chainft-own", entry_points(Path("own")), package)
    assert registry.find(kind, "own", key="").__module__ == f"chainft_own.{kind}"
    words = {"task": ["task=own"], "source": ["task=classify", "data=starter_own"], "head": ["task=ner", "head=own"]}
    if kind in words:
        config = compose(words[kind]).config
        assert "own" in (config.task.name, config.data.name, config.head.name)
        assert "own" in options({"source": "data"}.get(kind, kind))


def test_it_says_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "task", "own", "--path", "there"]) == 0
    printed = capsys.readouterr().out
    assert "pip install -e there" in printed and "chainft train task=own" in printed
    assert (tmp_path / "there" / "src" / "chainft_own" / "task.py").is_file()
    assert [entry.name for entry in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["task", "ner"], "exists already: there is such a task in the package 'chainft'"),
        (["source", "csv"], "exists already"),
        (["source", "starter_ner"], "there is a config data/starter_ner.yaml"),
        (["metric", "entities"], "exists already"),
        (["head", "mlp"], "exists already"),
        (["stage", "recurrent"], "exists already"),
        (["task", "My-Task"], "did you mean 'my_task'?"),
        (["task", "../evil"], "did you mean 'evil'?"),
        (["task", "class"], "is not a name"),
        (["task", "1st"], "is not a name"),
        (["task", "täsk"], "is not a name"),
        (["task", ""], "is not a name"),
        (["task", LONGEST + "x"], f"has {MAX_NAME + 1} letters"),
        (["taks", "own"], "did you mean 'task'?"),
        (
            ["optimizer", "own"],
            "there is no kind 'optimizer' of plug-in; there are: task, source, metric, head, connector, stage, augmentation",
        ),
        (["task"], "one name is needed, 0 are given"),
        (["task", "a", "b"], "one name is needed, 2 are given"),
        (["task", "own", "--pth", "x"], "unknown flag '--pth'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_made_is_refused_and_nothing_is_written(
    words: list[str], cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", *words]) == 2
    assert cause in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["folder", "file", "link"])
def test_an_existing_path_is_refused_and_left_as_it_is(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("own")
    if there == "folder":
        path.mkdir()
    elif there == "file":
        path.write_text("mine", encoding="utf-8")
    else:
        path.symlink_to("nowhere")
    assert main(["new", "task", "own"]) == 2
    assert "'own' exists already" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["own"]


def test_a_name_that_an_installed_package_has_is_refused(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install("chainft-own", "[chainft.tasks]\nother = chainft_own:Task\n", {"chainft_own/__init__.py": ""})
    monkeypatch.chdir(tmp_path)
    assert main(["new", "task", "other"]) == 2
    assert main(["new", "task", "own"]) == 2
    assert "a package 'chainft_own' is installed" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "task", "own", "--path", "file/own"]) == 7
    assert "cannot write 'file/own'" in capsys.readouterr().err


def test_the_kinds_are_completed() -> None:
    assert candidates("chainft new t") == ["task"]
    assert candidates("chainft new task --p") == ["--path"]


def run(words: Sequence[str], folder: Path, path: str) -> None:
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_a_new_package_passes_its_own_tests_and_checks(tmp_path: Path) -> None:
    """One of each kind, installed as pip would without network; types, also of the sample, by the cache of `make check`."""
    site = tmp_path / "site"
    folders = []
    for kind in registry.KINDS:
        name = f"own_{kind}"
        folder = tmp_path / name
        assert main(["new", kind, name, "--path", str(folder)]) == 0
        write_metadata(site, f"chainft-own-{kind}", entry_points(folder), version="0.1.0")
        shutil.copytree(folder / "src", site, dirs_exist_ok=True)
        folders.append(folder)
    path = os.pathsep.join([str(site), str(REPOSITORY)])
    tests = [str(folder / "tests") for folder in folders]
    run(["pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-W", "error", *tests], tmp_path, path)
    for folder in folders:
        run(["ruff", "format", "--check", "--no-cache", "."], folder, path)
        run(["ruff", "check", "--no-cache", "."], folder, path)
    cache = f"--cache-dir={REPOSITORY / '.mypy_cache'}"
    sources = [str(folder / "src") for folder in (*folders, REPOSITORY / "tests" / "sample_plugin")]
    run(["mypy", "--strict", cache, *sources], tmp_path, path)
