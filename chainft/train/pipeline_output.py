"""Gives every rank of a pipeline the model's output, which one of them computed."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class _Hole:
    """Stands for a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Sharing:
    """Sends outputs from one rank to all; what outputs of one key are made of is sent once."""

    def __init__(self, group: dist.ProcessGroup, source: int, device: torch.device) -> None:
        """`source`: the rank within `group` that has the output."""
        self._group = group
        self._source = dist.get_global_rank(group, source)
        self._is_source = group.rank() == source
        self._device = device
        self._frames: dict[Hashable, Any] = {}

    def __call__(self, output: Any, key: Hashable) -> Any:
        """The output of the source, on every rank; `output` counts there alone."""
        tensors: list[Tensor] = []
        if key not in self._frames:
            holder = [_frame(output, tensors) if self._is_source else None]
            dist.broadcast_object_list(holder, self._source, group=self._group, device=torch.device("cpu"))
            self._frames[key] = holder[0]
        elif self._is_source and _frame(output, tensors) != self._frames[key]:
            raise RuntimeError("the output has another form than the other ranks expect")
        if not self._is_source:
            tensors = [
                torch.empty(hole.shape, dtype=hole.dtype, device=self._device) for hole in _holes(self._frames[key])
            ]
        for tensor in tensors:
            dist.broadcast(tensor, self._source, group=self._group)
        return output if self._is_source else _filled(self._frames[key], iter(tensors))


def _frame(output: Any, tensors: list[Tensor]) -> Any:
    """The output with holes for its tensors, which are added to `tensors`."""
    if isinstance(output, Tensor):
        tensors.append(output.contiguous())
        return _Hole(tuple(output.shape), output.dtype)
    if isinstance(output, dict):  # As `ModelOutput` is.
        return type(output), {name: _frame(value, tensors) for name, value in output.items()}
    if isinstance(output, tuple | list):
        return [_frame(value, tensors) for value in output]
    if output is None or isinstance(output, bool | int | float | str):
        return output
    raise TypeError(f"a {type(output).__name__} in a model's output cannot be given to the other ranks of a pipeline")


def _holes(frame: Any) -> Iterator[_Hole]:
    """In the order of their tensors."""
    if isinstance(frame, _Hole):
        yield frame
    for part in frame[1].values() if isinstance(frame, tuple) else frame if isinstance(frame, list) else ():
        yield from _holes(part)


def _filled(frame: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(frame, _Hole):
        return next(tensors)
    if isinstance(frame, tuple):
        kind, parts = frame
        return kind(**{name: _filled(part, tensors) for name, part in parts.items()})
    if isinstance(frame, list):
        return tuple(_filled(part, tensors) for part in frame)
    return frame
