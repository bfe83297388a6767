"""A model as a chain: the only place where stages meet.

A chain over one model stays one Hugging Face model. Stages say who owns which parameters and what training may do
with them; repeated blocks are copies with tied parameters. Its forward pass is the model's own, so it computes what
the unsplit model computes; `chainft check chain` proves that the stages one by one compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from chainft.config.chain import ChainConfig, StageConfig
from chainft.config.run import RunConfig
from chainft.errors import ConfigError, did_you_mean
from chainft.stages.blocks import Blocks, find_blocks
from chainft.stages.dropout import quicken
from chainft.stages.imported import take_weights
from chainft.stages.links import LinkedModel
from chainft.stages.links_parts import blocks_of, linked_parts, linked_spans, rest_what_is_replaced
from chainft.stages.lora import add_adapters, merge_adapters, tie_adapters
from chainft.stages.overlaps import check_overlaps
from chainft.stages.parts import Part, parts_of, parts_with_adapters
from chainft.stages.policy import (
    Conduct,
    Rate,
    check_something_trains,
    freeze,
    rates,
    recompute,
    set_dropout,
    switch_cache_off_in_training,
)
from chainft.stages.precision import set_dtype
from chainft.stages.sharing import Ties, check_ties, shared_names, tie_blocks, unroll
from chainft.stages.spans import Span, equal_spans, read_spans, spans_between

WHOLE = "model"
"""Name of the one stage of a model that is not cut."""


@dataclass
class Chain:
    """A model and its stages."""

    model: PreTrainedModel
    spans: Mapping[str, Span]
    """In the order of computation; of the model as it is, repeated blocks included."""
    parts: Sequence[Part]
    ties: Ties = field(default_factory=dict)
    """Declared ties, beyond those of the model itself."""
    later: Mapping[int, float] = field(default_factory=dict)
    """Ids of the parameters that are frozen at first, with the share of the training after which they are trained."""
    imported: Mapping[str, str] = field(default_factory=dict)
    """Stage -> digest of the weights that it took from an earlier run."""
    is_cut: bool = False
    """Whether this process has some of the stages alone, of which none may be trained."""
    partly: set[int] = field(default_factory=set)
    """Ids of the parameters of which only the rows that can change are trained, as parameters of their own."""

    def trains(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter is trained now or later."""
        return parameter.requires_grad or id(parameter) in self.later or id(parameter) in self.partly

    def rates(self) -> dict[int, Rate]:
        return rates(self.parts)

    def dtypes(self) -> dict[str, str]:
        """Block path -> the type in which it computes, where a stage says so."""
        return {path: part.config.dtype for part in self.parts if part.config.dtype for path in part.blocks}

    def conduct(self) -> Conduct:
        return Conduct(self.parts, self.later)

    def follow(self, model: PreTrainedModel) -> None:
        """Hold the parameters that the model has now: it was sharded, or lost the stages of other processes."""
        named = dict(model.named_parameters(remove_duplicate=False))
        self.parts = [
            replace(part, parameters={name: named[name] for name in part.parameters if name in named})
            for part in self.parts
        ]

    def set_recomputation(self) -> None:
        """Recompute activations in the stages that say so, and in no stage that says no; others stay as they are."""
        for part in self.parts:
            if part.config.gradient_checkpointing is not None:
                _check_has_blocks(part, "gradient_checkpointing")
                recompute(part, self.model, enabled=part.config.gradient_checkpointing)
        if any(part.config.gradient_checkpointing for part in self.parts):
            switch_cache_off_in_training(self.model)

    def merge(self) -> None:
        """Bring the model into its plain form: adapters become part of the weights."""
        if self.has_adapters:  # PEFT takes most of a second to import.
            merge_adapters(self.model)

    @property
    def has_adapters(self) -> bool:
        """Whether any stage was configured to be tuned by adapters."""
        return any(part.config.lora for part in self.parts)

    def describe(self) -> list[dict[str, Any]]:
        """For each stage what the plan shows: blocks, parameters, trainable ones, and with whom it shares."""
        block_map = blocks_of(self.model).map if len(self.parts) > 1 or self.ties else None
        return [
            {
                "name": part.name,
                "blocks": self.spans[part.name].within(block_map) if block_map else "all",
                **_counts(part, self),
                "shared_with": self._partners(part),
                **({"weights_from": self.imported[part.name]} if part.name in self.imported else {}),
            }
            for part in self.parts
        ]

    def _partners(self, part: Part) -> list[str]:
        """Other stages in which parameters of this one have a name."""
        stage_of = {name: other.name for other in self.parts for name in other.parameters}
        partners = set()
        for names in shared_names(self.model):
            stages = {self._stage_of_name(name, stage_of) for name in names}
            if part.name in stages:
                partners |= stages - {part.name}
        return sorted(partners)

    def _stage_of_name(self, name: str, stage_of: Mapping[str, str]) -> str:
        """The stage that computes with a parameter under this name: of tied embeddings one name is in the head."""
        output = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        if output is not None and self.model.get_submodule(name.rpartition(".")[0]) is output:
            return self.parts[-1].name
        for part in self.parts:
            if any(name.startswith(f"{path}.") for path in part.blocks):
                return part.name
        return stage_of.get(name, self.parts[-1].name)


def is_trivial(config: ChainConfig) -> bool:
    """Whether there is nothing to do: no stages and no cut."""
    return config.split is None and not config.order and not config.stages


def build_chain(model: PreTrainedModel, config: RunConfig, *, cuts: Sequence[int] | None = None) -> Chain:
    """Cut a loaded model and apply every stage's settings. `cuts`: those of `split: auto`, measured before.

    Raises ConfigError for ranges, patterns and settings that do not fit the model, ModelError for a model that has no
    blocks to be told apart.
    """
    built = _build(model, config, cuts)
    quicken(model)
    return built


def _build(model: PreTrainedModel, config: RunConfig, cuts: Sequence[int] | None) -> Chain:
    chain = config.chain
    if is_trivial(chain):
        whole = dict(model.named_parameters(remove_duplicate=False))
        part = Part(WHOLE, StageConfig(), whole, [model], [])
        return Chain(model, {WHOLE: Span(0, 0, embeddings=True, head=True)}, [part])
    if isinstance(model, LinkedModel) and chain.is_linked:
        return _build_linked(model, chain)
    spans = stage_spans(find_blocks(model), chain, cuts)
    settings = {name: chain.stages.get(name, StageConfig()) for name in spans}
    spans, ties = _repeated(model, spans, settings)
    repeats = dict(ties)
    ties |= _shared(find_blocks(model), spans, settings)
    check_ties(model, repeats)
    parts = parts_of(find_blocks(model), spans, settings)
    conducted, later, imported = _conducted(model, parts, ties, repeats=bool(repeats))
    check_overlaps(model, spans, conducted, later)
    return Chain(model, spans, conducted, ties, later, imported)


def _build_linked(model: LinkedModel, chain: ChainConfig) -> Chain:
    """The stages of linked models, which keep their declared ties in their own config."""
    spans = linked_spans(model)
    settings = {name: chain.stages[name] for name in spans}
    ties = _shared(blocks_of(model), spans, settings)
    model.set_ties(ties)
    rest_what_is_replaced(model)
    parts, later, imported = _conducted(model, linked_parts(model, settings), ties, repeats=False)
    return Chain(model, spans, parts, {}, later, imported)


def _conducted(
    model: PreTrainedModel, parts: Sequence[Part], ties: Ties, *, repeats: bool
) -> tuple[Sequence[Part], dict[int, float], dict[str, str]]:
    """Apply every stage's settings; the stages afterwards, what is trained later, and weights from earlier runs."""
    imported = {
        part.name: take_weights(part, part.config.from_, model, repeats=repeats) for part in parts if part.config.from_
    }
    for part in parts:
        set_dropout(part, model)
        if part.config.dtype is not None:
            _check_has_blocks(part, "dtype")
            set_dtype(model, part.blocks, part.config.dtype)
    later = freeze(parts)
    if any(part.config.lora for part in parts):
        _add_adapters(model, parts, ties)
        parts = parts_with_adapters(model, parts)
    check_something_trains(parts)
    return parts, later, imported


def _check_has_blocks(part: Part, setting: str) -> None:
    if not part.blocks:
        raise ConfigError(
            f"{part.key}.{setting} = {getattr(part.config, setting)} has no effect: it is for "
            "blocks, and the stage has none",
            slug="no-effect",
            key=f"{part.key}.{setting}",
            help="leave it away",
        )


def stage_spans(blocks: Blocks, chain: ChainConfig, cuts: Sequence[int] | None = None) -> dict[str, Span]:
    """The stages in their order and what each is of the model. Raises ConfigError."""
    if chain.split is None:
        texts = {name: chain.stages[name].blocks or "" for name in chain.order}
        return read_spans(texts, blocks.map)
    if chain.split == "auto":
        if cuts is None:
            raise ValueError("split: auto needs measured cuts")
        found = spans_between(cuts)
    else:
        found = equal_spans(blocks.map, chain.split)
    spans = {f"stage{number}": span for number, span in enumerate(found)}
    if unknown := [name for name in chain.stages if name not in spans]:
        raise ConfigError(
            f"chain.split makes the stages {', '.join(spans)}; there is no {unknown[0]!r}",
            slug="unknown-stage",
            key=f"chain.stages.{unknown[0]}",
            help=did_you_mean(unknown[0], spans),
        )
    return spans


def _repeated(
    model: PreTrainedModel, spans: Mapping[str, Span], settings: Mapping[str, StageConfig]
) -> tuple[dict[str, Span], dict[str, str]]:
    """Unroll stages that repeat; the spans of the longer model, and the ties."""
    if all(one.repeat == 1 for one in settings.values()):
        return dict(spans), {}
    order: list[int] = []
    longer: dict[str, Span] = {}
    for name, span in spans.items():
        start = len(order)
        order += list(span.blocks) * settings[name].repeat
        longer[name] = Span(start, len(order), span.embeddings, span.head)
    return longer, unroll(model, order)


def _shared(blocks: Blocks, spans: Mapping[str, Span], settings: Mapping[str, StageConfig]) -> dict[str, str]:
    ties: dict[str, str] = {}
    for name, config in settings.items():
        if config.share is None:
            continue
        mine, theirs = spans[name].blocks, spans[config.share.with_].blocks
        if len(mine) != len(theirs):
            raise ConfigError(
                f"stage {name!r} has {len(mine)} blocks, {config.share.with_!r} has {len(theirs)}: "
                "they share block by block",
                slug="unlike-stages",
                key=f"chain.stages.{name}.share",
                help="give both stages equally many blocks",
            )
        pattern, other = config.share.parameters, config.share.with_
        ties |= tie_blocks(blocks, zip(mine, theirs, strict=True), pattern=pattern, stage=name, other=other)
    return ties


def _add_adapters(model: PreTrainedModel, parts: Sequence[Part], ties: Ties) -> None:
    """Adapters in the stages that ask for them; layers with tied weights get tied adapters."""
    adapted: set[str] = set()
    for part in parts:
        if part.config.lora is not None:
            for name, parameter in part.parameters.items():
                parameter.requires_grad_(parameter.requires_grad and name in part.head)
            adapted |= set(add_adapters(model, part.blocks, part.config.lora, key=f"{part.key}.lora"))
    tie_adapters(model, adapted, ties)


def _counts(part: Part, chain: Chain) -> dict[str, int]:
    """Numbers of parameters: all of the stage, those that are trained, and of these the ones trained only later."""
    distinct = {id(parameter): parameter for parameter in part.parameters.values()}
    trained = {key: parameter for key, parameter in distinct.items() if chain.trains(parameter)}
    return {
        "parameters": sum(parameter.numel() for parameter in distinct.values()),
        "trainable": sum(parameter.numel() for parameter in trained.values()),
        "trained_later": sum(parameter.numel() for key, parameter in trained.items() if key in chain.later),
    }
