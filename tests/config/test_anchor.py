"""Saved settings hold from every working directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainft.config.anchor import anchored


def test_existing_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    for name in ("a.conll", "b.json"):
        (tmp_path / name).write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    data = {"model": {"path": "model", "max_length": 5}, "data": {"train": ["a.conll", "b.json::rows"], "test": None}}
    found = anchored(data)
    assert found["model"] == {"path": str(tmp_path / "model"), "max_length": 5}
    assert found["data"] == {"train": [str(tmp_path / "a.conll"), f"{tmp_path / 'b.json'}::rows"], "test": None}
    assert data["model"]["path"] == "model"  # type: ignore[call-overload,index]


@pytest.mark.parametrize("value", ["starter", "org/name", "pkg://a/b.conll", "${oc.env:HOME}/x", "gone.conll", ""])
def test_what_is_no_local_path_stays(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fault 7: an interpolation stays one."""
    monkeypatch.chdir(tmp_path)
    assert anchored({"data": {"train": value}})["data"]["train"] == value
