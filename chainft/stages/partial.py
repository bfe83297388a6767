"""Loads one stage of a model: only the tensors that it computes with are read, the rest takes no memory.

The whole architecture is there, so that transformers' forward pass runs, but a parameter of another stage is a *ghost*:
zeros seen through strides of 0 that are a plain attribute of their module, in neither `parameters()` nor `state_dict()`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chainft.config.run import ModelConfig
from chainft.errors import ModelError
from chainft.models.load import Prepared, fit_head, prepare
from chainft.models.read import check_body, explained
from chainft.models.tensor_index import TensorIndex
from chainft.stages.families import check_start
from chainft.stages.gates import Gates, Payload
from chainft.stages.owners import live
from chainft.stages.skeleton import ghost_of, skeleton
from chainft.stages.spans import Span

if TYPE_CHECKING:
    from chainft.tasks.base import Task


Ghost = tuple[nn.Module, str]
"""A module and its attribute."""


class Stage(nn.Module):
    """A span of a model with only the parameters that it computes with."""

    def __init__(
        self,
        gates: Gates,
        span: Span,
        ghosts: list[Ghost],
        *,
        new: tuple[str, ...] = (),
        names: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.model: PreTrainedModel = gates.model
        """Its parameters have the names that they have in the whole model."""
        self.span = span
        self.new = new
        """Parameters of the stage that the weights did not bring."""
        self.names = names
        """Names of the parameters that it computes with -> their first names in the whole model, where the model holds
        those of other stages too; None: all."""
        self._gates = gates
        self._ghosts = ghosts

    def forward(self, payload: Payload | None, inputs: Mapping[str, Tensor]) -> Any:
        """As `Gates.run`: what the next stage gets, or the model's output."""
        return self._gates.run(self.span, payload, inputs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Stage:
        """Ghosts go with `.to(...)` too."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for module, name in self._ghosts:
            ghost = vars(module)[name]
            vars(module)[name] = fn(ghost.as_strided((1,), (1,))).expand(ghost.shape)
        return self


def load_stage(config: ModelConfig, task: Task, span: Span, *, seed: int) -> Stage:
    """The stage with the values that `load_model(config, task, seed=seed)` gives them in the whole model.

    Only tensors of the stage are read. Parameters that the weights do not bring, such as a new head, are drawn for all
    stages in each of them and in the order of transformers, so that they are the same in any cut. With
    `model.pretrained=false` or `model.head=new`, for which `load_model` draws a whole model, so does this for a moment.

    Raises ModelError where `load_model` does, and where a tensor of the stage has to be computed from several of the
    files.
    """
    prepared = prepare(config, task)
    with explained(prepared.place, "model"):
        model = skeleton(prepared.auto, prepared.architecture)
    gates = Gates(model)
    check_start(model, span)
    names = live(gates, span)
    if model._can_set_experts_implementation():
        experts: Any = None  # The default again, which a skeleton cannot run.
        model.set_experts_implementation(experts)
    torch.manual_seed(seed)
    drawn = {} if config.pretrained and config.head == "auto" else _drawn(prepared)
    if config.pretrained:
        missing, mismatched = _read(model, names, prepared)
        new = {*missing, *mismatched}
        body = f"{model.base_model_prefix}."
        drawn = {name: value for name, value in drawn.items() if not name.startswith(body)}
        if config.head == "auto" and span.head:
            fit_head(model, prepared.place, prepared.old_labels, has_head=not missing, mismatched=mismatched)
    else:
        new = set(drawn)
    _put(model, {name: value for name, value in drawn.items() if name in names})
    return Stage(gates, span, leave_out(model, names), new=tuple(sorted((new | drawn.keys()) & names)))


def _drawn(prepared: Prepared) -> dict[str, Tensor]:
    """Every tensor of a whole random model."""
    model = prepared.auto.from_config(prepared.architecture, trust_remote_code=False, dtype=torch.float32)
    return dict(model.state_dict())


def _read(model: PreTrainedModel, names: set[str], prepared: Prepared) -> tuple[list[str], list[str]]:
    """Fill the stage's parameters and all buffers from the files, and draw what the files lack.

    Returns the names of what is missing in the files and of what has another shape there, of any stage.
    """
    with explained(prepared.place, "model"):
        index = TensorIndex.of(prepared.place, model)
        lacking, mismatched = _misfits(model, index)
        ignored = re.compile("|".join(getattr(model, "_keys_to_ignore_on_load_missing", None) or ["(?!)"]))
        missing = [name for name in lacking if not ignored.search(name)]
        check_body(model, [*missing, *mismatched], prepared.place)
        _refuse_converted(index, names)
        wanted = names | {name for name, _ in model.named_buffers()}
        values = index.read([name for name in index.sources if name in wanted and name not in mismatched])
    _check_ties(model, values, prepared)
    _put(model, values)
    _draw(model, [*lacking, *mismatched])
    return missing, mismatched


def _misfits(model: PreTrainedModel, index: TensorIndex) -> tuple[list[str], list[str]]:
    """Parameters that the files lack under every name they have, and those that have another shape there."""
    lacking: list[str] = []
    mismatched: list[str] = []
    for names, parameter in _parameters(model):
        known = [name for name in names if name in index.sources]
        if not known and not index.converted.intersection(names):
            lacking.append(names[0])
        shapes = index.shapes(known)
        mismatched += [name for name in known if shapes[name] != tuple(parameter.shape)]
    return lacking, mismatched


def _refuse_converted(index: TensorIndex, names: set[str]) -> None:
    converted = sorted(index.converted & names)
    if converted:
        raise ModelError(
            f"the files of {index.place.name!r} hold {converted[0]} in another form, so that its stage cannot be loaded alone",
            slug="converted-tensors",
            key="model.path",
            help="convert it once: load it with transformers and save_pretrained(save_original_format=False)",
        )


def _check_ties(model: PreTrainedModel, values: Mapping[str, Tensor], prepared: Prepared) -> None:
    """The files may hold a tied parameter under each of its names, but with one value."""
    for names, _ in _parameters(model):
        first, *others = [name for name in names if name in values] or [""]
        for other in others:
            if not torch.equal(values[first], values[other]):
                raise ModelError(
                    f"{first} and {other} are one parameter by config.json, but differ in the files of "
                    f"{prepared.place.name!r}",
                    slug="broken-tie",
                    key="model.path",
                    help="set tie_word_embeddings to false in config.json if the model was trained so",
                )


def _draw(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Give parameters random values as `from_pretrained` does: module by module, past all that is flagged as there."""
    flagged: Any
    for flagged in [*model.parameters(), *model.buffers()]:
        flagged._is_hf_initialized = True
    for name in names:
        value = torch.empty(model.get_parameter(name).shape)
        _put(model, {name: value})
        flagged = model.get_parameter(name)
        flagged._is_hf_initialized = False
    for flagged in model.modules():
        flagged._is_hf_initialized = False
    model.initialize_weights()  # type: ignore[no-untyped-call]


def _put(model: PreTrainedModel, values: Mapping[str, Tensor]) -> None:
    """Replace parameters, under every name they have, and buffers."""
    names_of = {name: names for names, _ in _parameters(model) for name in names}
    for name, value in values.items():
        if name not in names_of:
            module, _, leaf = name.rpartition(".")
            model.get_submodule(module)._buffers[leaf] = value.to(model.get_buffer(name).dtype)
            continue
        parameter = nn.Parameter(value, requires_grad=model.get_parameter(name).requires_grad)
        for one in names_of[name]:
            module, _, leaf = one.rpartition(".")
            model.get_submodule(module)._parameters[leaf] = parameter


def leave_out(model: PreTrainedModel, names: set[str]) -> list[Ghost]:
    """Turn every parameter but those named into a ghost."""
    ghosts: list[Ghost] = []
    for path, module in model.named_modules():
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            if (f"{path}.{leaf}" if path else leaf) not in names:
                del module._parameters[leaf]
                vars(module)[leaf] = ghost_of(parameter)
                ghosts.append((module, leaf))
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and part is not model:
            inside = set(part.modules())
            own = [(module, leaf) for module, leaf in ghosts if module in inside]
            vars(part)["parameters"] = partial(_parameters_or_ghosts, part, own)
    return ghosts


def _parameters_or_ghosts(part: PreTrainedModel, ghosts: list[Ghost], recurse: bool = True) -> Iterator[Tensor]:
    """What a model inside of the model asks for its type and device, also where it has no parameter left."""
    parameters = list(nn.Module.parameters(part, recurse))
    yield from parameters or [vars(module)[leaf] for module, leaf in ghosts]


def _parameters(model: PreTrainedModel) -> list[tuple[list[str], nn.Parameter]]:
    """Each parameter with all its names, in the model's order."""
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        parameters[id(parameter)] = parameter
    return [(names[key], parameters[key]) for key in names]
