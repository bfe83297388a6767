"""Damage to a checkpoint: every changed byte is noticed, named, and the checkpoint before is used."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from chainft.errors import CheckpointError
from chainft.train.checkpoint import Checkpoint, CheckpointStore
from chainft.train.manifest import commit

FILES = ("COMMIT", "MANIFEST.json", "model.safetensors", "optimizer.safetensors", "state.json")


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Steps 10 and 20, of equal shapes and sizes."""
    made = CheckpointStore(tmp_path, max_checkpoints=3)
    for step in (10, 20):
        torch.manual_seed(step)
        tensors = {"model": {"w": torch.randn(20, 8)}, "optimizer": {"w::m": torch.randn(20, 8)}}
        made.save(step, tensors=tensors, state={"step": step}, facts={"data": "abc"})
    return CheckpointStore(tmp_path, max_checkpoints=3)


def newest(store: CheckpointStore) -> Path:
    return store.folder / "step-000020"


def verify(path: Path) -> None:
    """What `resume=<path>` does: no falling back."""
    checkpoint = Checkpoint.open(path)
    checkpoint.verify()


def assert_noticed(store: CheckpointStore, file: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        found = CheckpointStore(store.folder).latest()
    assert found is not None
    assert found.step == 10
    assert "step-000020" in caplog.text
    assert file in caplog.text
    with pytest.raises(CheckpointError) as caught:
        verify(newest(store))
    assert caught.value.exit_code == 9
    assert file in caught.value.render()


@pytest.mark.parametrize("keep", ["0", "1", "half", "all but 1"])
@pytest.mark.parametrize("file", FILES)
def test_truncated_file_is_noticed(
    store: CheckpointStore, file: str, keep: str, caplog: pytest.LogCaptureFixture
) -> None:
    """fault 38."""
    path = newest(store) / file
    content = path.read_bytes()
    path.write_bytes(content[: {"0": 0, "1": 1, "half": len(content) // 2, "all but 1": len(content) - 1}[keep]])
    assert_noticed(store, "MANIFEST.json" if file == "COMMIT" else file, caplog)


def test_every_single_bit_flip_is_noticed(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    """fault 38: 100 random places over all files."""
    chooser = random.Random(38)
    for _ in range(100):
        file = chooser.choice(FILES)
        path = newest(store) / file
        original = path.read_bytes()
        flipped = bytearray(original)
        flipped[chooser.randrange(len(flipped))] ^= 1 << chooser.randrange(8)
        path.write_bytes(flipped)
        assert_noticed(store, "MANIFEST.json" if file == "COMMIT" else file, caplog)
        path.write_bytes(original)
    verify(newest(store))


@pytest.mark.parametrize("file", FILES)
def test_missing_file_is_noticed(store: CheckpointStore, file: str, caplog: pytest.LogCaptureFixture) -> None:
    """fault 38; COMMIT missing too."""
    (newest(store) / file).unlink()
    assert_noticed(store, file, caplog)


@pytest.mark.parametrize("file", FILES)
def test_file_of_another_checkpoint_is_noticed(
    store: CheckpointStore, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    """fault 38: same names, same sizes."""
    other = store.folder / "step-000010" / file
    (newest(store) / file).write_bytes(other.read_bytes())
    assert_noticed(store, "MANIFEST.json" if file == "COMMIT" else file, caplog)


def test_edited_manifest_is_noticed(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    """fault 38."""
    path = newest(store) / "MANIFEST.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"data": "abc"', '"data": "abd"'), encoding="utf-8")
    assert_noticed(store, "MANIFEST.json", caplog)


def test_message_names_file_and_both_digests(store: CheckpointStore) -> None:
    """fault 38."""
    path = newest(store) / "model.safetensors"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        verify(newest(store))
    after = hashlib.sha256(content).hexdigest()
    assert str(caught.value).startswith(
        f"model.safetensors of checkpoint step-000020 is damaged: its sha256 is {after}"
    )
    assert str(caught.value).endswith(f"with sha256 {before}")
    assert caught.value.problems[0].where == str(path)


def test_sizes_are_compared_before_anything_is_hashed(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def record(path: Path) -> str:
        hashed.append(path.name)
        return "0"

    monkeypatch.setattr("chainft.train.manifest.digest_of", record)
    (newest(store) / "state.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"state\.json of checkpoint step-000020 is damaged: it has 2 bytes"):
        verify(newest(store))
    assert hashed == ["state.json"]


def test_loading_verifies_what_it_loads(store: CheckpointStore) -> None:
    checkpoint = Checkpoint.open(newest(store))
    path = newest(store) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    checkpoint.load("optimizer")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        checkpoint.load("model")


def test_all_damaged_is_an_error_that_names_each(store: CheckpointStore) -> None:
    """fault 38: two files swapped between the checkpoints."""
    paths = [store.folder / name / "model.safetensors" for name in ("step-000010", "step-000020")]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        store.latest()
    assert [problem.where for problem in caught.value.problems] == [str(paths[1]), str(paths[0])]


def test_damaged_one_counts_neither_as_step_nor_for_rotation(store: CheckpointStore) -> None:
    """fault 38: it may not push out the whole one before it."""
    path = newest(store) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    found = store.latest()
    assert found is not None
    assert store.steps() == (10,)
    again = CheckpointStore(store.folder, max_checkpoints=2)
    again.latest()
    again.save(20, tensors={}, state={}, facts={})
    assert again.steps() == (10, 20)
    assert sorted(path.name for path in again.folder.glob("step-*")) == ["step-000010", "step-000020-2"]


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "MANIFEST.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    (folder / "COMMIT").unlink()
    commit(folder)


def test_newer_format_says_who_made_it_and_is_never_passed_over(store: CheckpointStore) -> None:
    """fault 39."""
    rewrite(newest(store), format=3, chainft="9.1.0", novelty=True)
    with pytest.raises(
        CheckpointError, match=r"made by chainft 9\.1\.0 \(format 3\), you have chainft \S+ \(format 2\)"
    ):
        store.latest()
    with pytest.raises(CheckpointError, match=r"made by chainft 9\.1\.0"):
        verify(newest(store))


def test_newer_format_is_never_rotated_away(store: CheckpointStore) -> None:
    """fault 39."""
    rewrite(newest(store), format=3)
    again = CheckpointStore(store.folder, max_checkpoints=1)
    again.save(30, tensors={}, state={}, facts={})
    assert newest(store).is_dir()
    assert again.steps() == (30,)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": None},
        {"files": [{"path": "model.safetensors"}]},
        {"files": [{"path": "../../secret", "size": 1, "sha256": "0"}]},
        {"surprise": 1},
    ],
)
def test_manifest_of_another_shape_is_refused_even_if_committed(store: CheckpointStore, changes: Any) -> None:
    """fault 18, fault 38: nothing outside the folder is ever named."""
    rewrite(newest(store), **changes)
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json of checkpoint step-000020 is damaged"):
        verify(newest(store))


def test_manifest_that_is_no_object_is_refused(store: CheckpointStore) -> None:
    (newest(store) / "MANIFEST.json").write_text("[1]", encoding="utf-8")
    (newest(store) / "COMMIT").unlink()
    commit(newest(store))
    with pytest.raises(CheckpointError, match="not a JSON object"):
        verify(newest(store))


def test_manifest_lists_dtype_and_shape_of_each_tensor(store: CheckpointStore) -> None:
    entry = Checkpoint.open(newest(store)).manifest.entry("model.safetensors")
    assert entry is not None
    assert entry.tensors == {"w": "float32 [20, 8]"}


def test_folder_without_manifest_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json of checkpoint .* is damaged: it is missing"):
        verify(tmp_path)
