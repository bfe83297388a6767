"""The state of an optimizer as named tensors and JSON, and back: bitwise, keyed by parameter name, without pickle.

Only state is kept, never settings: learning rate, betas and the like come from the config, so that a resumed run does
what its config says. A tied parameter is one parameter under its first name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chainft.errors import CheckpointError
from chainft.train.slices import placed
from chainft.train.word_table import WordTable

SEPARATOR = "::"
"""Between the name of a parameter and that of an entry of its state."""
_ROWS = "rows"
"""Entry with the numbers of the rows of a word table."""


def pack_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tables: Sequence[WordTable] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors under `<parameter>::<entry>`, JSON with everything else) of the state after an update.

    The tensors are the optimizer's own, not copies: save them before the next update. Of word tables it is the rows that
    are trained, with their numbers as the entry `rows`.
    """
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    shapes: dict[str, list[int]] = {}
    weights = {id(table.module.weight): table for table in tables}
    for name, parameter in _named(optimizer, model, weights):
        table = weights.get(id(parameter))
        if table is not None:
            tensors[f"{name}{SEPARATOR}{_ROWS}"] = table.active
        for entry, value in optimizer.state.get(table.rows if table else parameter, {}).items():
            shapes[name] = list(parameter.shape)
            if isinstance(value, Tensor):
                tensors[f"{name}{SEPARATOR}{entry}"] = value
            else:
                scalars.setdefault(name, {})[entry] = value
    return tensors, {"optimizer": type(optimizer).__name__, "shapes": shapes, "scalars": scalars}


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    json: Mapping[str, Any],
    tables: Sequence[WordTable] = (),
    *,
    copy: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Give `optimizer` the packed state, whole or not at all. Raises CheckpointError where it does not fit.

    `copy`: makes the optimizer's own copy of a tensor; default: on the device of its parameter.
    """
    if json["optimizer"] != type(optimizer).__name__:
        raise _misfit(f"it is the state of {json['optimizer']}, the run uses {type(optimizer).__name__}")
    weights = {id(table.module.weight): table for table in tables}
    known = _all_names(optimizer, model, weights)
    _check_shapes(known, json["shapes"])
    trained = {name: weights[id(one)].rows if id(one) in weights else one for name, one in known.items()}
    fresh: dict[Tensor, dict[str, Any]] = {
        trained[name]: dict(json["scalars"].get(name, {})) for name in json["shapes"]
    }
    counters_on_device = _with_counters_on_device(optimizer)
    for full_name, saved in tensors.items():
        name, _, entry = full_name.rpartition(SEPARATOR)
        if entry == _ROWS:
            continue
        parameter = trained[name]
        value = _rows_of(saved, tensors.get(f"{name}{SEPARATOR}{_ROWS}"), known[name], weights.get(id(known[name])))
        is_counter = entry == "step" and value.ndim == 0 and id(parameter) not in counters_on_device
        device = torch.device("cpu") if is_counter else parameter.device
        own = copy(value) if copy and value.ndim else value.detach().to(device, copy=True)
        fresh[parameter][entry] = placed(own, parameter)
    optimizer.state.clear()
    optimizer.state.update(fresh)


def _rows_of(saved: Tensor, numbers: Tensor | None, weight: Tensor, table: WordTable | None) -> Tensor:
    """State that was saved of some rows, or of the whole weight, for the rows that are trained now."""
    if saved.ndim == 0:
        return saved
    whole = saved
    if numbers is not None:
        whole = saved.new_zeros(weight.shape)
        whole[numbers] = saved
    return whole if table is None else whole[table.active.to(whole.device)]


def _check_shapes(known: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> None:
    if unknown := sorted(shapes.keys() - known.keys()):
        raise _misfit(f"it has state of parameters that are not trained here: {', '.join(unknown[:5])}")
    for name, shape in shapes.items():
        if list(known[name].shape) != shape:
            raise _misfit(f"{name} had shape {shape}, here it has {list(known[name].shape)}")


def _with_counters_on_device(optimizer: torch.optim.Optimizer) -> set[int]:
    """Ids of the parameters whose step counter torch keeps beside them; it keeps the others on the CPU."""
    groups = [group for group in optimizer.param_groups if group.get("fused") or group.get("capturable")]
    return {id(parameter) for group in groups for parameter in group["params"]}


def _named(
    optimizer: torch.optim.Optimizer, model: nn.Module, weights: Mapping[int, WordTable]
) -> Iterator[tuple[str, Tensor]]:
    """(first name, parameter) of all that the optimizer trains, in the model's order."""
    trained = _trained(optimizer, weights)
    named = [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) in trained]
    if len(named) != len(trained):
        raise ValueError("the optimizer trains parameters that are not the model's")
    yield from named


def _trained(optimizer: torch.optim.Optimizer, weights: Mapping[int, WordTable]) -> set[int]:
    """Ids of the model's parameters that the optimizer trains, word tables by their weight."""
    weight_of = {id(table.rows): weight for weight, table in weights.items()}
    # An optimizer of stages that are all frozen has an empty parameter of its own, since torch takes none without.
    trained = (one for group in optimizer.param_groups for one in group["params"] if one.numel())
    return {weight_of.get(id(one), id(one)) for one in trained}


def _all_names(
    optimizer: torch.optim.Optimizer, model: nn.Module, weights: Mapping[int, WordTable]
) -> dict[str, Tensor]:
    """Every trained parameter under each of its names: another order of modules may make another name the first."""
    trained = _trained(optimizer, weights)
    named = model.named_parameters(remove_duplicate=False)
    return {name: parameter for name, parameter in named if id(parameter) in trained}


def _misfit(reason: str) -> CheckpointError:
    return CheckpointError(f"the saved optimizer state does not fit: {reason}", slug="optimizer-state")
