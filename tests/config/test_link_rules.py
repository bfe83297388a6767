"""Settings of linked models that would be ignored, or that a whole model cannot have, are refused."""

from __future__ import annotations

from typing import Any

import pytest

from chainft.config.rules import parse_run
from chainft.errors import ConfigError

OWN = {"model": "x"}
TOP = {"blocks": "2:, head"}


def problems(chain: dict[str, Any], **sections: Any) -> dict[str | None, str]:
    """Key -> slug of what is refused."""
    data = {"task": {"name": "ner"}, "data": {"name": "conll", "train": "x"}, "chain": chain, **sections}
    try:
        parse_run(data)
    except ConfigError as error:
        return {problem.key: problem.slug for problem in error.problems}
    return {}


def stages(a: dict[str, Any], b: dict[str, Any], **chain: Any) -> dict[str, Any]:
    return {"order": ["a", "b"], "stages": {"a": a, "b": b}, **chain}


@pytest.mark.parametrize(
    "chain",
    [
        stages(OWN, {"receive": "all", "connector": "linear", "residual": True}),
        stages({**OWN, "auxiliary": {}}, OWN, exit_confidence=0.9),
        stages({**OWN, "lr": 0.1}, {**OWN, "share": {"with": "a"}, "lr": 0.1}),
    ],
)
def test_sound_links_are_taken(chain: dict[str, Any]) -> None:
    assert problems(chain) == {}


@pytest.mark.parametrize(
    ("chain", "key", "slug"),
    [
        (stages(OWN, TOP), "chain.stages.b.blocks", "no-effect"),
        (stages(OWN, {"repeat": 2}), "chain.stages.b.repeat", "unsupported"),
        (stages(OWN, {"from": "run"}), "chain.stages.b.from", "contradiction"),
        ({"split": 2, "stages": {"stage0": OWN}}, "chain.split", "contradiction"),
        ({"order": ["a.b"], "stages": {"a.b": OWN}}, "chain.stages.a.b", "bad-name"),
        (stages({**OWN, "receive": "all"}, OWN), "chain.stages.a.receive", "no-effect"),
        (stages({**OWN, "connector": "linear"}, OWN), "chain.stages.a.connector", "no-effect"),
        (stages({**OWN, "residual": True}, OWN), "chain.stages.a.residual", "no-effect"),
        (stages({"blocks": "embeddings, :2"}, {**TOP, "residual": True}), "chain.stages.b.residual", "no-effect"),
        (stages(OWN, {"auxiliary": {}}), "chain.stages.b.auxiliary", "no-effect"),
        (stages({"blocks": "embeddings, :2", "auxiliary": {}}, TOP), "chain.stages.a.auxiliary", "no-effect"),
        (stages(OWN, OWN, exit_confidence=0.9), "chain.exit_confidence", "no-effect"),
        ({"exit_confidence": 0.9}, "chain.exit_confidence", "no-effect"),
    ],
)
def test_what_would_be_ignored_is_refused_with_its_key(chain: dict[str, Any], key: str, slug: str) -> None:
    assert problems(chain).get(key) == slug


def test_a_model_that_no_stage_uses_is_refused() -> None:
    assert problems(stages(OWN, OWN), model={"path": "y"}) == {"model.path": "no-effect"}
    assert problems(stages(OWN, OWN), model={"path": "x"}) == {}
    assert problems(stages(OWN, {}), model={"path": "y"}) == {}
