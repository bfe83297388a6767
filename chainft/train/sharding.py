"""Shards a model over the copies of a run (FSDP2): each keeps a slice of parameters, gradients and optimizer state.

Every block is a unit that is gathered for the time of its use; blocks that share parameters are one unit, and whatever
lies around the blocks is the outermost. FSDP2 averages gradients over the copies (gloo has no other way), where a sum is
wanted, since the loss is divided by the targets of the whole batch already: `loss_scale` makes up for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from chainft.config.launch import LaunchConfig
from chainft.errors import ConfigError
from chainft.stages.chain import Chain
from chainft.stages.shard_units import shard_units
from chainft.train.optimizer_state import pack_optimizer, restore_optimizer
from chainft.train.parts import own_part
from chainft.train.slices import placed
from chainft.world import World


class Sharding:
    """A model that is sharded. Made before the optimizer, which then has the slices."""

    def __init__(
        self,
        model: PreTrainedModel,
        chain: Chain,
        world: World,
        launch: LaunchConfig,
        *,
        stage: nn.Module | None = None,
    ) -> None:
        """`stage`: what is called instead of the model, of which it is a part. Raises ConfigError for offload where
        there is no GPU."""
        device = model.device.type
        if launch.cpu_offload and device == "cpu":
            raise ConfigError(
                "launch.cpu_offload = true has no effect: the run computes on the CPU",
                slug="no-effect",
                key="launch.cpu_offload",
                help="leave it away",
            )
        self.model = model
        self.world = world
        self._reshards = launch.reshard_after_forward
        mesh = _mesh(world, device)
        policy: OffloadPolicy = CPUOffloadPolicy() if launch.cpu_offload else OffloadPolicy()
        for units in shard_units(model):
            fully_shard(units, mesh=mesh, reshard_after_forward=launch.reshard_after_forward, offload_policy=policy)
        root = model if stage is None else stage
        fully_shard(root, mesh=mesh, reshard_after_forward=False, offload_policy=policy)
        self._root: Any = root
        chain.follow(model)

    @property
    def loss_scale(self) -> int:
        """What a copy's loss is multiplied by before its backward pass."""
        return self.world.num_copies

    def rest(self) -> None:
        """Let the model have its slices as parameters, which after a forward pass alone it does not."""
        for module in self._sharded():
            module.reshard()

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors on the CPU of the main process; none elsewhere. All processes must call it."""
        found: dict[str, Tensor] = {}
        kept: dict[int, Tensor] = {}
        for name, tensor in tensors.items():
            if id(tensor) not in kept:
                full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
                kept[id(tensor)] = full.detach().cpu() if self.world.is_main else full[:0] if full.ndim else full
            if self.world.is_main:
                found[name] = kept[id(tensor)]
        return found

    def state(self) -> dict[str, Tensor]:
        """What this process writes of the whole model's state. All processes must call it."""
        self.rest()
        return own_part(self.model.state_dict(keep_vars=True), self.world)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What this process writes of the whole optimizer's state, and what else `pack_optimizer` gives of all of it."""
        self.rest()
        tensors, json = pack_optimizer(optimizer, self.model)
        return own_part(tensors, self.world), json

    def restore_optimizer(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], json: Mapping[str, Any]
    ) -> None:
        """Give the optimizer its slices of a whole state. Raises CheckpointError where it does not fit."""
        restore_optimizer(optimizer, self.model, tensors, json)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Give the model whole tensors, of which each process takes its slices."""
        self.rest()
        own = self.model.state_dict()
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(placed(value, own[name]))

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within the context every process has all parameters, and may call the model as often as it likes."""
        for module in self._sharded():
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            self.rest()
            for module in self._sharded():
                module.set_reshard_after_forward(self._reshards and module is not self._root, recurse=False)

    def dissolve(self) -> None:
        """Give the main process a plain model again, for writing it; the model of the others is of no use any more."""
        self.rest()
        named = dict(self.model.named_parameters(remove_duplicate=False))
        values = self.whole(named)
        made: dict[int, nn.Parameter] = {}
        for name, sharded in named.items() if self.world.is_main else ():
            value = values[name].to(self.model.device)
            plain = made.setdefault(id(sharded), nn.Parameter(value, requires_grad=sharded.requires_grad))
            path, _, leaf = name.rpartition(".")
            self.model.get_submodule(path)._parameters[leaf] = plain

    def _sharded(self) -> Iterator[FSDPModule]:
        for module in self._root.modules():
            if isinstance(module, FSDPModule):
                yield module


def _mesh(world: World, device: str) -> DeviceMesh:
    group: Any = world.copies if world.copies is not None else torch.distributed.group.WORLD
    return DeviceMesh.from_group(group, device)
