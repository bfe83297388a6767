"""Reads the files of a model with transformers, and says in plain words what is wrong with them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from huggingface_hub import constants
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel

from chainft.errors import ModelError
from chainft.models.heads import body_prefixes
from chainft.models.weights import Located


@dataclass(frozen=True)
class LoadedModel:
    """A model with its head, and what happened when its weights were read."""

    model: PreTrainedModel
    new: tuple[str, ...]
    """Parameters that the weights did not bring and that start random: the head."""
    unused: tuple[str, ...]
    """Tensors of the weights that this model has no place for, such as another head."""


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
        raise misfit(place, model, body)


def misfit(place: Located, model: PreTrainedModel, absent: Iterable[str]) -> ModelError:
    return ModelError(
        f"the weights of {place.name!r} do not fit {type(model).__name__}: missing or of another shape are {some(absent)}",
        slug="missing-tensors",
        key="model.path",
        help="the weights belong to another architecture or size than config.json says",
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
            f"the weights are still quantized after loading: {some(packed)}",
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


def some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
