"""Parameters and blocks of the model itself that several stages compute with: who trains them, told or refused.

Such are word embeddings tied to a language model's head, ALBERT's groups, and relative positions. Each belongs to the
first stage that computes with it, whose settings count; another stage's own settings must not promise otherwise.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel

from chainft.errors import ConfigError, Problem
from chainft.stages.gates import Gates
from chainft.stages.owners import live
from chainft.stages.parts import Part
from chainft.stages.spans import Span

logger = logging.getLogger(__name__)

_OF_MODULES = ("dropout", "dtype", "eval_mode", "gradient_checkpointing", "lora")


def check_overlaps(
    model: PreTrainedModel, spans: Mapping[str, Span], parts: Sequence[Part], later: Collection[int]
) -> None:
    """Raise ConfigError where what a stage computes with is another one's, which treats it otherwise; warn where a
    stage is trained, but not all of it, or at another's rate. `later`: ids of parameters that are trained later."""
    problems = list(_unlike_modules(parts))
    if any(_has_policy(part) for part in parts) and len(parts) > 1:
        gates = Gates(model)
        for part in parts:
            needed = live(gates, spans[part.name])
            for owner in parts:
                theirs = {name: one for name, one in owner.parameters.items() if name in needed}
                if owner is not part and theirs:
                    problems += _contradictions(part, owner, theirs, later)
                    _tell(part, owner, theirs)
    if problems:
        raise ConfigError.of(problems)


def _has_policy(part: Part) -> bool:
    config = part.config
    rates = (config.lr, config.weight_decay, config.lora)
    return config.frozen is not False or any(one is not None for one in rates)


def _unlike_modules(parts: Sequence[Part]) -> Iterator[Problem]:
    """Blocks that the model itself goes through several times are one module, with one dropout, type and adapter."""
    for number, part in enumerate(parts):
        for owner in parts[:number]:
            same = set(owner.blocks) & set(part.blocks)
            for setting in _OF_MODULES if same else ():
                if getattr(part.config, setting) != getattr(owner.config, setting):
                    yield Problem(
                        "contradiction",
                        f"stages {owner.name!r} and {part.name!r} both run {min(same)}, and differ in {setting}",
                        key=f"{part.key}.{setting}",
                        help="give both the same, or cut where the model's own block ends",
                    )


def _contradictions(
    part: Part, owner: Part, theirs: Mapping[str, nn.Parameter], later: Collection[int]
) -> Iterator[Problem]:
    frozen = part.config.frozen
    kept = {name for name in theirs if frozen is True or (isinstance(frozen, str) and re.search(frozen, name))}
    trained = sorted(name for name in kept if theirs[name].requires_grad or id(theirs[name]) in later)
    if trained and (owner.config.frozen, owner.config.unfreeze_at) != (frozen, part.config.unfreeze_at):
        yield Problem(
            "contradiction",
            f"stage {part.name!r} freezes {trained[0]}, which stage {owner.name!r} computes with too, and trains",
            key=f"{part.key}.frozen",
            help="freeze it in both, or give frozen a regular expression that finds only what is to stay",
        )
    if not part.parameters:
        for setting in ("lr", "weight_decay"):
            value = getattr(part.config, setting)
            if value is not None and value != getattr(owner.config, setting):
                message = f"{part.key}.{setting} = {value} has no effect: all its parameters are in {owner.name!r} too"
                yield Problem("no-effect", message, key=f"{part.key}.{setting}", help="set it there")


def _tell(part: Part, owner: Part, theirs: Mapping[str, nn.Parameter]) -> None:
    if part.config.frozen is True:
        return
    still = sorted(name for name, one in theirs.items() if not one.requires_grad)
    if still and owner.config.frozen is True:
        logger.warning(
            "stage %s computes with %s, which is in stage %s and frozen there", part.name, still[0], owner.name
        )
    rates = [(one.config.lr, one.config.weight_decay) for one in (part, owner)]
    trained = sorted(name for name, one in theirs.items() if one.requires_grad)
    if trained and rates[0] != rates[1]:
        logger.warning(
            "stage %s computes with %s, which is in stage %s and trained at its rates",
            part.name,
            trained[0],
            owner.name,
        )
