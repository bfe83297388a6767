"""What a chain's settings may not say, before there is a model; all violations are told at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from chainft.config.rules import parse_run
from chainft.errors import ConfigError

TOP = {"blocks": "2:, head"}
LATER = {"frozen": True, "unfreeze_at": 0.5}
HALF = {"frozen": True, "dtype": "bfloat16"}


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
        (stages(a={**TOP, "lr": 1e-3}, b={**TOP, "share": {"with": "a"}}), "chain.stages.b.lr", "contradiction"),
        (
            stages(a=TOP, b={**TOP, "weight_decay": 0.0, "share": {"with": "a"}}),
            "chain.stages.b.weight_decay",
            "contradiction",
        ),
        (
            stages(a={**TOP, **LATER}, b={**TOP, **LATER, "unfreeze_at": 0.7, "share": {"with": "a"}}, c=TOP),
            "chain.stages.b.unfreeze_at",
            "contradiction",
        ),
        (
            stages(a={**TOP, **HALF}, b={**TOP, "frozen": True, "share": {"with": "a"}}, c=TOP),
            "chain.stages.b.dtype",
            "contradiction",
        ),
        (
            {"split": 2, "stages": {"stage0": {"share": {"with": "stage9"}}}},
            "chain.stages.stage0.share.with",
            "unknown-stage",
        ),
        ({"split": 2, "stages": {"stage7": {"lr": 1e-3}}}, "chain.stages.stage7", "unknown-stage"),
        ({"split": "auto", "num_stages": 2, "stages": {"stage2": {}}}, "chain.stages.stage2", "unknown-stage"),
        (stages(a={**TOP, **LATER, "unfreeze_at": 0.0}, b=TOP), "chain.stages.a.unfreeze_at", "out-of-range"),
        (stages(a={**TOP, **LATER, "unfreeze_at": 1.0}, b=TOP), "chain.stages.a.unfreeze_at", "out-of-range"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_key(chain: dict[str, Any], key: str, slug: str) -> None:
    assert problems(chain).get(key) == slug


def test_recomputation_in_a_frozen_stage_above_a_trained_one_has_an_effect() -> None:
    later = {"frozen": True, "gradient_checkpointing": True}
    assert problems({"split": 2, "stages": {"stage1": later}}) == {}
    assert problems(stages(a=TOP, b={**TOP, **later})) == {}
    assert "chain.stages.stage0.gradient_checkpointing" in problems({"split": 2, "stages": {"stage0": later}})


def test_a_misspelt_setting_of_a_stage_is_named() -> None:
    assert problems(stages(a={**TOP, "frosen": True})) == {"chain.stages.a.frosen": "unknown-key"}


def test_with_is_written_without_underscore() -> None:
    assert "chain.stages.b.share.with_" in problems(stages(a=TOP, b={**TOP, "share": {"with_": "a"}}))
