"""Which process writes which tensors of a checkpoint: whole ones, of about as many bytes as the other processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.distributed.tensor import DTensor

from chainft.world import World


def own_part(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """What this process writes of tensors that all copies have, or of which each has a slice.

    Tied ones (the same object under several names) stay together. Slices are put together one tensor after the other, on
    the CPU of the process that writes it: none ever holds all of them. All copies must call it, with the same names.
    """
    unlike = {id(tensor): tensor for tensor in tensors.values()}
    owners = owners_of([one.numel() * one.element_size() for one in unlike.values()], world.num_copies)
    kept: dict[int, Tensor] = {}
    for (key, tensor), owner in zip(unlike.items(), owners, strict=True):
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if owner == world.copy:
            kept[key] = whole.detach().cpu() if isinstance(tensor, DTensor) else whole.detach()
    return {name: kept[id(tensor)] for name, tensor in tensors.items() if id(tensor) in kept}


def owners_of(sizes: Sequence[int], count: int) -> list[int]:
    """For each of several things of these sizes one of `count` owners; neighbours together, about as much for each.

    >>> owners_of([4, 1, 1, 2], 2)
    [0, 1, 1, 1]
    """
    total = sum(sizes)
    owners, before = [], 0
    for size in sizes:
        middle = 2 * before + size  # Twice the place of its middle.
        owners.append(min(count - 1, middle * count // (2 * total)) if total else 0)
        before += size
    return owners
