"""Rules over the stages of a chain that need no model: names, contradictions, settings without effect."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from chainft.config.chain import ChainConfig, StageConfig
from chainft.config.no_effect import no_effect
from chainft.config.run import RunConfig
from chainft.errors import Problem, did_you_mean


def stages_are_given_one_way(config: RunConfig) -> Iterator[Problem]:
    chain = config.chain
    if chain.split is None:
        for name in ("num_stages", "balance"):
            if getattr(chain, name) is not None:
                yield no_effect(f"chain.{name}", getattr(chain, name), "chain.split is not auto", "chain.split=auto")
        return
    if chain.order:
        yield Problem(
            "contradiction",
            "chain.split names the stages itself (stage0, stage1, ...), and chain.order is given too",
            key="chain.order",
            help="leave one of them away: chain.split=null, or chain.order=[]",
        )
    if chain.split == "auto" and chain.num_stages is None:
        yield Problem("missing-key", "chain.split=auto needs chain.num_stages", key="chain.num_stages")
    if chain.split != "auto":
        for name in ("num_stages", "balance"):
            if getattr(chain, name) is not None:
                why = f"chain.split = {chain.split} says how the model is cut"
                yield no_effect(f"chain.{name}", getattr(chain, name), why, "set chain.split=auto")


def order_names_the_stages(config: RunConfig) -> Iterator[Problem]:
    chain = config.chain
    if chain.split is not None:
        return
    for name in chain.stages:
        if name not in chain.order:
            near = did_you_mean(name, chain.order)
            help = near or f"add it: chain.order=[{', '.join([*chain.order, name])}]"
            yield Problem(
                "not-in-order", f"stage {name!r} is not in chain.order", key=f"chain.stages.{name}", help=help
            )
    for number, name in enumerate(chain.order):
        if name in chain.order[:number]:
            yield Problem("duplicate", f"chain.order has {name!r} twice", key="chain.order", help=_REPEAT)
        elif name not in chain.stages:
            near = did_you_mean(name, chain.stages)
            yield Problem("unknown-stage", f"chain.order names {name!r}, which is no stage", "", "chain.order", near)


_REPEAT = "to run a stage several times, set its repeat"


def stages_say_what_they_are(config: RunConfig) -> Iterator[Problem]:
    chain = config.chain
    for name, stage in chain.stages.items():
        key = f"chain.stages.{name}.blocks"
        if chain.split is not None and stage.blocks is not None:
            yield no_effect(key, stage.blocks, f"chain.split = {chain.split} says which blocks it has")
        elif chain.split is None and not chain.is_linked and stage.blocks is None:
            yield Problem("missing-key", f"{key} is not given", key=key, help=f"such as {key}='embeddings, :4'")


def stage_names_are_words(config: RunConfig) -> Iterator[Problem]:
    for name in config.chain.stages:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            message = f"a stage cannot be named {name!r}: letters, digits and _ make a name that a key can hold"
            yield Problem("bad-name", message, key="chain.stages")


def recomputation_differs_from_all(config: RunConfig) -> Iterator[Problem]:
    for name, stage in config.chain.stages.items():
        if (
            stage.gradient_checkpointing is not None
            and stage.gradient_checkpointing == config.train.gradient_checkpointing
        ):
            value = str(stage.gradient_checkpointing).lower()
            because = f"train.gradient_checkpointing = {value} says so for all stages"
            yield no_effect(f"chain.stages.{name}.gradient_checkpointing", value, because)


def patterns_are_regular_expressions(config: RunConfig) -> Iterator[Problem]:
    for name, stage in config.chain.stages.items():
        patterns = {"frozen": stage.frozen, "share.parameters": stage.share and stage.share.parameters}
        for leaf, pattern in patterns.items():
            if isinstance(pattern, str):
                try:
                    re.compile(pattern)
                except re.error as error:
                    key = f"chain.stages.{name}.{leaf}"
                    message = f"{key} = {pattern!r} is not a regular expression: {error}"
                    yield Problem("bad-pattern", message, key=key)


def frozen_stages_are_not_tuned(config: RunConfig) -> Iterator[Problem]:
    for name, stage in config.chain.stages.items():
        if stage.frozen is True and stage.unfreeze_at is None:
            for setting in ("lr", "weight_decay", "lora", "dropout"):
                value = getattr(stage, setting)
                if value is not None and not (setting == "dropout" and not stage.eval_mode):
                    shown = "{...}" if setting == "lora" else value
                    yield no_effect(f"chain.stages.{name}.{setting}", shown, f"stage {name!r} is frozen")
            if stage.gradient_checkpointing and _is_leading(config.chain, name):
                because = "no activations are saved before the first trained parameter"
                yield no_effect(f"chain.stages.{name}.gradient_checkpointing", True, because)
        if stage.frozen is not True and stage.eval_mode:
            yield no_effect(
                f"chain.stages.{name}.eval_mode",
                True,
                f"stage {name!r} is trained",
                f"chain.stages.{name}.frozen=true",
            )
        if stage.eval_mode and stage.unfreeze_at is not None:
            yield Problem(
                "contradiction",
                f"stage {name!r} is to stay in evaluation mode and to be trained later",
                key=f"chain.stages.{name}.eval_mode",
                help="dropout=0 switches dropout off for a stage that is trained",
            )
        if stage.frozen is False and stage.unfreeze_at is not None:
            because = f"stage {name!r} is trained from the start"
            yield no_effect(f"chain.stages.{name}.unfreeze_at", stage.unfreeze_at, because, "set frozen as well")
        if stage.lora is not None and isinstance(stage.frozen, str):
            yield no_effect(f"chain.stages.{name}.frozen", stage.frozen, "lora trains nothing but adapters and head")
        if stage.lora is not None and stage.unfreeze_at is not None:
            yield no_effect(
                f"chain.stages.{name}.unfreeze_at", stage.unfreeze_at, "lora trains adapters from the start"
            )


def sixteen_bits_are_for_frozen_stages(config: RunConfig) -> Iterator[Problem]:
    for name, stage in config.chain.stages.items():
        if stage.dtype in ("bfloat16", "float16") and (stage.frozen is not True or stage.unfreeze_at is not None):
            yield Problem(
                "contradiction",
                f"stage {name!r} is trained, and weights of {stage.dtype} lose small updates",
                key=f"chain.stages.{name}.dtype",
                help="freeze the stage, or compute in 16 bits with float32 weights: train.mixed_precision=bf16",
            )


def not_all_stages_are_frozen(config: RunConfig) -> Iterator[Problem]:
    chain = config.chain
    names = stage_names(chain)
    stages = [chain.stages.get(name, StageConfig()) for name in names]
    if stages and all(stage.frozen is True and stage.unfreeze_at is None for stage in stages):
        for name in names:
            yield Problem("nothing-to-train", "all stages are frozen", key=f"chain.stages.{name}.frozen")


def a_split_has_the_stages(config: RunConfig) -> Iterator[Problem]:
    chain = config.chain
    names = stage_names(chain)
    for name in chain.stages if chain.split is not None and names else ():
        if name not in names:
            message = f"chain.split makes the stages {', '.join(names)}; there is no {name!r}"
            yield Problem("unknown-stage", message, key=f"chain.stages.{name}", help=did_you_mean(name, names))


def sharing_names_another_stage(config: RunConfig) -> Iterator[Problem]:
    stages = config.chain.stages
    for name, stage in stages.items():
        if stage.share is None:
            continue
        key, other = f"chain.stages.{name}.share.with", stage.share.with_
        known = dict.fromkeys([*stages, *stage_names(config.chain)])
        if other == name:
            yield Problem("contradiction", f"stage {name!r} cannot share with itself", key=key, help=_REPEAT)
        elif other not in known:
            message = f"stage {name!r} shares with {other!r}, which is no stage"
            yield Problem("unknown-stage", message, key=key, help=did_you_mean(other, known))
        elif _chain_of_shares(name, stages):
            message = f"stage {name!r} shares with {other!r}, which itself shares with another stage"
            yield Problem("contradiction", message, key=key, help="name the stage that has the parameters")
        elif stage.frozen != stages.get(other, StageConfig()).frozen:
            message = f"stages {name!r} and {other!r} share parameters, but only one of them is frozen"
            if isinstance(stage.frozen, str) and isinstance(stages.get(other, StageConfig()).frozen, str):
                message = f"stages {name!r} and {other!r} share parameters, but freeze different ones"
            yield Problem("contradiction", message, key=f"chain.stages.{name}.frozen", help="freeze both or neither")
        else:
            yield from _unlike_training(name, other, stages)


def _unlike_training(name: str, other: str, stages: Mapping[str, StageConfig]) -> Iterator[Problem]:
    """A tensor has one rate, one decay, one type and one time from which it is trained."""
    for setting in ("unfreeze_at", "lr", "weight_decay", "dtype"):
        mine, theirs = (getattr(stages.get(one, StageConfig()), setting) for one in (name, other))
        if mine != theirs:
            shown, their_shown = ("null" if value is None else value for value in (mine, theirs))
            yield Problem(
                "contradiction",
                f"stages {name!r} and {other!r} share parameters, but {setting} is {shown} and {their_shown}",
                key=f"chain.stages.{name}.{setting}",
                help="give both the same; blocks or a head to be trained otherwise can be a stage of their own",
            )


def _chain_of_shares(name: str, stages: Mapping[str, StageConfig]) -> bool:
    share = stages[name].share
    other = stages.get(share.with_) if share else None
    return other is not None and other.share is not None


def _is_leading(chain: ChainConfig, name: str) -> bool:
    """Whether all stages before this one are frozen too."""
    names = stage_names(chain)
    if name not in names:  # How many stages `split: auto` makes is checked elsewhere.
        return False
    before = names[: names.index(name)]
    return all(stage in chain.stages and chain.stages[stage].frozen is True for stage in before)


def stage_names(chain: ChainConfig) -> tuple[str, ...]:
    """The stages in their order; of a cut the ones that it will make."""
    if chain.split is None:
        return chain.order
    count = chain.num_stages if chain.split == "auto" else chain.split
    return tuple(f"stage{number}" for number in range(count or 0))


STAGE_RULES = (
    stages_are_given_one_way,
    order_names_the_stages,
    stages_say_what_they_are,
    stage_names_are_words,
    recomputation_differs_from_all,
    patterns_are_regular_expressions,
    frozen_stages_are_not_tuned,
    sixteen_bits_are_for_frozen_stages,
    not_all_stages_are_frozen,
    a_split_has_the_stages,
    sharing_names_another_stage,
)
