"""Checkpoints that several processes write together, and read again in whatever number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from chainft.config.run import CheckpointConfig
from chainft.errors import CheckpointError, StorageError
from chainft.train import shared_checkpoints
from chainft.train.checkpoint import CheckpointStore
from chainft.train.parts import own_part, owners_of
from chainft.train.shared_checkpoints import SharedCheckpoints
from chainft.world import World
from tests.train.gloo import Ranks

COUNT = 3


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    several = Ranks(COUNT)
    yield several
    several.close()


def world_of(rank: int) -> World:
    return World(rank, COUNT, rank, COUNT, store=dist.distributed_c10d._get_default_store())


def whole_state(scale: float = 1.0) -> dict[str, Tensor]:
    state = {f"w{number}": torch.full((number + 1, 50), scale + number) for number in range(6)}
    return state | {"tied": state["w2"]}


def open_store(rank: int, folder: str, **settings: Any) -> SharedCheckpoints:
    return SharedCheckpoints.of(world_of(rank), Path(folder), CheckpointConfig(**settings))


def save(checkpoints: SharedCheckpoints, step: int, scale: float = 1.0) -> None:
    state = whole_state(scale)
    tensors = {"model": own_part(state, checkpoints.world), "optimizer": {}}
    checkpoints.save(step, tensors=tensors, state={"scale": scale}, facts={})


def saved_twice(rank: int, folder: str, asynchronous: bool) -> tuple[int, ...]:
    checkpoints = open_store(rank, folder, asynchronous=asynchronous)
    for step in (10, 20):
        save(checkpoints, step, step)
    checkpoints.mark_best(20)
    return checkpoints.steps()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_each_process_writes_a_part_and_one_reads_all(ranks: Ranks, tmp_path: Path, asynchronous: bool) -> None:
    assert ranks.run(saved_twice, str(tmp_path), asynchronous) == [(10, 20)] * COUNT
    found = CheckpointStore(tmp_path).latest()
    assert found is not None
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert {*names} < {path.name for path in found.path.iterdir()}
    assert found.manifest.format == 2
    files = [one for one in found.manifest.files if one.path in names]
    assert sorted(name for one in files for name in one.tensors) == [f"w{number}" for number in range(6)]
    assert [one.aliases for one in files if one.aliases] == [{"tied": "w2"}]
    loaded = found.load("model")
    expected = whole_state(20.0)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    assert loaded["tied"] is loaded["w2"]
    assert found.load("optimizer") == {}
    best = CheckpointStore(tmp_path).best()
    assert best is not None and best.path == found.path


def refused(rank: int, folder: str, fault: str, asynchronous: bool) -> str:
    checkpoints = open_store(rank, folder, asynchronous=asynchronous)
    save(checkpoints, 10)
    checkpoints.settle()
    os.environ |= {"CHAINFT_TESTING": "1", "CHAINFT_FAULT": fault, "RANK": str(rank)}
    try:
        save(checkpoints, 20)
        while True:  # The steps of a training.
            checkpoints.rotate()
    except StorageError as error:
        return str(error)
    finally:
        os.environ["CHAINFT_FAULT"] = ""
        assert checkpoints.steps() == (10,)
        save(checkpoints, 30)
        checkpoints.settle()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("fault", "file"),
    [
        ("enospc@phase=save.model,rank=2", "model-00003-of-00003.safetensors"),
        ("edquot@phase=save.optimizer,rank=0", "optimizer-00001-of-00003.safetensors"),
        ("eio@phase=save.commit,rank=0", "COMMIT"),
    ],
)
def test_what_one_process_cannot_write_fails_at_all(
    ranks: Ranks, tmp_path: Path, fault: str, file: str, asynchronous: bool
) -> None:
    """fault 27: the checkpoint before is untouched, nothing half-written stays, and the next save is whole."""
    messages = ranks.run(refused, str(tmp_path), fault, asynchronous)
    assert len({*messages}) == 1
    assert f"cannot write {file}: " in messages[0] and "needed, " in messages[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-000010", "step-000030"]


def verified(rank: int, folder: str) -> tuple[int | None, list[str], float]:
    """(step found, files that this process compared, a value)."""
    seen: list[str] = []
    original = shared_checkpoints.verify_files

    def log(path: Path, entries: Any) -> None:
        seen.extend(f"{path.name}/{entry.path}" for entry in entries)
        original(path, entries)

    shared_checkpoints.verify_files = log  # type: ignore[attr-defined]
    try:
        found = open_store(rank, folder).latest()
        assert found is not None
        return found.step, seen, float(found.load("model")["w5"][0, 0])
    finally:
        shared_checkpoints.verify_files = original  # type: ignore[attr-defined]


def test_each_file_is_verified_by_one_process(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(saved_twice, str(tmp_path), False)
    found = ranks.run(verified, str(tmp_path))
    assert [(step, value) for step, _, value in found] == [(20, 25.0)] * COUNT
    seen = [file for _, files, _ in found for file in files]
    assert len(seen) == len({*seen}) == 7
    assert all(files for _, files, _ in found)


def test_damage_that_one_process_sees_makes_all_take_the_one_before(ranks: Ranks, tmp_path: Path) -> None:
    """fault 38."""
    ranks.run(saved_twice, str(tmp_path), False)
    for name in ("model-00002-of-00003.safetensors", "optimizer-00003-of-00003.safetensors"):
        path = tmp_path / "step-000020" / name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert [(step, value) for step, _, value in ranks.run(verified, str(tmp_path))] == [(10, 15.0)] * COUNT


def refusal(rank: int, folder: str) -> str:
    try:
        open_store(rank, folder).latest()
    except CheckpointError as error:
        return error.render()
    return "none"


def test_when_all_are_damaged_all_processes_say_so(ranks: Ranks, tmp_path: Path) -> None:
    """fault 38: a missing part is as bad as a changed one."""
    ranks.run(saved_twice, str(tmp_path), False)
    for step in (10, 20):
        (tmp_path / f"step-0000{step}" / "model-00003-of-00003.safetensors").unlink()
    messages = ranks.run(refusal, str(tmp_path))
    assert len({*messages}) == 1
    assert "model-00003-of-00003.safetensors of checkpoint step-000020 is damaged: it is missing" in messages[0]


def sharded_part(rank: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(7, 7, bias=False) for _ in range(4)], nn.Linear(7, 7, bias=False))
    model[4].weight = model[1].weight
    whole = {name: value.detach().clone() for name, value in model.state_dict().items()}
    fully_shard(model, mesh=init_device_mesh("cpu", (COUNT,)))
    return own_part(model.state_dict(keep_vars=True), world_of(rank)), whole


def test_slices_are_put_together_by_their_writer_alone(ranks: Ranks) -> None:
    found = ranks.run(sharded_part)
    parts, whole = [part for part, _ in found], found[0][1]
    assert [sorted(part) for part in parts] == [["0.weight"], ["1.weight", "2.weight", "4.weight"], ["3.weight"]]
    assert all(torch.equal(value, whole[name]) for part in parts for name, value in part.items())


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(1, 8))
def test_owners_are_neighbours_with_about_as_much_each(sizes: list[int], count: int) -> None:
    owners = owners_of(sizes, count)
    assert owners == sorted(owners)
    assert all(0 <= owner < count for owner in owners)
    for owner in range(count):
        share = sum(size for size, one in zip(sizes, owners, strict=True) if one == owner)
        assert share <= sum(sizes) / count + max(sizes, default=0)
