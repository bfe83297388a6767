"""Installs packages of others for a test: a folder on the path, as pip leaves it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from chainft import installed, registry
from chainft.config import search

Install = Callable[..., Path]
Chainft = Callable[..., "subprocess.CompletedProcess[str]"]


def forget() -> None:
    """Let chainft look anew at what is installed."""
    installed._read.cache_clear()
    registry.plugins.cache_clear()
    search.plugin_folders.cache_clear()


def write_metadata(site: Path, name: str, entry_points: str, *, version: str = "1.0", requires: str = "") -> None:
    """The folder of metadata of an installed package."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    required = f"Requires-Dist: {requires}\n" if requires else ""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}"
    (folder / "METADATA").write_text(metadata, encoding="utf-8")
    (folder / "entry_points.txt").write_text(entry_points, encoding="utf-8")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install(name, entry_points, files)` puts a package on the path of this process; gives the folder."""
    monkeypatch.delenv("CHAINFT_PLUGINS", raising=False)
    before = set(sys.modules)

    def install(name: str, entry_points: str, files: Mapping[str, str] = MappingProxyType({}), **facts: str) -> Path:
        site = tmp_path / f"site-{name}"
        write_metadata(site, name, entry_points, **facts)
        for path, text in files.items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(site)
        forget()
        return site

    yield install
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[module]
    forget()
