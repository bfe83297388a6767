"""Saving while the training goes on: what counts is whole, what fails is told, and a resumed run is the same bit by bit."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chainft.cli.jobs import warm_context
from chainft.config.run import CheckpointConfig, EvaluationConfig
from chainft.errors import DivergedError, Stopped, StorageError
from chainft.train import joint_save
from chainft.train.checkpoint import CheckpointStore
from chainft.train.fit import Fit
from chainft.train.leading import StepFacts
from chainft.train.shared_checkpoints import SharedCheckpoints
from chainft.world import World
from tests.train.test_fit import STEPS, FakeLearner, config, make

PHASES = ("model", "optimizer", "state", "manifest", "rename", "commit", "links", "rotate", "best")


class RealLearner(FakeLearner):
    """Trains a small model by AdamW, with data that depend on the step alone."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        torch.manual_seed(1)
        self.plain_model: Any = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
        self.plain_optimizer: Any = torch.optim.AdamW(self.plain_model.parameters(), lr=0.05)

    def update(self, step: int) -> StepFacts:
        seeded = torch.Generator().manual_seed(step)
        rows, wanted = torch.randn(5, 8, generator=seeded), torch.randn(5, 4, generator=seeded)
        loss = (self.plain_model(rows) - wanted).square().mean()
        self.plain_optimizer.zero_grad()
        loss.backward()
        self.plain_optimizer.step()
        return StepFacts(step + 1, loss.item(), 0.1, 1.0, 3, 30, True)


def begin(folder: Path, *, every: int = 1, asynchronous: bool = True) -> Fit:
    """A training that saves each `every` steps, and gets better at each of its evaluations."""
    saving = CheckpointConfig(every=every, max_checkpoints=2, asynchronous=asynchronous)
    settings = config(evaluation=EvaluationConfig(every=2), checkpoint=saving)
    fit: Fit = make(folder, settings, {step: step / 10 for step in range(1, STEPS + 1)})
    learner: Any = RealLearner(settings)
    fit.learner = learner
    return fit


def go_on(folder: Path) -> Fit:
    fit = begin(folder)
    found = fit.checkpoints.latest()
    if found is not None:
        fit.restore(found)
    fit.run()
    return fit


def assert_same(fit: Fit, whole: Fit) -> None:
    """Weights, optimizer and counters, bit by bit, in memory and in the last checkpoint."""
    found, expected = (CheckpointStore(one.checkpoints.folder).latest() for one in (fit, whole))
    assert found is not None and expected is not None
    assert found.step == expected.step == STEPS
    for name in ("model", "optimizer"):
        tensors, others = found.load(name), expected.load(name)
        assert tensors.keys() == others.keys()
        assert all(torch.equal(value, others[key]) for key, value in tensors.items())
    for name, value in fit.learner.plain_model.state_dict().items():
        assert torch.equal(value, whole.learner.plain_model.state_dict()[name])
    times = {"train_time_s": 0.0}
    assert {**found.state["fit"], **times} == {**expected.state["fit"], **times}
    best = CheckpointStore(fit.checkpoints.folder).best()
    assert best is not None and best.step == STEPS


def train_under(folder: str, fault: str) -> None:
    os.environ |= {"CHAINFT_TESTING": "1", "CHAINFT_FAULT": fault}
    torch.set_num_threads(1)
    go_on(Path(folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """Undisturbed, and saved in the old way."""
    fit = begin(tmp_path_factory.mktemp("whole"), asynchronous=False)
    fit.run()
    return fit


def test_the_way_of_saving_changes_nothing(whole: Fit, tmp_path: Path) -> None:
    assert_same(go_on(tmp_path), whole)


@pytest.mark.parametrize("phase", PHASES)
def test_killed_in_any_phase_it_goes_on_to_the_same_bits(whole: Fit, tmp_path: Path, phase: str) -> None:
    """fault 24, fault 25: killed in the save of step 4, and once more in that of step 5 by the run that goes on."""
    for step in (4, 5):
        if step == 5 and phase == "best":
            break  # No evaluation.
        fault = f"kill@step={step},phase=save.{phase}"
        process: Any = warm_context().Process(target=train_under, args=(str(tmp_path), fault))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        found = CheckpointStore(tmp_path / "checkpoints").latest()
        assert found is not None
        assert found.step == (step if phase in ("links", "rotate", "best") else step - 1)
    assert_same(go_on(tmp_path), whole)


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CHAINFT_TESTING", "1")
    return lambda fault: monkeypatch.setenv("CHAINFT_FAULT", fault)


def store_of(folder: Path) -> SharedCheckpoints:
    return SharedCheckpoints.of(World(), folder, CheckpointConfig(asynchronous=True))


def save(checkpoints: SharedCheckpoints, step: int, weight: torch.Tensor) -> None:
    tensors = {"model": {"w": weight, "tied": weight}, "optimizer": {}}
    checkpoints.save(step, tensors=tensors, state={}, facts={})


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is written before it is open."""
    opened = threading.Event()
    original = joint_save.write_parts

    def write(*arguments: Any, **named: Any) -> Any:
        assert opened.wait(60)
        return original(*arguments, **named)

    monkeypatch.setattr(joint_save, "write_parts", write)
    return opened


def test_training_goes_on_while_the_tensors_of_the_moment_are_written(tmp_path: Path, gate: threading.Event) -> None:
    checkpoints, weight = store_of(tmp_path), torch.ones(3)
    save(checkpoints, 1, weight)
    assert checkpoints.has(1)
    checkpoints.mark_best(1)
    checkpoints.rotate()
    assert CheckpointStore(tmp_path).steps() == ()
    weight.zero_()
    gate.set()
    assert checkpoints.steps() == (1,)
    best = checkpoints.best()
    assert best is not None
    loaded = best.load("model")
    assert loaded["w"].tolist() == [1, 1, 1]
    assert loaded["tied"] is loaded["w"]


def test_the_next_save_waits_for_the_one_before(tmp_path: Path, inject: Any) -> None:
    inject("sleep@phase=save.model,seconds=0.1")
    checkpoints = store_of(tmp_path)
    for step in (1, 2, 3):
        save(checkpoints, step, torch.full((3,), float(step)))
        assert step == 1 or step - 1 in CheckpointStore(tmp_path).steps()
    assert checkpoints.steps() == (2, 3)


def has_failed(checkpoints: SharedCheckpoints) -> bool:
    return checkpoints._background is not None and checkpoints._background.has_failed


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def test_an_error_of_the_writer_ends_the_training_at_the_next_step(tmp_path: Path, inject: Any) -> None:
    """fault 27."""
    fit = begin(tmp_path)
    normal = fit.learner.update

    def update(step: int) -> StepFacts:
        if step == 3:
            fit.checkpoints.settle()  # The save of step 3 must not meet the fault of this one.
            inject("enospc@step=4,phase=save.optimizer")
        if step == 4:
            wait_until(lambda: has_failed(fit.checkpoints))
        return normal(step)

    fit.learner.update = update  # type: ignore[method-assign]
    with pytest.raises(StorageError, match=r"cannot write optimizer\.safetensors: No space left on device"):
        fit.run()
    assert fit.state.step == 5
    assert CheckpointStore(tmp_path / "checkpoints").steps() == (2, 3)
    inject("")
    assert go_on(tmp_path).state.step == STEPS


@pytest.mark.parametrize(("fault", "error"), [("sleep@seconds=0.3", Stopped), ("enospc@step=4", StorageError)])
def test_who_is_asked_to_stop_says_so_when_all_is_saved(
    tmp_path: Path, inject: Any, fault: str, error: type[Exception]
) -> None:
    """fault 26: stopped means saved; where it cannot be saved, that is what is told."""
    fit: Any = begin(tmp_path, every=4)
    inject(f"{fault}{',' if '=' in fault else ''}phase=save.model")
    normal = fit.learner.update

    def update(step: int) -> StepFacts:
        if step == 3:
            fit.stop.signal = signal.SIGTERM
        return normal(step)  # type: ignore[no-any-return]

    fit.learner.update = update
    with pytest.raises(error):
        fit.run()
    assert CheckpointStore(tmp_path / "checkpoints").steps() == ((2, 4) if error is Stopped else (2,))


def test_when_training_fails_what_was_handed_over_is_committed_first(tmp_path: Path, inject: Any) -> None:
    fit = begin(tmp_path)
    inject("sleep@step=5,phase=save.model,seconds=0.4")
    normal = fit.learner.update

    def update(step: int) -> StepFacts:
        facts = normal(step)
        return facts if step < 5 else StepFacts(step + 1, float("nan"), 0.1, 1.0, 3, 30, False)

    fit.learner.update = update  # type: ignore[method-assign]
    with pytest.raises(DivergedError):
        fit.run()
    assert CheckpointStore(tmp_path / "checkpoints").steps() == (4, 5)


def test_a_failure_of_both_tells_that_of_the_training_and_warns_of_the_other(
    tmp_path: Path, inject: Any, caplog: pytest.LogCaptureFixture
) -> None:
    inject("sleep@phase=save.model,seconds=0.2;eio@phase=save.model")
    checkpoints = store_of(tmp_path)
    with pytest.raises(DivergedError), checkpoints.settled():
        save(checkpoints, 1, torch.ones(3))
        raise DivergedError("no number", slug="not-finite")
    assert "cannot write model.safetensors: Input/output error" in caplog.text
    assert checkpoints.steps() == ()
