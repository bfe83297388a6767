"""Run folders: new ones, those of runs that never began, and those that hold work."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from chainft.errors import ConfigError, StorageError
from chainft.run_folder import RunFolder, clear, create, lock

EARLY = (
    "config.yaml",
    "overrides.yaml",
    "environment.json",
    "log.txt",
    "errors.log",
    "data_card.json",
    ".lock",
    "stacks.txt",
)


def folder_of(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text("old", encoding="utf-8")
    return path


@pytest.mark.parametrize("names", [(), EARLY])
def test_a_folder_without_work_is_taken_again(tmp_path: Path, names: tuple[str, ...]) -> None:
    """fault 28: whoever mends the data file may repeat the same command."""
    folder = folder_of(tmp_path / "run", *names)
    if names:
        (folder / "checkpoints").mkdir()
    create(folder)


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "notes.txt", "model", "bad_batch.json"])
def test_a_folder_with_anything_else_is_left_alone(tmp_path: Path, name: str) -> None:
    """fault 28"""
    with pytest.raises(ConfigError, match="exists and is not empty"):
        create(folder_of(tmp_path / "run", *EARLY, name))
    (tmp_path / "other" / "checkpoints" / "step-000500").mkdir(parents=True)
    (tmp_path / "other" / "config.yaml").touch()
    with pytest.raises(ConfigError, match="exists and is not empty"):
        create(tmp_path / "other")


def test_a_users_own_folder_is_left_alone_though_its_names_are_ours(tmp_path: Path) -> None:
    """fault 28"""
    with pytest.raises(ConfigError):
        create(folder_of(tmp_path / "mine", "log.txt"))


def test_what_an_earlier_try_left_is_cleared_but_for_the_log(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "run", *EARLY, "rejected.jsonl")
    clear(RunFolder(path))
    assert not {"rejected.jsonl", "errors.log", "data_card.json"} & {file.name for file in path.iterdir()}
    assert (path / "log.txt").read_text(encoding="utf-8") == "old"


def test_a_file_or_an_unwritable_place_is_no_run_folder(tmp_path: Path) -> None:
    """fault 28"""
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="is a file"):
        create(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot write the run folder"):
        create(tmp_path / "file" / "run")


def test_a_locked_folder_names_its_holder(tmp_path: Path) -> None:
    """fault 28"""
    folder = create(tmp_path / "run")
    with lock(folder), pytest.raises(StorageError, match=r"in use by process \d+"), lock(folder):
        pass


def test_a_folder_that_cannot_be_locked_says_why(tmp_path: Path) -> None:
    """fault 28: resuming in a folder that belongs to someone else."""
    folder = create(tmp_path / "run")
    (folder.path / ".lock").mkdir()
    with pytest.raises(StorageError, match=r"cannot lock the run folder .*: Is a directory"), lock(folder):
        pass


def test_a_place_that_may_not_be_looked_at_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fault 28"""

    def refused(path: Path, *arguments: object, **keywords: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(StorageError, match=r"cannot write the run folder .*: Permission denied"):
        create(tmp_path / "run")
