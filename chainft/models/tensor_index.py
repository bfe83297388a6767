"""Single tensors out of a model's safetensors files, by the names that the model gives them; the rest is never read.

Files may hold the tensors of the base model alone, or of a model with another head, or bear old names: the renamings
that transformers keeps for each architecture are applied to the names. What must be computed from several tensors,
such as fused experts, is known by name but not offered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.utils.hub import cached_file

from chainft.errors import ModelError
from chainft.models.weights import Located

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class TensorIndex:
    """Where each tensor of a model lies."""

    place: Located
    sources: Mapping[str, str]
    """Name in the model -> name in the files."""
    converted: frozenset[str]
    """Names in the model of what has to be computed from the tensors of the files."""
    unused: tuple[str, ...]
    """Names in the files that the model has no place for."""
    _files: Mapping[str, str]

    @classmethod
    def of(cls, place: Located, model: PreTrainedModel) -> TensorIndex:
        """Reads names only. Raises ModelError for a GGUF file, which transformers reads as a whole."""
        if place.gguf_file:
            raise ModelError(
                f"{place.gguf_file} is a GGUF file, of which no single stage can be loaded",
                slug="gguf-stage",
                key="model.path",
                help="convert it once: load it with transformers and save_pretrained() writes safetensors",
            )
        files = _files_of(place)
        names = model.state_dict()
        mapping = get_model_conversion_mapping(model)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        sources: dict[str, str] = {}
        converted: set[str] = set()
        unused: list[str] = []
        for key in files:
            name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, names)
            if name not in names and key in names:
                name, pattern = key, None
            if pattern is not None:
                converted.update(_targets(name, pattern, converters))
            elif name in names:
                sources[name] = key
            else:
                unused.append(key)
        return cls(place, sources, frozenset(converted), tuple(sorted(unused)), files)

    def shapes(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """The shapes of tensors, without reading them."""
        return {
            name: tuple(file.get_slice(self.sources[name]).get_shape())
            for file, several in self._by_file(names)
            for name in several
        }

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Tensors in float32 (numbers of other kinds as they are), by their names in the model."""
        found: dict[str, Tensor] = {}
        for file, several in self._by_file(names):
            for name in several:
                tensor = file.get_tensor(self.sources[name])
                found[name] = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        return found

    def _by_file(self, names: Sequence[str]) -> Iterator[tuple[Any, list[str]]]:
        """Each file that is needed, open, with the names of the tensors in it."""
        by_file: dict[str, list[str]] = {}
        for name in names:
            by_file.setdefault(self._files[self.sources[name]], []).append(name)
        for file, several in by_file.items():
            with safe_open(_path_of(self.place, file), framework="pt") as opened:
                yield opened, several


def tensors_below(place: Located, prefix: str) -> dict[str, Tensor]:
    """The tensors of a model folder whose names begin with `prefix`, in float32 and without it; none of a GGUF file."""
    if place.gguf_file:
        return {}
    found: dict[str, Tensor] = {}
    for key, file in _files_of(place).items():
        if key.startswith(prefix):
            with safe_open(_path_of(place, file), framework="pt") as opened:
                found[key.removeprefix(prefix)] = opened.get_tensor(key).float()
    return found


def _targets(name: str, pattern: str, converters: Sequence[WeightConverter]) -> list[str]:
    """The names in the model that a converter makes of a tensor; `name` is that of the first."""
    converter = next(one for one in converters if pattern in one.source_patterns)
    first, *_ = converter.target_patterns
    return [name.replace(first, target) for target in converter.target_patterns]


def _files_of(place: Located) -> dict[str, str]:
    """Name in the files -> file, as transformers chooses them: one whole file before an index of several."""
    whole = _find(place, _WHOLE)
    if whole is not None:
        with safe_open(whole, framework="pt") as opened:
            return dict.fromkeys(opened.keys(), _WHOLE)
    index = _find(place, _INDEX)
    if index is None:
        raise ModelError(
            f"{place.name!r} has neither {_WHOLE} nor {_INDEX}",
            slug="no-weights",
            key="model.path",
            help="load it with transformers once: save_pretrained() writes safetensors under these names",
        )
    return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])


def _path_of(place: Located, file: str) -> Path:
    path = _find(place, file)
    if path is None:
        raise ModelError(
            f"{_INDEX} of {place.name!r} names {file}, which is not there",
            slug="missing-shard",
            where=place.name,
            key="model.path",
            help="copy the model again with all its files",
        )
    return path


def _find(place: Located, file: str) -> Path | None:
    """A file of the folder, or of the hub's cache or the hub."""
    if place.folder is not None:
        path = place.folder / file
        return path if path.is_file() else None
    found = cached_file(
        place.name,
        file,
        revision=place.revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)
