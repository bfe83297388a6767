"""Which rank of a pipeline holds which parameters: copies of one parameter get one gradient, and each has one owner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement

from chainft.stages.own import canonical_names
from chainft.stages.partial import Stage
from chainft.train.process_groups import new_groups


class Holdings:
    """The parameters of this rank, and who else of the pipeline has a copy of them."""

    def __init__(
        self,
        stages: Sequence[Stage],
        group: dist.ProcessGroup,
        device: torch.device,
        *,
        timeout: timedelta | None = None,
    ) -> None:
        """All processes make theirs together, those of other pipelines too."""
        self.parameters: Mapping[str, nn.Parameter] = _parameters(stages)
        """First name in the whole model -> parameter."""
        self._group = group
        self._device = device
        names: list[list[str]] = [[] for _ in range(group.size())]
        dist.all_gather_object(names, list(self.parameters), group=group)
        holders: dict[str, list[int]] = {}
        for rank, several in enumerate(names):
            for name in several:
                holders.setdefault(name, []).append(rank)
        self.all_names = tuple(sorted(holders))
        """First names of all parameters that the ranks of the pipeline hold."""
        self.owned = tuple(name for name in self.parameters if holders[name][0] == group.rank())
        """Of each parameter the lowest rank that holds it is the owner."""
        self._ties = _ties(holders, group, timeout)

    def sum_ties(self) -> None:
        """Give every copy of a parameter the sum of the gradients of all copies.

        A parameter that has no gradient anywhere keeps none, as in a single process, where optimizers leave it out.
        """
        for group, names in self._ties:
            parameters = [self.parameters[name] for name in names if self.parameters[name].requires_grad]
            if not parameters:
                continue
            there = torch.tensor([one.grad is not None for one in parameters], dtype=torch.int64)
            dist.all_reduce(there, group=group)
            for parameter, count in zip(parameters, there.tolist(), strict=True):
                if count:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    dist.all_reduce(_local(parameter.grad), group=group)

    def grad_norm_sq(self) -> Tensor:
        """Sum of squares of the gradients of this rank's owned parameters, float64: each counts once in a pipeline.

        Of a sharded gradient (FSDP2) all shards count; then those who hold the others call this too.
        """
        sums: dict[tuple[DeviceMesh, tuple[Placement, ...]] | None, list[Tensor]] = {}
        for name in self.owned:
            gradient = self.parameters[name].grad
            if gradient is not None:
                key = (gradient.device_mesh, gradient.placements) if isinstance(gradient, DTensor) else None
                norm = torch.linalg.vector_norm(_local(gradient), dtype=torch.float32)
                sums.setdefault(key, []).append(norm.double().square())
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for key, squares in sums.items():
            part = torch.stack(squares).sum()
            for dimension, placement in enumerate(key[1] if key else ()):
                if key and placement.is_shard():
                    dist.all_reduce(part, group=key[0].get_group(dimension))
            total += part
        return total


def _parameters(stages: Sequence[Stage]) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    for stage in stages:
        names = canonical_names(stage.model) if stage.names is None else stage.names
        for name, first in names.items():
            parameter = stage.model.get_parameter(name)
            if found.setdefault(first, parameter) is not parameter:
                raise ValueError(f"two stages of one rank have {first}, but not as one parameter")
    return found


def _ties(
    holders: Mapping[str, Sequence[int]], group: dist.ProcessGroup, timeout: timedelta | None
) -> list[tuple[dist.ProcessGroup, list[str]]]:
    """Parameters of which this rank and others have copies, with a process group of these ranks."""
    by_ranks: dict[tuple[int, ...], list[str]] = {}
    for name in sorted(holders):
        if len(holders[name]) > 1:
            by_ranks.setdefault(tuple(holders[name]), []).append(name)
    by_ranks = {tuple(dist.get_global_rank(group, one) for one in ranks): names for ranks, names in by_ranks.items()}
    groups = new_groups({ranks: ranks for ranks in by_ranks if dist.get_rank() in ranks}, timeout=timeout)
    return [(groups[ranks], by_ranks[ranks]) for ranks in sorted(groups)]


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
