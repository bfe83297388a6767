"""Hydra's sweep syntax becomes axes and jobs; what is wrong with any job is found before the first."""

from __future__ import annotations

import pytest

from chainft.config.sweep import SweepPlan, plan_sweep
from chainft.errors import ConfigError

RUN = ["task=toy", "data.name=toy"]


def plan(*words: str) -> SweepPlan:
    return plan_sweep([*RUN, *words])


def messages(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan(*words)
    return [problem.message for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("optimizer.lr=1e-4,3e-4", ("0.0001", "0.0003")),
        ("seed=range(1,4)", ("1", "2", "3")),
        ("seed=choice(5,7)", ("5", "7")),
        ("optimizer=adamw,lion", ("adamw", "lion")),
        ("optimizer=glob([a*])", ("adafactor", "adamw")),
        ("+seed=1,2", ("1", "2")),
        ("model=starter,google/bert", ("starter", "google/bert")),
        ("optimizer.options.betas=[0.9,0.99],[0.8,0.9]", ("[0.9,0.99]", "[0.8,0.9]")),
        ("seed=1,1,2", ("1", "2")),
    ],
)
def test_word_with_several_values_is_an_axis(word: str, values: tuple[str, ...]) -> None:
    (axis,) = plan(word).axes
    assert axis.values == values


def test_grid_is_every_combination_the_last_key_fastest() -> None:
    sweep = plan("seed=1,2", "optimizer=adamw,lion")
    assert [tuple(one.values()) for one in sweep.combinations()] == [
        ("1", "adamw"),
        ("1", "lion"),
        ("2", "adamw"),
        ("2", "lion"),
    ]


def test_words_of_a_job_hold_no_sweep_settings() -> None:
    sweep = plan("seed=1,2", "sweep=grid", "sweep.dir=x")
    assert sweep.job_words({"seed": "1"}) == (*RUN, "seed=1")
    assert sweep.config.dir == "x"


def test_interval_is_for_a_search() -> None:
    (axis,) = plan("optimizer.lr=tag(log,interval(1e-5,1e-3))", "sweep=optuna").axes
    assert (axis.low, axis.high, axis.log, axis.whole) == (1e-5, 1e-3, True, False)
    assert "sweep=grid" in messages("optimizer.lr=interval(1e-5,1e-3)")[0]


def test_whole_ends_make_a_whole_axis() -> None:
    (axis,) = plan("train.batch_size=interval(8,64)", "sweep=optuna").axes
    assert axis.whole and axis.samples() == ("8", "64")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1"], "nothing varies"),
        (["seed=1,2", "seed=3,4"], "varies twice"),
        (["seed=1,2", "run=x"], "names one run"),
        (["seed=1,2", "runs_dir=x"], "a folder of its own"),
        (["run=x,y"], "one for the whole sweep"),
        (["sweep.seed=1,2"], "one for the whole sweep"),
        (["seed=1,2", "sweep.num_trials=3"], "no effect"),
        (["seed=1,2", "sweep.resume=true"], "no sweep is named"),
        (["seed=1,2", "sweep.nmae=optuna"], "not a setting"),
        (["optimizer.lr=interval(1,0)", "sweep=optuna"], "from a low to a high"),
        (["seed=1,2", "sweep=bayes"], "does not exist"),
        (["seed=1,2", "sweep.pruner=median"], "sweep=grid runs every combination"),
        (["seed=1,2", "sweep=optuna", "sweep.sampler=qmc"], "takes intervals only; seed is a list"),
        (["seed=interval(1,9)", "sweep=optuna", "sweep.sampler=cmaes"], "one alone would be drawn at random"),
        (["seed=1,2", "sweep=optuna", "data.validation_fraction=0"], "there are no validation examples"),
    ],
)
def test_wrong_sweep_is_refused(words: list[str], message: str) -> None:
    assert any(message in found for found in messages(*words))


def test_every_job_is_checked_before_the_first_starts() -> None:
    found = messages("optimizer.lr=1e-4,-1,-2", "train.batch_size=8,0")
    assert sum("optimizer.lr = -1" in one for one in found) == 1
    assert any("optimizer.lr = -2" in one for one in found)
    assert any("train.batch_size = 0" in one for one in found)


def test_both_ends_of_an_interval_are_checked() -> None:
    assert any("train.batch_size = 0" in one for one in messages("train.batch_size=interval(0,8)", "sweep=optuna"))


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "cmaes"])
def test_sampler_in_the_place_of_the_search_is_told(sampler: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan("seed=1,2", f"sweep={sampler}")
    assert f"did you mean 'sweep=optuna sweep.sampler={sampler}'?" in str(caught.value.problems[0].help)
