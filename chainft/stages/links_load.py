"""From a config to linked models: each stage's weights read, widths found, connectors drawn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from chainft.auto_classes import LINKED
from chainft.config.chain import ChainConfig, ConnectorConfig
from chainft.config.parse import dump
from chainft.config.run import ModelConfig, RunConfig
from chainft.errors import ConfigError, ModelError
from chainft.models.load import (
    load_body,
    load_config,
    load_model,
    load_tokenizer,
    max_length_of,
    prepare,
    prepare_body,
)
from chainft.models.read import LoadedModel
from chainft.models.stage_models import blaming, stage_models
from chainft.stages.inject import Entrance
from chainft.stages.links import LINKED_CLASSES, LinkedModel
from chainft.stages.links_config import Link, LinkedConfig, plain_config
from chainft.stages.skeleton import fill_with_ghosts, skeleton
from chainft.stages.stage_modules import with_modules_between
from chainft.tasks.base import Task

_EXITING = ("AutoModelForTokenClassification", "AutoModelForSequenceClassification")
"""Heads whose answers have a confidence each."""


def check_models(config: RunConfig) -> None:
    """Read the config of every stage's model. Raises ChainftError for one that is not there or cannot be linked."""
    for name, model in stage_models(config).items():
        with blaming(name, config.chain):
            architecture = load_config(model)
            if config.chain.is_linked and (architecture.is_encoder_decoder or architecture.model_type == LINKED):
                what = "linked models themselves" if architecture.model_type == LINKED else "an encoder-decoder"
                raise ModelError(
                    f"{model.path!r} is {what}, which cannot be a linked stage",
                    slug="unsupported-by-model",
                    key="model.path",
                    help="link encoders or decoders",
                )


def architecture_of(config: RunConfig) -> PreTrainedConfig:
    """The config of the model with the task's head: that of the run, or of linked stages the last."""
    *_, (last, model) = stage_models(config).items()
    with blaming(last, config.chain):
        return load_config(model)


def read_tokenizer(config: RunConfig, *, needs_offsets: bool = True) -> tuple[PreTrainedTokenizerBase, int]:
    """The tokenizer of the run and the most tokens of a sequence, which every stage must be able to read.

    Raises ModelError where the models of linked stages have different vocabularies, unless `model.tokenizer` is given.
    """
    models = stage_models(config)
    first = next(iter(models))
    with blaming(first, config.chain):
        tokenizer = load_tokenizer(models[first], needs_offsets=needs_offsets)
    lengths = []
    for name, model in models.items():
        with blaming(name, config.chain):
            if model != models[first] and not model.tokenizer:
                other = load_tokenizer(model, needs_offsets=needs_offsets)
                _check_same_words(tokenizer, models[first].path, other, model.path)
            lengths.append(max_length_of(model, load_config(model), tokenizer))
    return tokenizer, min(lengths)


def _check_same_words(one: PreTrainedTokenizerBase, path: str, other: PreTrainedTokenizerBase, own: str) -> None:
    if one.get_vocab() == other.get_vocab():
        return
    raise ModelError(
        f"{path!r} and {own!r} have different vocabularies ({len(one)} and {len(other)} tokens), "
        "so the hidden states of one have no place in the other",
        slug="vocabulary-mismatch",
        key="model.path",
        help="link models that were trained with one tokenizer",
    )


def build_linked(config: RunConfig, task: Task, *, seed: int) -> LoadedModel:
    """The models of all stages as one model. `task.labels` and `task.tokenizer` are set.

    Raises ConfigError for a connector that is missing and a task or exit that linked models do not have, ModelError
    for what is wrong with a stage's model.
    """
    chain = config.chain
    _check_task(task, chain)
    loaded = {name: _load_stage(name, model, task, chain, seed) for name, model in stage_models(config).items()}
    torch.manual_seed(seed)
    models = with_modules_between(chain, task, {name: one.model for name, one in loaded.items()})
    made = _linked_config(chain, task, models)
    torch.manual_seed(seed)
    model = LINKED_CLASSES[task.auto_class](made, models)
    if model.can_generate():
        model.generation_config = models[chain.order[-1]].generation_config
    own = {name: LoadedModel(one, tuple(dict(one.named_parameters())), ()) for name, one in models.items()}
    return LoadedModel(model, _new(model, own | loaded), _unused(loaded))


def linked_skeleton(config: RunConfig, task: Task) -> LinkedModel:
    """The same without weights; see `chainft.stages.skeleton`."""
    chain = config.chain
    _check_task(task, chain)
    bodies = {name: _stage_skeleton(name, model, task, chain) for name, model in stage_models(config).items()}
    models = with_modules_between(chain, task, bodies, hollow=True)
    made = _linked_config(chain, task, models)
    with torch.device("meta"):  # Connectors and mixes; all else is there already.
        model = LINKED_CLASSES[task.auto_class](made, models)
    fill_with_ghosts(model)
    return model


def _linked_config(chain: ChainConfig, task: Task, models: Mapping[str, PreTrainedModel]) -> LinkedConfig:
    widths = {name: Entrance(one).widths() for name, one in models.items()}
    links = {name: _link(name, chain, models[name], widths) for name in chain.order}
    return LinkedConfig.of(
        links, auto_class=task.auto_class, exit_confidence=chain.exit_confidence, **task.model_options()
    )


def _check_task(task: Task, chain: ChainConfig) -> None:
    if task.auto_class not in LINKED_CLASSES:
        raise ConfigError(
            f"task {task.config.name!r} has the head of {task.auto_class}, which linked models do not have",
            slug="unsupported-by-chain",
            key="chain",
            help=f"there are: {', '.join(LINKED_CLASSES)}",
        )
    if modules := task.modules():
        raise ConfigError(
            f"task.{next(iter(modules))} is for one model with one head, and chain links several models",
            slug="unsupported-by-chain",
            key=f"task.{next(iter(modules))}",
            help="leave it away, or cut one model into stages instead",
        )
    has_confidence = task.auto_class in _EXITING and task.model_options().get("problem_type") != "regression"
    if chain.exit_confidence is not None and not has_confidence:
        raise ConfigError(
            f"chain.exit_confidence: the answers of task {task.config.name!r} have no confidence to leave by",
            slug="unsupported-by-chain",
            key="chain.exit_confidence",
            help="leave it away, or take task=ner or task=classify",
        )


def _load_stage(name: str, model: ModelConfig, task: Task, chain: ChainConfig, seed: int) -> LoadedModel:
    with blaming(name, chain):
        if chain.has_head(name):
            return load_model(model, task, seed=seed)
        torch.manual_seed(seed)
        return load_body(model, task)


def _stage_skeleton(name: str, model: ModelConfig, task: Task, chain: ChainConfig) -> PreTrainedModel:
    with blaming(name, chain):
        if chain.has_head(name):
            auto, _, architecture, _ = prepare(model, task)
            return skeleton(auto, architecture)
        return skeleton(AutoModel, *prepare_body(model, task))


def _link(name: str, chain: ChainConfig, model: PreTrainedModel, widths: Mapping[str, tuple[int, int]]) -> Link:
    stage = chain.stages[name]
    before = chain.order[: chain.order.index(name)]
    sources = before if stage.receive == "all" else before[-1:]
    width_in, width_out = widths[name]
    unlike = [source for source in sources if widths[source][1] != width_in]
    if unlike and stage.connector == "none":
        raise ConfigError(
            f"stage {name!r} takes hidden states of width {width_in}, "
            f"{unlike[0]!r} gives {widths[unlike[0]][1]}, and no connector stands between them",
            slug="unlike-widths",
            key=f"chain.stages.{name}.connector",
            help=f"chain.stages.{name}.connector=linear",
        )
    return Link(
        plain_config(model.config),
        width_in,
        width_out,
        sources=sources,
        is_mix=bool(sources) and stage.receive == "all",
        connected=tuple(unlike) if stage.connector in ("auto", "none") else sources,
        connector=dump(stage.connector) if isinstance(stage.connector, ConnectorConfig) and sources else None,
        residual=stage.residual and bool(sources),
        auxiliary=stage.auxiliary.weight if stage.auxiliary and name != chain.order[-1] else None,
    )


def _new(model: LinkedModel, loaded: Mapping[str, LoadedModel]) -> tuple[str, ...]:
    new = [f"stages.{name}.{one}" for name, stage in loaded.items() for one in stage.new]
    return (*new, *(name for name, _ in model.named_parameters() if not name.startswith("stages.")))


def _unused(loaded: Mapping[str, LoadedModel]) -> tuple[str, ...]:
    return tuple(f"stages.{name}.{one}" for name, stage in loaded.items() for one in stage.unused)
