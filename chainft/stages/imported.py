"""Weights of an earlier run's stage in a new chain: `chain.stages.base.from=RUN_FOLDER`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from chainft.config.run import ModelConfig
from chainft.errors import ModelError
from chainft.models.load import load_config
from chainft.run_folder import model_folder, saved_ties
from chainft.stages.parts import Part


def take_weights(part: Part, run: str, model: PreTrainedModel, *, repeats: bool) -> str:
    """Give a stage the values that its parameters have in a run's `model/`; returns their content digest.

    Parameters of the head are left as they are where the run's head has another shape, does not exist or has other
    labels: it is for that run's. Raises ModelError where any other tensor is missing or has another shape, where the
    run has several values for what is one parameter here, and where blocks of one of the two are repeated (`repeats`:
    here) but their numbers differ: blocks are found by their place.
    """
    key = f"{part.key}.from"
    folder = model_folder(Path(run))
    theirs = load_config(ModelConfig(path=str(folder)))
    saved = _read(folder, part.parameters, key)
    problems = list(_other_depth(folder, theirs, model, repeats=repeats))
    chosen: dict[str, Tensor] = {}
    for names in _by_parameter(part).values():
        is_head = all(name in part.head for name in names)
        found = {name: saved[name] for name in names if name in saved}
        if is_head and theirs.id2label != model.config.id2label:
            continue
        problem = _misfit(names[0], part.parameters[names[0]], found)
        if problem is None:
            chosen |= dict(list(found.items())[:1])
        elif not is_head:
            problems.append(problem)
    if problems:
        raise _unlike(part, run, problems)
    digest = hashlib.sha256()
    with torch.no_grad():
        for name, value in sorted(chosen.items()):
            part.parameters[name].copy_(value)
            digest.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _other_depth(folder: Path, theirs: PreTrainedConfig, model: PreTrainedModel, *, repeats: bool) -> Iterator[str]:
    depths = [getattr(one, "num_hidden_layers", None) for one in (theirs, model.config)]
    if (repeats or saved_ties(folder)) and depths[0] != depths[1]:
        yield f"it has {depths[0]} blocks with repetitions (here {depths[1]})"


def _by_parameter(part: Part) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in sorted(part.parameters.items()):
        names.setdefault(id(parameter), []).append(name)
    return names


def _misfit(name: str, parameter: Tensor, found: Mapping[str, Tensor]) -> str | None:
    """Why the values that a run has under the names of one parameter cannot be taken."""
    if not found:
        return f"{name} is not there (here {list(parameter.shape)})"
    first, value = next(iter(found.items()))
    for other, another in found.items():
        if another.shape != parameter.shape:
            return f"{other} has the shape {list(another.shape)} (here {list(parameter.shape)})"
        if not torch.equal(another, value):
            return f"{first} and {other} differ (here they are one parameter)"
    return None


def _unlike(part: Part, run: str, problems: Sequence[str]) -> ModelError:
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return ModelError(
        f"the weights of {run!r} do not fit stage {part.name!r}: {'; '.join(problems[:3])}{more}",
        slug="unlike-shapes",
        where=run,
        key=f"{part.key}.from",
        help="take a run of the same architecture, cut, shared and repeated alike, or other blocks",
    )


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
