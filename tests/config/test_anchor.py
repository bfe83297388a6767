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


def test_a_short_name_of_a_model_is_no_path_where_a_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`chainft.models.weights.locate` takes the short name first; a path would be another model on `resume=true`."""
    for name in ("starter", "smollm2"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    stages = {"a": {"model": "starter", "from": "starter"}, "b": {"model": "smollm2"}}
    found = anchored({"model": {"path": "starter"}, "chain": {"stages": stages}, "data": {"train": "starter"}})
    assert found["model"]["path"] == "starter"
    assert found["chain"]["stages"]["b"]["model"] == "smollm2"
    here = str(tmp_path / "starter")
    assert found["chain"]["stages"]["a"] == {"model": "starter", "from": here}
    assert found["data"]["train"] == here
