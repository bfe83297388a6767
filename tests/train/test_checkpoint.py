"""The checkpoint store: what is saved comes back exactly, in whatever way the run folder is treated."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chainft.errors import CheckpointError, StorageError
from chainft.train.checkpoint import Checkpoint, CheckpointStore

Folder = Callable[[], list[str]]


def save(store: CheckpointStore, step: int, *, scale: float = 1.0) -> Checkpoint:
    tensors = {"model": {"w": torch.full((8, 4), step * scale)}, "optimizer": {"w::exp_avg": torch.ones(8, 4)}}
    return store.save(step, tensors=tensors, state={"step": step}, facts={"epoch": step / 10})


def step_of(store: CheckpointStore) -> int | None:
    found = store.latest()
    return found.step if found else None


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", max_checkpoints=2)


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_everything_comes_back_exactly(store: CheckpointStore) -> None:
    saved = {
        "float": torch.randn(3, 5),
        "bfloat": torch.randn(7).bfloat16(),
        "scalar": torch.tensor(3.0, dtype=torch.float64),
        "whole": torch.arange(6).reshape(2, 3),
        "empty": torch.zeros(0, 4),
        "mask": torch.tensor([True, False]),
        "transposed": torch.randn(4, 6).T,
        "expanded": torch.randn(3, 1).expand(3, 4),
        "nan": torch.tensor([float("nan"), float("-inf"), -0.0]),
    }
    state = {"best": None, "value": 0.1 + 0.2, "text": "naïve ☃", "list": [1, 2.5, True]}
    store.save(7, tensors={"model": saved}, state=state, facts={"data": "abc", "epoch": 1.5})
    found = CheckpointStore(store.folder).latest()
    assert found is not None
    loaded = found.load("model")
    assert loaded.keys() == saved.keys()
    for name, tensor in saved.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name].nan_to_num(), tensor.nan_to_num()), name
    assert (found.step, dict(found.state), dict(found.facts)) == (7, state, {"data": "abc", "epoch": 1.5})


def test_tied_tensors_are_stored_once_and_tied_again(store: CheckpointStore) -> None:
    """fault 20: one copy on disk; the same object after loading; the tie survives in the model."""
    inner, outer = nn.Embedding(100, 16), nn.Linear(16, 100, bias=False)
    outer.weight = inner.weight
    model = nn.Sequential(inner, outer)
    checkpoint = store.save(1, tensors={"model": model.state_dict()}, state={}, facts={})
    assert (checkpoint.path / "model.safetensors").stat().st_size < 2 * 100 * 16 * 4
    assert checkpoint.manifest.files[0].aliases == {"1.weight": "0.weight"}
    loaded = checkpoint.load("model")
    assert loaded["0.weight"] is loaded["1.weight"]
    expected = inner.weight.detach().clone()
    nn.init.zeros_(inner.weight)
    model.load_state_dict(loaded)
    assert outer.weight is inner.weight
    assert torch.equal(outer.weight, expected)


def test_tensors_that_merely_overlap_are_stored_each(store: CheckpointStore) -> None:
    base = torch.arange(12.0)
    saved = {"all": base, "head": base[:4], "tail": base[4:], "grid": base.view(3, 4), "same": base}
    loaded = store.save(1, tensors={"model": saved}, state={}, facts={}).load("model")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())
    assert loaded["same"] is loaded["all"]
    assert loaded["head"].data_ptr() != loaded["all"].data_ptr()


def test_changing_loaded_tensors_does_not_change_the_file(store: CheckpointStore) -> None:
    checkpoint = save(store, 1)
    checkpoint.load("model")["w"].zero_()
    Checkpoint.open(checkpoint.path).verify()


def test_folder_has_the_documented_files_and_no_pickle(store: CheckpointStore) -> None:
    save(store, 500)
    expected = ["COMMIT", "MANIFEST.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert sorted(path.name for path in (store.folder / "step-000500").iterdir()) == expected
    assert names(store) == ["last", "step-000500"]
    assert str((store.folder / "last").readlink()) == "step-000500"


def test_weights_open_without_chainft(store: CheckpointStore) -> None:
    from safetensors.torch import load_file

    assert load_file(save(store, 3).path / "model.safetensors")["w"][0, 0] == 3


def test_manifest_holds_no_absolute_path(store: CheckpointStore) -> None:
    assert str(store.folder) not in (save(store, 1).path / "MANIFEST.json").read_text(encoding="utf-8")


def test_empty_store_has_nothing(store: CheckpointStore) -> None:
    assert (store.latest(), store.best(), store.steps()) == (None, None, ())


def test_reading_an_absent_folder_makes_none(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "absent").latest() is None
    assert not (tmp_path / "absent").exists()


def test_a_part_that_was_not_saved_is_named(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match=r"has no ema\.safetensors; there are: model\.safetensors"):
        save(store, 1).load("ema")


# Rotation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_checkpoints", "kept"), [(1, (50,)), (2, (40, 50)), (3, (30, 40, 50)), (9, (10, 20, 30, 40, 50))]
)
def test_the_newest_are_kept(tmp_path: Path, max_checkpoints: int, kept: tuple[int, ...]) -> None:
    store = CheckpointStore(tmp_path, max_checkpoints=max_checkpoints)
    for step in (10, 20, 30, 40, 50):
        save(store, step)
    assert store.steps() == kept


@pytest.mark.parametrize(("max_checkpoints", "kept"), [(1, (20, 50)), (2, (20, 50)), (3, (20, 40, 50))])
def test_best_in_the_middle_is_kept(tmp_path: Path, max_checkpoints: int, kept: tuple[int, ...]) -> None:
    """fault 31."""
    store = CheckpointStore(tmp_path, max_checkpoints=max_checkpoints)
    for step in (10, 20, 30, 40, 50):
        save(store, step)
        if step == 20:
            store.mark_best(20)
    best = store.best()
    assert store.steps() == kept
    assert best is not None
    assert best.step == 20


def test_a_new_best_frees_the_old_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, max_checkpoints=1)
    for step in (10, 20):
        save(store, step)
        store.mark_best(step)
    assert names(store) == ["best", "last", "step-000020"]


def test_foreign_files_are_untouched(tmp_path: Path) -> None:
    """fault 31: beside the checkpoints and inside one that goes."""
    foreign = [tmp_path / "notes.txt", tmp_path / "step-final" / "a", tmp_path / "step-000020" / "mine.bin"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine", encoding="utf-8")
    store = CheckpointStore(tmp_path, max_checkpoints=1)
    inside = save(store, 10).path / "notes.txt"
    inside.write_text("mine", encoding="utf-8")
    for step in (20, 30):
        save(store, step)
    assert [path.read_text(encoding="utf-8") for path in (*foreign, inside)] == ["mine"] * 4
    assert [path.name for path in inside.parent.iterdir()] == ["notes.txt"]
    assert store.steps() == (30,)


def test_order_is_that_of_saving_not_of_names_or_times(store: CheckpointStore) -> None:
    """fault 31, fault 32: clock jumps and renamed folders."""
    first, second = save(store, 10), save(store, 20)
    first.path.rename(store.folder / "step-000099")
    os.utime(store.folder / "step-000099")
    os.utime(second.path, (0, 0))
    assert step_of(CheckpointStore(store.folder)) == 20


def test_stale_higher_step_does_not_win(tmp_path: Path) -> None:
    """fault 31: training went back to step 10 and on to 15, step 90 is of an abandoned attempt."""
    store = CheckpointStore(tmp_path, max_checkpoints=3)
    for step in (10, 90, 15):
        save(store, step)
    assert step_of(CheckpointStore(tmp_path)) == 15
    CheckpointStore(tmp_path, max_checkpoints=1).mark_best(15)
    assert store.steps() == (15,)


def test_failing_delete_is_a_warning_and_saving_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """fault 31."""
    store = CheckpointStore(tmp_path, max_checkpoints=1)
    save(store, 10)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(StorageError):  # The link cannot be replaced either; the checkpoint counts all the same.
            save(store, 20)
        store.rotate()
    assert "cannot remove the old checkpoint" in caplog.text
    assert step_of(store) == 20
    save(store, 30)
    assert names(store) == ["last", "step-000030"]


def test_saving_a_step_again_replaces_it_without_a_gap(store: CheckpointStore) -> None:
    save(store, 10)
    save(store, 20)
    store.mark_best(20)
    again = save(store, 20, scale=2.0)
    best, last = store.best(), store.latest()
    assert best is not None
    assert last is not None
    assert best.path == last.path == again.path
    assert last.load("model")["w"][0, 0] == 40
    assert store.steps() == (10, 20)
    assert len(list(store.folder.glob("step-*"))) == 2


def test_moved_run_folder_goes_on_working(tmp_path: Path) -> None:
    """fault 31: only relative paths."""
    store = CheckpointStore(tmp_path / "run" / "checkpoints", max_checkpoints=1)
    save(store, 10)
    store.mark_best(10)
    save(store, 20)
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = CheckpointStore(tmp_path / "moved" / "checkpoints", max_checkpoints=1)
    best = moved.best()
    assert best is not None
    assert best.step == 10
    assert step_of(moved) == 20
    save(moved, 30)
    assert moved.steps() == (10, 30)


def test_copy_with_links_followed_is_explained(store: CheckpointStore, tmp_path: Path) -> None:
    save(store, 10)
    store.mark_best(10)
    shutil.copytree(store.folder, tmp_path / "copy", symlinks=False)
    with pytest.raises(StorageError, match="'last' is not a link") as caught:
        CheckpointStore(tmp_path / "copy", max_checkpoints=2)
    assert "make it a link" in caught.value.render()
    assert step_of(CheckpointStore(tmp_path / "copy")) == 10


def test_unknown_step_cannot_be_best(store: CheckpointStore) -> None:
    save(store, 10)
    with pytest.raises(CheckpointError, match="there is no checkpoint of step 11; there are: 10"):
        store.mark_best(11)


def test_best_that_is_gone_is_an_error_that_says_what_to_do(store: CheckpointStore) -> None:
    checkpoint = save(store, 10)
    store.mark_best(10)
    save(store, 20)
    shutil.rmtree(checkpoint.path)
    with pytest.raises(CheckpointError, match="the best checkpoint step-000010 is gone") as caught:
        store.best()
    assert "remove the link" in caught.value.render()
    save(store, 30)
    assert store.steps() == (20, 30)


def test_link_out_of_the_folder_is_not_followed(
    store: CheckpointStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = CheckpointStore(tmp_path / "other", max_checkpoints=1)
    save(other, 5)
    (store.folder / "best").symlink_to("../other/step-000005")
    assert store.best() is None
    assert "is no checkpoint here" in caplog.text


def test_store_for_reading_changes_nothing(store: CheckpointStore) -> None:
    save(store, 10)
    (store.folder / ".step-000020.tmp-123").mkdir()
    reader = CheckpointStore(store.folder)
    assert step_of(reader) == 10
    with pytest.raises(ValueError, match="for reading"):
        reader.rotate()
    assert ".step-000020.tmp-123" in names(store)


def test_leftovers_of_a_killed_process_are_swept_at_the_start(store: CheckpointStore) -> None:
    save(store, 10)
    half = store.folder / ".step-000020.tmp-123"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"x" * 100)
    (store.folder / "step-000005").mkdir()  # Killed between the last two calls of a removal.
    (store.folder / ".last.tmp-9").symlink_to("step-000020")
    (store.folder / ".mine.tmp-9").write_text("foreign", encoding="utf-8")
    CheckpointStore(store.folder, max_checkpoints=2)
    assert names(store) == [".mine.tmp-9", "last", "step-000010"]


def test_unfinished_checkpoint_is_passed_over_and_goes_with_the_next_save(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 10)
    (save(store, 20).path / "COMMIT").unlink()
    again = CheckpointStore(store.folder, max_checkpoints=2)
    assert step_of(again) == 10
    assert "step-000020 was never finished: its file COMMIT is missing" in caplog.text
    save(again, 20)
    assert names(again) == ["last", "step-000010", "step-000020-2"]


def test_only_unfinished_ones_mean_start_anew(store: CheckpointStore) -> None:
    (save(store, 20).path / "COMMIT").unlink()
    assert CheckpointStore(store.folder, max_checkpoints=2).latest() is None


def test_tensors_on_disk_are_those_of_the_moment(store: CheckpointStore) -> None:
    weight: Tensor = torch.ones(3)
    checkpoint = store.save(1, tensors={"model": {"w": weight}}, state={}, facts={})
    weight.zero_()
    assert checkpoint.load("model")["w"].tolist() == [1, 1, 1]


def test_state_that_is_not_json_writes_nothing(store: CheckpointStore) -> None:
    state: Any = {"path": Path("x")}
    with pytest.raises(TypeError):
        store.save(1, tensors={}, state=state, facts={})
    with pytest.raises(TypeError):
        store.save(1, tensors={}, state={}, facts=state)
    assert names(store) == []


def test_rotation_without_change_reads_nothing(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    save(store, 10)
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("read a manifest"))
    store.rotate()
