"""A task of somebody else's package: found by entry point, configured by its YAML, trained and used like ours."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from chainft import registry
from chainft.errors import ConfigError, SecurityError

Chainft = Callable[..., "subprocess.CompletedProcess[str]"]

# The README shows this module and this YAML.
MODULE = '''
"""Single-label classification of posts, links left out."""

import re
from dataclasses import dataclass, replace

from chainft.tasks.classify import ClassifyConfig, SingleLabel


@dataclass(frozen=True, kw_only=True)
class PostsConfig(ClassifyConfig):
    """Settings of `task=posts`."""

    strip_links: bool = True
    """Leave out links before tokenising."""


class Posts(SingleLabel):
    config_class = PostsConfig

    def encode(self, example):
        text = example.values["text"]
        if self.config.strip_links:
            text = re.sub(r"https?://\\S+", "", text)
        return super().encode(replace(example, values={**example.values, "text": text}))


PLUGIN = Posts
'''
YAML = "name: posts\n"
ENTRY_POINTS = """[chainft.tasks]
posts = post_tasks.posts:PLUGIN

[chainft.configs]
posts = post_tasks.conf
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder as pip leaves it: the package `post_tasks` with its metadata."""
    site = tmp_path / "site"
    (site / "post_tasks" / "conf" / "task").mkdir(parents=True)
    (site / "post_tasks" / "__init__.py").write_text("", encoding="utf-8")
    (site / "post_tasks" / "posts.py").write_text(MODULE, encoding="utf-8")
    (site / "post_tasks" / "conf" / "task" / "posts.yaml").write_text(YAML, encoding="utf-8")
    metadata = site / "post_tasks-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: post-tasks\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf-8")
    return site


def rows(folder: Path) -> Path:
    lines = ["text,label"]
    lines += [f"{word} https://x.y/{number},{label}" for number in range(6) for word, label in PAIRS]
    path = folder / "posts.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


PAIRS = [("good day", "plus"), ("bad day", "minus"), ("great river", "plus"), ("awful house", "minus")]


def test_a_task_of_another_package_trains_and_predicts(
    chainft: Chainft, package: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    env = {"PYTHONPATH": str(package)}
    words = ["task=posts", "data=csv", f"data.train={rows(tmp_path)}", f"model={tiny_encoder}", "train.max_steps=3"]
    done = chainft("train", *words, "run=run", env=env)
    assert done.returncode == 0, done.stderr
    with_link, without = (
        json.loads(chainft("predict", "run", text, env=env).stdout)["scores"]
        for text in ("good day https://a.b", "good day")
    )
    assert with_link == without
    plain = chainft("train", *words, "task.strip_link=false", env=env)
    assert plain.returncode == 2
    assert "strip_links" in plain.stderr


def test_without_its_package_the_run_says_what_is_missing(
    chainft: Chainft, package: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    words = ["task=posts", "data=csv", f"data.train={rows(tmp_path)}", f"model={tiny_encoder}"]
    done = chainft("train", *words)
    assert done.returncode == 2
    assert "'posts' does not exist; there are: " in done.stderr


def test_a_package_that_is_not_allowed_is_refused(chainft: Chainft, package: Path, tmp_path: Path) -> None:
    """fault 44"""
    marker = tmp_path / "marker"
    with (package / "post_tasks" / "posts.py").open("a", encoding="utf-8") as stream:
        stream.write(f"open({str(marker)!r}, 'w').close()\n")
    env = {"PYTHONPATH": str(package), "CHAINFT_PLUGINS": "other-package"}
    done = chainft("train", "task=posts", "data=csv", f"data.train={rows(tmp_path)}", env=env)
    assert done.returncode == 10, done.stderr
    assert "post-tasks" in done.stderr
    assert not marker.exists()


def test_an_installed_package_is_not_imported_unless_it_is_named(
    chainft: Chainft, package: Path, tmp_path: Path
) -> None:
    """fault 44"""
    (package / "post_tasks" / "posts.py").write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    done = chainft("train", "task=nerr", env={"PYTHONPATH": str(package)})
    assert done.returncode == 2
    assert "imported" not in done.stderr


def test_a_broken_plugin_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAINFT_PLUGINS", raising=False)
    with pytest.raises(ConfigError, match="no_such_module"):
        registry.Plugin("task", "posts", "no_such_module:X", "post-tasks").load()
    monkeypatch.setenv("CHAINFT_PLUGINS", "")
    with pytest.raises(SecurityError):
        registry.Plugin("task", "posts", "no_such_module:X", "post-tasks").load()


def test_the_readme_shows_this_very_plugin() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert MODULE.strip() in text
