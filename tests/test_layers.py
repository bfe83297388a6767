"""Who may import whom, and what must come in fast."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "chainft"
LAYERS = (
    {"errors"},
    {"installed", "plugin_checks"},
    {"__init__", "registry", "run_folder", "auto_classes"},
    {"config"},
    {"world", "models", "tasks", "metrics", "data", "text", "heads", "connectors", "stage_kinds"},
    {"stages"},
    {"plan"},
    {"train", "infer", "report"},
    {"bench", "augmentations"},
    {"cli"},
    {"__main__"},
)
HEAVY = {"torch", "transformers", "datasets", "accelerate", "tokenizers", "safetensors", "sklearn", "pandas", "scipy"}
LIGHT = (
    "errors",
    "registry",
    "run_folder",
    "config",
    "cli",
    "tasks",
    "metrics",
    "heads",
    "connectors",
    "stage_kinds",
    "text",
    "augmentations",
    "data/sources",
    "data/example",
    "bench/mirror",
    "bench/turns",
    "bench/trainer_baseline",
)
EDGES = {
    "hydra": {"config/hydra_edge", "config/sweep"},
    "omegaconf": {"config/hydra_edge", "config/interpolation"},
    "accelerate": {"train/*"},
}


@dataclass(frozen=True)
class Import:
    """One import statement's target."""

    importer: str
    """Path without ending, from the package: `config/parse`."""
    target: str
    """Dotted module."""
    when: str
    """`load`, `call` or `types`."""


def _imports() -> Iterator[Import]:
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).with_suffix("").as_posix()
        yield from _walk(ast.parse(file.read_text(encoding="utf-8")), name, "load")


def _walk(node: ast.AST, name: str, when: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(name, alias.name, when) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{name}: relative import"
            yield from (Import(name, f"{child.module}.{alias.name}", when) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from _walk(child, name, "types")
        else:
            inside = "call" if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) else when
            yield from _walk(child, name, inside)


IMPORTS = tuple(_imports())


def _layer(name: str) -> int:
    top = name.split("/")[0]
    return next(number for number, layer in enumerate(LAYERS) if top in layer)


@cache
def _modules() -> set[str]:
    return {one.importer for one in IMPORTS} | {
        file.relative_to(PACKAGE).with_suffix("").as_posix() for file in PACKAGE.rglob("*.py")
    }


@cache
def _ours(target: str) -> str | None:
    """The module of the package that an import names, as a path."""
    parts = target.split(".")
    if parts[0] != "chainft" or len(parts) == 1:
        return None
    for length in range(len(parts), 1, -1):
        candidate = "/".join(parts[1:length])
        if candidate in _modules():
            return candidate
    return parts[1] if (PACKAGE / parts[1]).is_dir() else None


def test_every_module_has_a_layer() -> None:
    for name in _modules() - {"__init__"}:
        if not name.startswith("starter/"):
            assert _layer(name) >= 0


def test_imports_go_downward_only() -> None:
    wrong = [
        f"{one.importer} -> {target}"
        for one in IMPORTS
        if (target := _ours(one.target)) and target != "__init__" and _layer(target) > _layer(one.importer)
    ]
    assert wrong == []


def test_there_is_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for one in IMPORTS:
        if one.when == "load" and (target := _ours(one.target)) and target != one.importer:
            graph.setdefault(one.importer, set()).add(target)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


@pytest.mark.parametrize("library", EDGES)
def test_library_is_imported_at_its_edge_only(library: str) -> None:
    found = {one.importer for one in IMPORTS if one.target.split(".")[0] == library and one.when != "types"}
    allowed = EDGES[library]
    folders = {name.removesuffix("*") for name in allowed if name.endswith("*")}
    assert {name for name in found if name not in allowed and not name.startswith(tuple(folders) or ("/",))} == set()


def test_yaml_is_read_in_one_place() -> None:
    """There it is checked for size, aliases, depth and duplicate keys (fault 4)."""
    readers = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "yaml"
        and node.attr in ("load", "safe_load", "load_all", "full_load", "unsafe_load", "compose")
    }
    assert readers == {"config/document.py"}


def test_light_modules_import_nothing_heavy_when_loaded() -> None:
    wrong = [
        f"{one.importer} -> {one.target}"
        for one in IMPORTS
        if one.when == "load" and one.target.split(".")[0] in HEAVY and one.importer.startswith(LIGHT)
    ]
    assert wrong == []


def _loaded(*words: str) -> tuple[int, set[str]]:
    """Exit code of a command, and the modules that it loaded."""
    code = (
        "import json, sys\n"
        "from chainft.cli.main import main\n"
        f"code = main({list(words)!r})\n"
        "print('\\n' + json.dumps([code, sorted({name.split('.')[0] for name in sys.modules})]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exit_code, modules = json.loads(done.stdout.splitlines()[-1])
    return exit_code, set(modules)


@pytest.mark.parametrize(
    ("words", "code", "also_absent"),
    [
        (["--help"], 0, {"hydra", "omegaconf", "yaml", "numpy", "rich"}),
        (["--version"], 0, {"hydra", "omegaconf", "yaml", "numpy", "rich"}),
        (["nonsense"], 2, {"hydra", "omegaconf", "yaml", "numpy", "rich"}),
        (["train", "--help"], 0, {"hydra", "omegaconf", "yaml", "numpy", "rich"}),
        (["completion", "--words", "chainft train optimizer.l"], 0, {"hydra", "omegaconf", "yaml", "numpy", "rich"}),
        (["config", "show", "optimizer"], 0, {"hydra", "omegaconf", "yaml", "numpy", "rich"}),
        (["cache", "ls", "--dir", "nowhere"], 0, {"hydra", "omegaconf", "yaml", "numpy", "rich"}),
        (["config", "show", "task"], 0, {"hydra", "omegaconf", "rich"}),
        (["train", "optimizer.lr=-1"], 2, {"rich"}),
        (["train", "task=ner", "optimizer.lr=-1"], 2, {"rich"}),
        (["train", "task=ner", "--cfg", "job"], 0, {"rich"}),
        (["train", "-m", "task=ner", "optimizer.lr=1,-1"], 2, {"rich"}),
        (["train", "run=nowhere", "resume=true"], 2, set()),
        (["train", "task=ner", f"run={PACKAGE}"], 2, set()),
        (["train", "task=ner", "task.metrics=[entitie]"], 2, set()),
        (["train", "task=ner", "evaluation.metric=f2"], 2, set()),
        (["train", "task=ner", "data=conll"], 2, set()),
        (["train", "task=ner", "data=conll", "data.train=nowhere.conll"], 3, set()),
        (["train", "task=ner", "model=./nowhere"], 4, set()),
        (["evaluate", "nowhere"], 2, set()),
        (["check", "data", "task=ner", "optimizer.lr=-1"], 2, set()),
        (["bench", "task=ner", "task.class_weights=balanced"], 2, set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_loads_nothing_heavy(words: list[str], code: int, also_absent: set[str], tmp_path: Path) -> None:
    """Config errors come before torch."""
    exit_code, modules = _loaded(*words)
    assert exit_code == code
    assert modules & (HEAVY | also_absent) == set()


HYDRA_SECONDS = 0.19
"""Processor time of `import hydra` on the machine (2 cores, quiet) for which the limits below are set."""


def _cpu_seconds(command: list[str], cache: Path) -> float:
    """Processor time of a Python command with compiled modules."""
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(cache), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return usage.ru_utime + usage.ru_stime


def _quiet_seconds(words: list[str], cache: Path) -> float:
    """What a command takes on that machine: its share of `import hydra` run in turn, so that other load cancels."""
    pairs = [
        (_cpu_seconds(["-m", "chainft", *words], cache), _cpu_seconds(["-c", "import hydra"], cache)) for _ in range(6)
    ][1:]
    return HYDRA_SECONDS * min(command / baseline for command, baseline in pairs)


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        (["--help"], 0.2),
        (["nonsense"], 0.2),
        (["train", "--help"], 0.3),
        (["completion", "--words", "chainft train optimizer.l"], 0.3),
        (["config", "show", "optimizer"], 0.4),
        (["train", "task=ner", "optimizer.lr=-1"], 0.5),
        (["train", "task=nerr"], 0.5),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_is_quick(words: list[str], limit: float, tmp_path: Path) -> None:
    assert _quiet_seconds(words, tmp_path) < limit
