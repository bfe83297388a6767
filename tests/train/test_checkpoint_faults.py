"""Saving while the process is killed, the disk fills up or the folder goes: nothing that was committed is lost.

One helper process imports torch once and forks a child for each fault, so that real kills stay cheap.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from chainft.errors import StorageError
from chainft.train.checkpoint import CheckpointStore

PHASES = ("model", "optimizer", "state", "manifest", "rename", "commit", "links", "rotate", "best")
SAVED = {"model": {"w": torch.ones(50, 20)}, "optimizer": {"w::m": torch.ones(100, 20)}}
HELPER = """
import json, os, random, resource, signal, sys, time
from pathlib import Path
import torch
from chainft.errors import ChainftError
from chainft.train.checkpoint import CheckpointStore

def tensors(scale):
    return {"model": {"w": torch.full((50, 20), float(scale))}, "optimizer": {"w::m": torch.full((100, 20), float(scale))}}

def child(job):
    os.environ.update(job.get("environment", {}))
    if "file_size" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
    store = CheckpointStore(Path(job["folder"]), max_checkpoints=1)
    state = {"text": "x" * job.get("state_size", 1)}
    for step in job["steps"]:
        store.save(step, tensors=tensors(step), state=state, facts={"list": ["fact"] * job.get("facts", 1)})
        if step % 20 == 0:
            store.mark_best(step)

def run(job):
    process = os.fork()
    if process:
        if "kill_after_s" in job:
            time.sleep(job["kill_after_s"])
            os.kill(process, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        child(job)
    except ChainftError as error:
        Path(job["folder"]).with_suffix(".error").write_text(error.render())
        os._exit(error.exit_code)
    except BaseException as error:
        Path(job["folder"]).with_suffix(".error").write_text(repr(error))
        os._exit(99)
    os._exit(0)

print(json.dumps([run(job) for job in json.load(sys.stdin)]))
"""


def run_jobs(jobs: list[dict[str, Any]]) -> list[int]:
    """The exit code of each job; negative: ended by that signal."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHAINFT_")}
    done = subprocess.run(
        [sys.executable, "-c", HELPER],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
    codes: list[int] = json.loads(done.stdout)
    return codes


def kill_job(phase: str, folder: Path) -> dict[str, Any]:
    """Save step 20 and be killed at that phase."""
    environment = {"CHAINFT_TESTING": "1", "CHAINFT_FAULT": f"kill@phase=save.{phase}"}
    return {"folder": str(folder), "steps": [20], "environment": environment}


def folder_with_step_10(folder: Path) -> Path:
    CheckpointStore(folder, max_checkpoints=1).save(10, tensors=SAVED, state={}, facts={})
    return folder


def assert_goes_on(folder: Path, allowed: tuple[int, ...]) -> int:
    """The newest checkpoint is whole and of an allowed step, and a new process saves and cleans up."""
    found = CheckpointStore(folder).latest()
    assert found is not None
    assert found.step in allowed
    expected = 1.0 if found.step == 10 and not found.state else float(found.step)
    assert torch.equal(found.load("model")["w"], torch.full((50, 20), expected))
    assert torch.equal(found.load("optimizer")["w::m"], torch.full((100, 20), expected))
    again = CheckpointStore(folder, max_checkpoints=1)
    again.latest()
    last = again.save(10_000, tensors=SAVED, state={}, facts={})
    again.mark_best(10_000)
    assert sorted(path.name for path in folder.iterdir()) == ["best", "last", last.path.name]
    return found.step


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each phase of a save of step 20, the folder that a SIGKILL there left behind."""
    folders = {phase: folder_with_step_10(tmp_path_factory.mktemp(phase) / "c") for phase in PHASES}
    jobs = [kill_job(phase, folder) for phase, folder in folders.items()]
    assert run_jobs(jobs) == [-signal.SIGKILL] * len(PHASES)
    return folders


@pytest.mark.parametrize("phase", PHASES)
def test_killed_in_any_phase_of_a_save_leaves_a_whole_checkpoint(phase: str, killed: dict[str, Path]) -> None:
    """fault 24: each save phase; the old checkpoint until COMMIT is written, the new one from then on."""
    step = assert_goes_on(killed[phase], (10, 20))
    assert step == (20 if phase in ("links", "rotate", "best") else 10)


def test_killed_in_the_first_save_leaves_nothing_or_all_of_it(tmp_path: Path) -> None:
    """fault 24: a run without any checkpoint yet starts anew and is not refused as damaged."""
    folders = {phase: tmp_path / phase for phase in PHASES[:-1]}
    assert run_jobs([kill_job(phase, folder) for phase, folder in folders.items()]) == [-signal.SIGKILL] * 8
    for phase, folder in folders.items():
        found = CheckpointStore(folder, max_checkpoints=1).latest()
        assert (found.step if found else None) == (20 if phase in ("links", "rotate") else None)
        CheckpointStore(folder, max_checkpoints=1).save(30, tensors=SAVED, state={}, facts={})
        assert sorted(path.name for path in folder.iterdir()) == ["last", "step-000030"]


def test_commit_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fault 24: a half-written COMMIT would make the only checkpoint count as damaged."""
    store = CheckpointStore(tmp_path, max_checkpoints=1)

    def refuse(source: Path, target: Path) -> Path:
        assert not target.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(KeyboardInterrupt):
        store.save(20, tensors=SAVED, state={}, facts={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files are read from /proc")
def test_everything_is_flushed_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that a power cut needs: files, manifest, folder; then the name; then COMMIT, parent; then the link."""
    store = CheckpointStore(tmp_path / "c", max_checkpoints=1)
    events: list[str] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def shown(path: Path) -> str:
        return re.sub(r"\.tmp-\d+", ".tmp", str(path.relative_to(tmp_path)))

    def log_fsync(descriptor: int) -> None:
        events.append(f"flush {shown(Path(os.readlink(f'/proc/self/fd/{descriptor}')))}")  # noqa: PTH115
        fsync(descriptor)

    def log_rename(source: Path, target: Path) -> Path:
        events.append(f"rename {shown(target)}")
        return rename(source, target)

    def log_replace(source: Path, target: Path) -> Path:
        events.append(f"rename {shown(target)}")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(Path, "rename", log_rename)
    monkeypatch.setattr(Path, "replace", log_replace)
    store.save(20, tensors=SAVED, state={}, facts={})
    parts = ("model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json")
    assert events == [
        *(f"flush c/.step-000020.tmp/{part}" for part in parts),
        "flush c/.step-000020.tmp",
        "rename c/step-000020",
        "flush c/step-000020/.COMMIT.tmp",
        "rename c/step-000020/COMMIT",
        "flush c/step-000020",
        "flush c",
        "rename c/last",
        "flush c",
    ]


def test_killed_at_random_moments_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """fault 24, fault 25: 30 kills while saving without pause, each from the folder that the one before left."""
    folder = folder_with_step_10(tmp_path / "c")
    steps = list(range(20, 10_000, 10))
    jobs = [{"folder": str(folder), "steps": steps, "kill_after_s": 0.005 + 0.0023 * n} for n in range(30)]
    assert run_jobs(jobs) == [-signal.SIGKILL] * 30
    pause = 0.1
    while CheckpointStore(folder).latest().step == 10:  # type: ignore[union-attr]  # A machine so busy that nothing was saved yet.
        pause *= 2
        assert run_jobs([{"folder": str(folder), "steps": steps, "kill_after_s": pause}]) == [-signal.SIGKILL]
    assert assert_goes_on(folder, (10, *steps)) > 10


FileLimit = namedtuple("FileLimit", "file file_size state_size facts")
LIMITS = [
    FileLimit("model.safetensors", 2_000, 1, 1),
    FileLimit("optimizer.safetensors", 6_000, 1, 1),
    FileLimit("state.json", 12_000, 20_000, 1),
    FileLimit("MANIFEST.json", 12_000, 1, 5_000),
]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each file, the folder in which that file met the system's limit of file sizes."""
    folders = {limit.file: folder_with_step_10(tmp_path_factory.mktemp("limit") / "c") for limit in LIMITS}
    jobs = [limit._asdict() | {"folder": str(folders[limit.file]), "steps": [20]} for limit in LIMITS]
    assert run_jobs(jobs) == [7] * len(LIMITS)
    return folders


@pytest.mark.parametrize("file", [limit.file for limit in LIMITS])
def test_file_that_cannot_be_written_whole_is_named_and_leaves_nothing(file: str, limited: dict[str, Path]) -> None:
    """fault 27: RLIMIT_FSIZE at model, optimizer, state and manifest."""
    folder = limited[file]
    message = folder.with_suffix(".error").read_text(encoding="utf-8")
    assert f"cannot write {file}: File too large; " in message
    assert "needed, " in message
    assert " free" in message
    assert f"{os.sep}step-000020{os.sep}{file}" in message
    assert sorted(path.name for path in folder.iterdir()) == ["last", "step-000010"]
    assert_goes_on(folder, (10,))


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_fault(text: str) -> None:
        monkeypatch.setenv("CHAINFT_TESTING", "1")
        monkeypatch.setenv("CHAINFT_FAULT", text)

    return set_fault


@pytest.mark.parametrize("phase", PHASES[:6])
@pytest.mark.parametrize("action", ["enospc", "erofs", "eacces", "edquot"])
def test_refusal_of_the_system_keeps_the_checkpoint_before(
    tmp_path: Path, action: str, phase: str, inject: Any
) -> None:
    """fault 27, fault 28: full disk, read-only file system, no permission, quota, failing rename."""
    folder = folder_with_step_10(tmp_path / "c")
    store = CheckpointStore(folder, max_checkpoints=1)
    inject(f"{action}@phase=save.{phase}")
    with pytest.raises(StorageError) as caught:
        store.save(20, tensors=SAVED, state={}, facts={})
    assert caught.value.exit_code == 7
    assert os.strerror(getattr(errno, action.upper())) in str(caught.value)
    assert "12.0 kB needed" in str(caught.value)
    assert sorted(path.name for path in folder.iterdir()) == ["last", "step-000010"]
    inject("")
    assert store.save(20, tensors=SAVED, state={}, facts={}).path.name == "step-000020"


@pytest.mark.parametrize("phase", ["links", "best"])
def test_link_that_cannot_move_leaves_the_new_checkpoint_committed(tmp_path: Path, phase: str, inject: Any) -> None:
    """fault 27."""
    folder = folder_with_step_10(tmp_path / "c")
    store = CheckpointStore(folder, max_checkpoints=2)
    inject(f"raise@phase=save.{phase}")
    with pytest.raises(RuntimeError):
        store.save(20, tensors=SAVED, state={}, facts={})
        store.mark_best(20)
    assert CheckpointStore(folder).steps() == (10, 20)


def test_unexpected_failure_leaves_no_half_folder(tmp_path: Path, inject: Any) -> None:
    folder = folder_with_step_10(tmp_path / "c")
    inject("raise@phase=save.commit")
    with pytest.raises(RuntimeError):
        CheckpointStore(folder, max_checkpoints=1).save(20, tensors=SAVED, state={}, facts={})
    assert sorted(path.name for path in folder.iterdir()) == ["last", "step-000010"]


def test_too_little_space_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fault 27: asked of the file system that holds the folder, with a tenth to spare."""
    folder = folder_with_step_10(tmp_path / "c")
    asked: list[Path] = []
    usage = namedtuple("usage", "total used free")

    def disk_usage(path: Path) -> Any:
        asked.append(path)
        return usage(10**6, 0, 13_000)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    with pytest.raises(StorageError, match=r"not enough disk space: 13\.2 kB needed, 13\.0 kB free") as caught:
        CheckpointStore(folder, max_checkpoints=1).save(20, tensors=SAVED, state={}, facts={})
    assert asked == [folder]
    assert caught.value.problems[0].where == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["last", "step-000010"]


def test_folder_deleted_in_mid_run_is_named(tmp_path: Path) -> None:
    """fault 28."""
    folder = folder_with_step_10(tmp_path / "run" / "c")
    store = CheckpointStore(folder, max_checkpoints=1)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(StorageError, match="No such file or directory") as caught:
        store.save(20, tensors=SAVED, state={}, facts={})
    assert str(folder) in caught.value.render()


def test_folder_that_is_a_file_is_refused_at_the_start(tmp_path: Path) -> None:
    """fault 28."""
    (tmp_path / "c").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot write c: File exists"):
        CheckpointStore(tmp_path / "c", max_checkpoints=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused_at_the_start(tmp_path: Path) -> None:
    """fault 28."""
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        CheckpointStore(tmp_path / "c", max_checkpoints=1)


def test_a_damaged_step_that_is_done_again_counts(tmp_path: Path) -> None:
    """fault 38: after falling back, training saves the same steps once more."""
    first = CheckpointStore(tmp_path, max_checkpoints=2)
    for step in (5, 9, 10):
        first.save(step, tensors=SAVED, state={}, facts={})
    damaged = tmp_path / "step-000010" / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 1
    damaged.write_bytes(content)
    store = CheckpointStore(tmp_path, max_checkpoints=2)
    found = store.latest()
    assert found is not None
    assert found.step == 9
    store.rotate()
    store.save(10, tensors=SAVED, state={}, facts={})
    store.mark_best(10)
    assert 10 in store.steps()
    again = CheckpointStore(tmp_path, max_checkpoints=2)
    assert [one.step for one in (again.latest(), again.best()) if one] == [10, 10]
