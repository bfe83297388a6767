"""Text that Hydra's grammar refuses: read as it is where it can mean nothing else."""

from __future__ import annotations

import shlex

import pytest

from chainft.config.compose import compose, compose_draft
from chainft.config.run import RunConfig
from chainft.errors import ConfigError

RUN = ["task=toy", "data.name=toy"]


def run(*words: str) -> RunConfig:
    return compose([*RUN, *words]).config


@pytest.mark.parametrize(
    "path", ["~/a.toy", "ü 日.toy", "a(1).toy", "a=b.toy", "it's.toy", 'say "x".toy', "#1 {x}.toy"]
)
def test_text_that_hydra_could_not_read_needs_no_quotes(path: str) -> None:
    assert run(f"data.train={path}").data.train == path
    assert run(f"model={path}").model.path == path


@pytest.mark.parametrize("value", ["[a", "it's, é", 'say "x", é', "choice(1"])
def test_what_could_mean_something_else_is_shown_in_quotes_that_work(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(f"data.train={value}")
    (problem,) = caught.value.problems
    assert "Exception" not in problem.message
    word = shlex.split((problem.help or "").rpartition("chainft: ")[2])[0]
    assert compose_draft([*RUN, word]).data["data"]["train"] == value
