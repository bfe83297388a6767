"""What a chain's settings may not say, before there is a model; all violations are told at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from chainft.config.rules import parse_run
from chainft.errors import ConfigError

TOP = {"blocks": "2:, head"}


def problems(chain: Mapping[str, Any]) -> dict[str | None, str]:
    """Key -> slug of what is refused."""
    data = {"task": {"name": "ner"}, "data": {"name": "conll", "train": "x"}, "chain": dict(chain)}
    try:
        parse_run(data)
    except ConfigError as error:
        return {problem.key: problem.slug for problem in error.problems}
    return {}


def stages(**given: Mapping[str, Any]) -> dict[str, Any]:
    return {"order": list(given), "stages": {name: dict(one) for name, one in given.items()}}


def test_a_sound_chain_is_taken() -> None:
    assert problems(stages(base={"blocks": "embeddings, :2", "frozen": True}, top=TOP)) == {}
    assert problems({"split": 3, "stages": {"stage0": {"frozen": True}}}) == {}


@pytest.mark.parametrize(
    ("chain", "key", "slug"),
    [
        ({"split": 2, "order": ["a"], "stages": {"a": {}}}, "chain.order", "contradiction"),
        ({"split": "auto"}, "chain.num_stages", "missing-key"),
        ({"split": 2, "num_stages": 2}, "chain.num_stages", "no-effect"),
        (stages(**{"a.b": TOP}), "chain.stages", "bad-name"),
        (stages(a={**TOP, "gradient_checkpointing": False}), "chain.stages.a.gradient_checkpointing", "no-effect"),
        ({"balance": "time"}, "chain.balance", "no-effect"),
        ({"split": 2, "stages": {"stage0": {"blocks": ":2"}}}, "chain.stages.stage0.blocks", "no-effect"),
        ({"order": ["a"], "stages": {"a": {}}}, "chain.stages.a.blocks", "missing-key"),
        ({"order": ["a", "b"], "stages": {"a": TOP}}, "chain.order", "unknown-stage"),
        ({"order": ["a"], "stages": {"a": TOP, "b": TOP}}, "chain.stages.b", "not-in-order"),
        ({"order": ["a", "a"], "stages": {"a": TOP}}, "chain.order", "duplicate"),
        (stages(a={**TOP, "frozen": "("}), "chain.stages.a.frozen", "bad-pattern"),
        (stages(a=TOP, b={**TOP, "frozen": True, "lr": 1e-3}), "chain.stages.b.lr", "no-effect"),
        (stages(a=TOP, b={**TOP, "frozen": True, "lora": {}}), "chain.stages.b.lora", "no-effect"),
        (stages(a=TOP, b={**TOP, "eval_mode": True}), "chain.stages.b.eval_mode", "no-effect"),
        (stages(a=TOP, b={**TOP, "unfreeze_at": 0.5}), "chain.stages.b.unfreeze_at", "no-effect"),
        (stages(a=TOP, b={**TOP, "dtype": "bfloat16"}), "chain.stages.b.dtype", "contradiction"),
        (stages(a={**TOP, "frozen": True}, b={**TOP, "frozen": True}), "chain.stages.a.frozen", "nothing-to-train"),
        ({"split": 1, "stages": {"stage0": {"frozen": True}}}, "chain.stages.stage0.frozen", "nothing-to-train"),
        (stages(a=TOP, b={**TOP, "share": {"with": "c"}}), "chain.stages.b.share.with", "unknown-stage"),
        (stages(a=TOP, b={**TOP, "share": {"with": "b"}}), "chain.stages.b.share.with", "contradiction"),
        (
            stages(a={**TOP, "frozen": True}, b={**TOP, "share": {"with": "a"}}),
            "chain.stages.b.frozen",
            "contradiction",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_key(chain: dict[str, Any], key: str, slug: str) -> None:
    assert problems(chain).get(key) == slug


def test_a_misspelt_setting_of_a_stage_is_named() -> None:
    assert problems(stages(a={**TOP, "frosen": True})) == {"chain.stages.a.frosen": "unknown-key"}


def test_with_is_written_without_underscore() -> None:
    assert "chain.stages.b.share.with_" in problems(stages(a=TOP, b={**TOP, "share": {"with_": "a"}}))
