"""Weights of an earlier run's stage in a new chain: `chain.stages.base.from=RUN_FOLDER`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chainft.errors import ModelError
from chainft.run_folder import model_folder
from chainft.stages.parts import Part


def take_weights(part: Part, run: str) -> str:
    """Give a stage the values that its parameters have in a run's `model/`; returns their content digest.

    Parameters of the head are left as they are where the run's head has another shape or does not exist: it is for
    that run's labels. Raises ModelError where any other tensor is missing or has another shape.
    """
    key = f"{part.key}.from"
    saved = _read(model_folder(Path(run)), part.parameters, key)
    problems = []
    for name, parameter in part.parameters.items():
        value = saved.get(name)
        fits = value is not None and value.shape == parameter.shape
        if not fits and name not in part.head:
            there = "is not there" if value is None else f"has the shape {list(value.shape)}"
            problems.append(f"{name} {there} (here {list(parameter.shape)})")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(
            f"the weights of {run!r} do not fit stage {part.name!r}: {'; '.join(problems[:3])}{more}",
            slug="unlike-shapes",
            where=run,
            key=key,
            help="take a run of the same architecture, or other blocks",
        )
    digest = hashlib.sha256()
    with torch.no_grad():
        for name, parameter in sorted(part.parameters.items()):
            value = saved.get(name)
            if value is not None and value.shape == parameter.shape:
                parameter.copy_(value)
                digest.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _read(folder: Path, parameters: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    """The tensors of a model folder that have one of these names."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                found |= {name: tensors.get_tensor(name) for name in tensors.keys() if name in parameters}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(
                f"cannot read {file.name}: {error}", slug="unreadable", where=str(file), key=key
            ) from error
    if not found:
        raise ModelError(
            f"the model in {str(folder)!r} has none of the stage's parameters",
            slug="another-architecture",
            where=str(folder),
            key=key,
            help="take a run of the same architecture",
        )
    return found
