"""When training evaluates, saves, remembers the best and stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chainft.config.run import CheckpointConfig, DataConfig, EvaluationConfig, RunConfig, TaskConfig, TrainConfig
from chainft.data.example import Example, Origin
from chainft.errors import ConfigError, DivergedError, Stopped
from chainft.run_folder import RunFolder
from chainft.tasks.base import Scores
from chainft.train.fit import Fit, FitState, greater_is_better, is_due
from chainft.train.leading import StepFacts, Update
from chainft.train.learner import Course
from chainft.train.shared_checkpoints import SharedCheckpoints
from chainft.world import World

STEPS = 6


class FakeLearner:
    """Adds one to its only weight at each step; three steps an epoch."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.task = SimpleNamespace(main_metric="score")
        self.course = Course(num_examples=9, batch_size=3, total_steps=STEPS)
        self.accelerator = SimpleNamespace(scaler=None)
        self.max_rows = 3
        self.tables = ()
        self.division = self.sharding = None
        self.world = World()
        self.plain_model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.plain_model.weight)
        self.plain_optimizer = torch.optim.SGD(self.plain_model.parameters(), lr=0.1)
        self.broken: set[int] = set()
        self.leads = False
        self.told: list[str] = []

    def begin(self, step: int) -> Update:
        facts = self.update(step)
        self.told.append(f"begin {step}")

        def known() -> StepFacts:
            self.told.append(f"known {step}")
            return facts

        return Update(known, leads=self.leads)

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self.plain_model.load_state_dict(state)

    def update(self, step: int) -> StepFacts:
        finite = step + 1 not in self.broken
        if finite:
            with torch.no_grad():
                self.plain_model.weight += 1
        return StepFacts(step + 1, 0.5 if finite else float("nan"), 0.1, 1.0, 3, 30, finite)

    def examples_of(self, step: int) -> list[int]:
        return [0, 1]


class Stop:
    """A stop request that comes when told to."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def agree(self) -> None:
        """There is one process."""

    def check(self) -> None:
        if self.signal is not None:
            raise Stopped("stopped", slug="stopped")


class Recorder:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.evaluations: list[int] = []

    def step(self, facts: StepFacts, epoch: float, seconds: float) -> None:
        self.steps.append(facts.step)

    def evaluation(self, split: str, step: int, epoch: float, scores: Scores) -> None:
        self.evaluations.append(step)


def config(**parts: Any) -> RunConfig:
    base = RunConfig(task=TaskConfig(name="ner"), data=DataConfig(name="conll"))
    return replace(base, **parts)


def make(folder: Path, settings: RunConfig, scores: dict[int, float] | None) -> Any:
    values = scores or {}
    learner: Any = FakeLearner(settings)
    stop: Any = Stop()
    recorder: Any = Recorder()
    example = Example({"text": "the words"}, Origin("train.csv", 7))
    return Fit(
        learner,
        SharedCheckpoints.of(World(), folder / "checkpoints", settings.checkpoint),
        folder=RunFolder(folder),
        recorder=recorder,
        stop=stop,
        evaluate=None if scores is None else lambda step: Scores({"score": values.get(step, 0.0)}),
        examples=[example, example],
        facts={"data": "x"},
    )


def test_it_evaluates_and_saves_each_epoch_by_default(tmp_path: Path) -> None:
    fit = make(tmp_path, config(), {3: 0.1, 6: 0.2})
    state = fit.run()
    assert fit.recorder.steps == [1, 2, 3, 4, 5, 6]
    assert fit.recorder.evaluations == [3, 6]
    assert fit.checkpoints.steps() == (3, 6)
    assert (state.best_step, state.best_value) == (6, 0.2)


def test_the_best_checkpoint_is_kept_and_found(tmp_path: Path) -> None:
    settings = config(evaluation=EvaluationConfig(every=1), checkpoint=CheckpointConfig(max_checkpoints=1))
    fit = make(tmp_path, settings, {1: 0.1, 2: 0.9, 3: 0.3})
    fit.run()
    assert fit.checkpoints.best().step == 2
    assert fit.checkpoints.latest().step == STEPS


def test_patience_counts_evaluations_without_improvement(tmp_path: Path) -> None:
    fit = make(tmp_path, config(evaluation=EvaluationConfig(every=1, patience=2)), {1: 0.5, 2: 0.4, 3: 0.5, 4: 0.9})
    state = fit.run()
    assert state.stopped_early
    assert (state.step, state.best_step) == (3, 1)


def test_min_delta_is_the_least_improvement(tmp_path: Path) -> None:
    settings = EvaluationConfig(every=1, patience=1, min_delta=0.2)
    assert make(tmp_path, config(evaluation=settings), {1: 0.5, 2: 0.6}).run().step == 2


def test_a_loss_is_better_when_it_falls(tmp_path: Path) -> None:
    settings = config(evaluation=EvaluationConfig(every=1, metric="loss"))
    fit = make(tmp_path, settings, {})
    fit.evaluate = lambda step: Scores({"loss": abs(step - 4) + 1.0})
    assert fit.run().best_step == 4
    assert greater_is_better(config(evaluation=EvaluationConfig(metric="loss", greater_is_better=True)), "loss")


def test_without_validation_it_saves_each_epoch_and_has_no_best(tmp_path: Path) -> None:
    fit = make(tmp_path, config(), None)
    state = fit.run()
    assert state.best_step is None
    assert fit.checkpoints.steps() == (3, 6)


def test_a_step_begins_before_the_last_is_known_but_where_something_is_due(tmp_path: Path) -> None:
    fit = make(tmp_path, config(checkpoint=CheckpointConfig(every=2)), {3: 0.1, 6: 0.2})
    fit.learner.leads = True
    fit.run()
    told = "begin 0, begin 1, known 0, known 1, begin 2, known 2, begin 3, known 3, begin 4, begin 5, known 4, known 5"
    assert ", ".join(fit.learner.told) == told
    assert fit.checkpoints.steps() == (3, 6) and fit.recorder.steps == [1, 2, 3, 4, 5, 6]
    weights = [fit.checkpoints.latest().load("model")["weight"].item()]
    assert weights == [STEPS]


def test_a_step_has_the_time_of_its_own_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the last one, which has begun when the one before is not known yet."""
    now = [0.0]
    monkeypatch.setattr("chainft.train.fit.time.perf_counter", lambda: now[0])
    fit = make(tmp_path, config(), None)
    fit.learner.leads = True
    begin = fit.learner.begin

    def slow(step: int) -> Update:
        now[0] += 10.0
        update = begin(step)

        def known() -> StepFacts:
            now[0] += 1.0 + step
            return update.facts()

        return Update(known, leads=True)

    fit.learner.begin = slow
    times: list[float] = []
    count = fit._count
    monkeypatch.setattr(fit, "_count", lambda facts, seconds: (times.append(seconds), count(facts, seconds)))
    fit.run()
    assert times == [11.0 + step for step in range(STEPS)]


def test_a_stop_request_waits_for_the_step_that_runs_ahead(tmp_path: Path) -> None:
    fit = make(tmp_path, config(), {3: 0.1, 6: 0.2})
    fit.learner.leads = True
    normal = fit.learner.update

    def update(step: int) -> StepFacts:
        if step == 1:
            fit.stop.signal = 15
        return normal(step)

    fit.learner.update = update
    with pytest.raises(Stopped):
        fit.run()
    found = fit.checkpoints.latest()
    assert found.step == 2 and found.load("model")["weight"].item() == 2


def test_a_loss_that_is_not_finite_stops_though_the_next_step_has_begun(tmp_path: Path) -> None:
    fit = make(tmp_path, config(), {})
    fit.learner.leads = True
    fit.learner.broken = {1}
    with pytest.raises(DivergedError, match="step 1"):
        fit.run()
    assert fit.checkpoints.steps() == () and fit.recorder.steps == []


def test_an_unknown_metric_lists_those_there_are(tmp_path: Path) -> None:
    fit = make(tmp_path, config(evaluation=EvaluationConfig(metric="scor")), {})
    with pytest.raises(ConfigError, match="score") as caught:
        fit.run()
    assert "did you mean 'score'" in caught.value.render()


def test_a_stop_request_saves_the_step_and_the_resumed_training_goes_on(tmp_path: Path) -> None:
    """fault 26"""
    scores = {3: 0.1, 6: 0.2}
    fit = make(tmp_path, config(), scores)
    normal = fit.learner.update

    def update(step: int) -> StepFacts:
        if step == 3:
            fit.stop.signal = 15
        return normal(step)

    fit.learner.update = update
    with pytest.raises(Stopped):
        fit.run()
    found = fit.checkpoints.latest()
    assert found.step == 4
    again = make(tmp_path, config(), scores)
    again.restore(found)
    state = again.run()
    assert again.recorder.steps == [5, 6]
    assert float(again.learner.plain_model.weight.detach()) == STEPS
    assert (state.best_step, state.best_value) == (6, 0.2)


def test_an_evaluation_that_was_interrupted_is_done_again(tmp_path: Path) -> None:
    """fault 26"""
    fit = make(tmp_path, config(), {})

    def interrupted(step: int) -> Scores:
        fit.stop.signal = 15
        fit.stop.check()
        raise AssertionError("not reached")

    fit.evaluate = interrupted
    with pytest.raises(Stopped):
        fit.run()
    again = make(tmp_path, config(), {3: 0.7})
    again.restore(again.checkpoints.latest())
    assert again.state.step == 3
    assert again.run().best_step == 3
    assert again.recorder.evaluations == [3, 6]


def test_a_loss_that_is_not_finite_stops_and_names_the_examples(tmp_path: Path) -> None:
    """fault 29"""
    fit = make(tmp_path, config(), {})
    fit.learner.broken = {5}
    with pytest.raises(DivergedError, match="step 5"):
        fit.run()
    text = (tmp_path / "bad_batch.json").read_text(encoding="utf-8")
    assert "train.csv:7" in text
    assert "the words" in text
    assert fit.checkpoints.latest().step == 3


def test_allowed_steps_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    """fault 29"""
    fit = make(tmp_path, config(train=TrainConfig(max_nonfinite_steps=1)), {})
    fit.learner.broken = {2, 4}
    assert fit.run().step == STEPS
    assert float(fit.learner.plain_model.weight.detach()) == STEPS - 2
    too_many = make(tmp_path / "other", config(train=TrainConfig(max_nonfinite_steps=1)), {})
    too_many.learner.broken = {2, 3}
    with pytest.raises(DivergedError, match="step 3"):
        too_many.run()


@pytest.mark.parametrize(
    ("every", "expected"), [("epoch", [3, 6]), (2, [2, 4, 6]), (4, [4, 6]), (0.5, [3, 6]), (0.01, [1, 2, 3, 4, 5, 6])]
)
def test_intervals_always_end_with_the_last_step(every: Any, expected: list[int]) -> None:
    course = Course(num_examples=9, batch_size=3, total_steps=STEPS)
    assert [step for step in range(1, STEPS + 1) if is_due(every, step, course)] == expected


def test_the_state_survives_json(tmp_path: Path) -> None:
    fit = make(tmp_path, config(), {3: 0.25})
    fit.state = FitState(before={"values": {"score": 0.125}})
    fit.run()
    again = make(tmp_path, config(), {3: 0.25})
    again.restore(again.checkpoints.latest())
    assert again.state.before == {"values": {"score": 0.125}}
    assert again.state.best_value == 0.25


def test_an_evaluation_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    """A first loss of NaN would otherwise stay the best, since nothing is greater or less than it."""
    settings = config(evaluation=EvaluationConfig(every=2, patience=3))
    fit = make(tmp_path, settings, {2: float("nan"), 4: 0.3, 6: float("nan")})
    state = fit.run()
    assert (state.best_step, state.best_value) == (4, 0.3)
    assert fit.checkpoints.best().step == 4
    assert state.evaluations_without_improvement == 1


def test_min_delta_is_for_patience_and_not_for_the_best(tmp_path: Path) -> None:
    settings = config(evaluation=EvaluationConfig(every=1, patience=2, min_delta=0.2))
    state = make(tmp_path, settings, {1: 0.5, 2: 0.6, 3: 0.71, 4: 0.8, 5: 0.75, 6: 0.7}).run()
    assert (state.step, state.best_step) == (5, 4)


def test_more_patience_goes_on_with_a_run_that_stopped_early(tmp_path: Path) -> None:
    def settings(patience: int) -> RunConfig:
        return config(evaluation=EvaluationConfig(every=1, patience=patience))

    assert make(tmp_path, settings(1), {1: 0.5}).run().step == 2
    again = make(tmp_path, settings(9), {1: 0.5})
    again.restore(again.checkpoints.latest())
    assert again.run().step == STEPS


def test_a_micro_batch_that_was_not_halved_follows_the_config_on_resume(tmp_path: Path) -> None:
    fit = make(tmp_path, config(), {})
    fit.learner.max_rows = fit.learner.config.train.batch_size
    fit.run()
    again = make(tmp_path, config(train=TrainConfig(micro_batch_size=2)), {})
    again.learner.max_rows = 2
    again.restore(again.checkpoints.latest())
    assert again.learner.max_rows == 2


def test_a_micro_batch_that_was_halved_stays_halved_on_resume(tmp_path: Path) -> None:
    """fault 30"""
    fit = make(tmp_path, config(), {})
    fit.learner.max_rows = 1
    fit.run()
    again = make(tmp_path, config(), {})
    again.learner.max_rows = 32
    again.restore(again.checkpoints.latest())
    assert again.learner.max_rows == 1
