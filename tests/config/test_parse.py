"""Plain data becomes frozen dataclasses, or an error that lists everything wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.config.parse import dump, parse
from chainft.config.ranges import Limits
from chainft.config.run import Files, Interval, OptimizerConfig, RunConfig, TrainConfig
from chainft.errors import ConfigError, Problem


@dataclass(frozen=True)
class Inner:
    """Nested settings."""

    size: Annotated[int, Limits(low=1)] = 1
    name: str = "x"


@dataclass(frozen=True)
class Outer:
    """One field of each kind."""

    needed: int
    inner: Inner = field(default_factory=Inner)
    rate: Annotated[float, Limits(0, 1)] = 0.5
    enabled: bool = False
    mode: Literal["no", "bf16"] = "no"
    every: Interval = "epoch"
    files: Files = None
    names: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, bool | int | float | tuple[float, ...]] = field(default_factory=dict)


def problems(kind: type, data: object, at: str = "") -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(kind, data, at=at)
    return caught.value.problems


def outer(**values: object) -> Outer:
    return parse(Outer, {"needed": 1, **values})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rate", 1, 1.0),
        ("rate", "0.25", 0.25),
        ("rate", "1e-5", 1e-5),
        ("every", "epoch", "epoch"),
        ("every", 500, 500),
        ("every", "500", 500),
        ("every", 0.25, 0.25),
        ("files", None, None),
        ("files", "a.txt", "a.txt"),
        ("files", "12", "12"),
        ("files", ["a.txt", "b.txt"], ("a.txt", "b.txt")),
        ("columns", {"text": "sentence"}, {"text": "sentence"}),
        ("options", {"a": True, "b": 1, "c": 0.5, "d": [0.9, 1]}, {"a": True, "b": 1, "c": 0.5, "d": (0.9, 1.0)}),
        ("options", {"eps": "1e-6"}, {"eps": 1e-6}),
    ],
)
def test_value_of_the_right_kind_is_read(name: str, value: object, expected: object) -> None:
    got = getattr(outer(**{name: value}), name)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "slug", "words"),
    [
        ("rate", -0.1, "out-of-range", ["rate", "-0.1", "[0, 1]"]),
        ("rate", float("nan"), "out-of-range", ["nan"]),
        ("rate", True, "wrong-type", ["true", "a number in [0, 1]"]),
        ("rate", "abc", "wrong-type", ["'abc'", "text"]),
        ("rate", None, "wrong-type", ["null"]),
        ("needed", 1.5, "wrong-type", ["1.5", "a whole number"]),
        ("needed", True, "wrong-type", ["true"]),
        ("enabled", 1, "wrong-type", ["true or false"]),
        ("mode", "bf32", "not-a-choice", ["bf32", "no, bf16"]),
        ("every", 0, "out-of-range", ["0", "epoch", "[1, inf)", "(0, 1)"]),
        ("every", 1.0, "out-of-range", ["1.0", "epoch"]),
        ("every", "epochs", "wrong-type", ["epochs", "epoch"]),
        ("files", 3, "wrong-type", ["3", "text"]),
        ("names", "a", "wrong-type", ["a list"]),
        ("columns", ["a"], "wrong-type", ["a mapping"]),
        ("columns", {"text": 1}, "wrong-type", ["columns.text"]),
        ("options", {"x": {"y": 1}}, "wrong-type", ["options.x"]),
        ("inner", 3, "wrong-type", ["a mapping of settings"]),
        ("inner", {"size": 0}, "out-of-range", ["inner.size", "[1, inf)"]),
    ],
)
def test_wrong_value_is_refused_with_key_value_and_range(
    name: str, value: object, slug: str, words: list[str]
) -> None:
    """fault 2"""
    (problem,) = problems(Outer, {"needed": 1, name: value})
    assert problem.slug == slug
    assert problem.key is not None and problem.key.startswith(name)
    assert all(word in problem.message for word in [name, *words])


@pytest.mark.parametrize(
    ("name", "value", "help"),
    [
        ("rate", "0.5 ", "there are blanks within the quotes; write 0.5"),
        ("needed", 10.0, "write 10"),
        ("enabled", "yes", "write true, without quotes"),
        ("names", "a", "write a list: names=[a]"),
        ("mode", "bf17", "did you mean 'bf16'?"),
        ("every", "epochs", "did you mean 'epoch'?"),
    ],
)
def test_common_slip_is_explained(name: str, value: object, help: str) -> None:
    """fault 2"""
    assert problems(Outer, {"needed": 1, name: value})[0].help == help


def test_number_where_text_is_wanted_says_how_to_quote() -> None:
    (problem,) = problems(Inner, {"name": 2024})
    assert problem.help is not None and '"2024"' in problem.help


def test_every_violation_is_reported_at_once() -> None:
    """fault 5"""
    found = problems(Outer, {"rate": 2, "enabled": "maybe", "inner": {"size": 0, "colour": 1}, "extra": 1})
    assert {problem.key for problem in found} == {"needed", "rate", "enabled", "inner.size", "inner.colour", "extra"}


def test_missing_key_is_named_with_what_it_takes() -> None:
    (problem,) = problems(Outer, {})
    assert (problem.slug, problem.key) == ("missing-key", "needed")
    assert "a whole number" in problem.message


def test_at_goes_before_every_key() -> None:
    found = problems(Outer, {"rte": 1, "inner": {"size": 0}}, at="a.b")
    assert {problem.key for problem in found} == {"a.b.rte", "a.b.needed", "a.b.inner.size"}


def test_unknown_group_reports_each_setting_in_it() -> None:
    """fault 1"""
    (problem,) = problems(RunConfig, {"task": {"name": "toy"}, "data": {"name": "toy"}, "optim": {"lrr": 3}})
    assert problem.key == "optim.lrr"
    assert problem.help == "did you mean 'optimizer.lr'?"


def test_plugins_bring_their_own_fields() -> None:
    config = parse(RunConfig, {"task": {"name": "toy", "scheme": "iob2"}, "data": {"name": "toy", "separator": "|"}})
    assert dump(config.task) == {"name": "toy", "scheme": "iob2", "overlap": 8}
    assert dump(config.data)["separator"] == "|"


def test_task_that_does_not_exist_is_refused_with_those_that_do() -> None:
    found = problems(RunConfig, {"task": {"name": "toyy"}, "data": {"name": "toy"}})
    assert [problem.help for problem in found] == ["did you mean 'toy'?"]


def test_missing_task_lists_the_tasks() -> None:
    (problem,) = problems(RunConfig, {"data": {"name": "toy"}})
    assert problem.key == "task" and "toy" in problem.message


def test_own_check_of_a_class_is_reported_at_its_key() -> None:
    (problem,) = problems(RunConfig, {"task": {"name": "toy", "overlap": 13}, "data": {"name": "toy"}})
    assert problem.key == "task" and "bad luck" in problem.message


def test_parsed_is_frozen_and_dumps_back_to_the_same() -> None:
    data = {
        "task": {"name": "toy"},
        "data": {"name": "toy", "train": ["a", "b"]},
        "optimizer": {"options": {"b": [1]}},
    }
    config = parse(RunConfig, data)
    assert parse(RunConfig, dump(config)) == config
    with pytest.raises(AttributeError):
        config.seed = 1  # type: ignore[misc]


_PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(data=_PLAIN)
def test_no_data_whatever_raises_anything_but_config_errors(data: object) -> None:
    for kind in (Outer, TrainConfig, OptimizerConfig):
        try:
            parsed = parse(kind, data)
        except ConfigError as error:
            assert error.problems
        else:
            assert isinstance(parsed, kind)


@given(text=st.text(max_size=8))
def test_text_is_read_as_a_number_only_when_it_is_wholly_one(text: str) -> None:
    try:
        value = parse(Outer, {"needed": text}).needed
    except ConfigError:
        assert not (text.isascii() and text.isdigit())
    else:
        assert text.lstrip("+-").isdigit() and int(text) == value
