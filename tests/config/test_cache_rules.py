"""What the settings of the prefix cache may not say, before there is a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from chainft.config.changes import changes
from chainft.config.rules import parse_run
from chainft.errors import ConfigError

FROZEN = {"split": 2, "stages": {"stage0": {"frozen": True, "eval_mode": True}}}
LATER = {"split": 2, "stages": {"stage0": {"frozen": True, "unfreeze_at": 0.5}}}
PATTERN = {"split": 2, "stages": {"stage0": {"frozen": "layer.0"}}}
LINKED = {"order": ["a", "b"], "stages": {"a": {"model": "starter"}, "b": {"model": "starter", "frozen": True}}}
LINKED_FROZEN = {
    "order": ["a", "b"],
    "stages": {"a": {"model": "starter", "frozen": True, "eval_mode": True}, "b": {"model": "starter"}},
}
TOP_FROZEN = {"split": 2, "stages": {"stage1": {"frozen": True}}}


def given(chain: Mapping[str, Any], cache: Mapping[str, Any]) -> dict[str, Any]:
    return {"task": {"name": "ner"}, "data": {"name": "conll", "train": "x"}, "chain": chain, "cache": cache}


def problems(chain: Mapping[str, Any], cache: Mapping[str, Any]) -> dict[str | None, str]:
    """Key -> message of what is refused."""
    try:
        parse_run(given(chain, cache))
    except ConfigError as error:
        assert all(problem.slug == "no-effect" for problem in error.problems)
        return {problem.key: problem.message for problem in error.problems}
    return {}


@pytest.mark.parametrize("cache", [{}, {"prefix": True}, {"prefix": False}, {"dtype": "bfloat16", "max_gib": 3}])
def test_a_frozen_beginning_takes_every_setting(cache: dict[str, Any]) -> None:
    assert problems(FROZEN, cache) == problems(LINKED_FROZEN, cache) == {}


@pytest.mark.parametrize("chain", [{}, LATER, PATTERN, LINKED, TOP_FROZEN])
def test_without_a_frozen_beginning_settings_have_no_effect(chain: dict[str, Any]) -> None:
    assert problems(chain, {"prefix": True, "dtype": "float16", "max_gib": 3}).keys() == {
        "cache.prefix",
        "cache.dtype",
        "cache.max_gib",
    }
    assert problems(chain, {"prefix": False}) == {}  # Never: what it is anyway.


def test_the_reason_is_told() -> None:
    assert "'a', is trained" in problems(LINKED, {"prefix": True})["cache.prefix"]
    assert "'stage0', is trained" in problems(LATER, {"prefix": True})["cache.prefix"]


def test_a_cache_that_is_off_has_no_settings() -> None:
    assert problems(FROZEN, {"prefix": False, "dtype": "float16", "max_gib": 3}).keys() == {
        "cache.dtype",
        "cache.max_gib",
    }


def test_what_changes_a_number_on_resume_is_asked_for() -> None:
    old, new = (
        parse_run(given(FROZEN, {})),
        parse_run(given(FROZEN, {"prefix": True, "dtype": "float16", "max_gib": 3})),
    )
    assert {change.key: change.kind for change in changes(old, new)} == {
        "cache.prefix": "needs allow_change",
        "cache.dtype": "needs allow_change",
        "cache.max_gib": "free",
    }
