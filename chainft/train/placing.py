"""One stage per rank: which spans of the model are whose, and a model of which this process keeps its own alone.

The chain says what stages are; a pipeline needs as many as it has places. Where the chain has more, neighbours go
together, where it has none the blocks are divided, both so that the slowest place has the least to do: measured, of
frozen beginnings their forward pass alone. Checkpoints hold the whole model under the names that it has in one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from chainft.config.launch import LaunchConfig
from chainft.data.batching import Batch
from chainft.models.generation import without_keys
from chainft.plan.pipeline_schedule import placement
from chainft.plan.places import place_spans
from chainft.stages.blocks import find_blocks
from chainft.stages.chain import Chain
from chainft.stages.measure import block_seconds
from chainft.stages.own import canonical_names, own_stages
from chainft.stages.spans import Span
from chainft.train.optimizer_state import SEPARATOR, pack_optimizer, restore_optimizer
from chainft.train.parts import own_part
from chainft.train.pipeline import Pipeline
from chainft.train.sharding import Sharding
from chainft.train.slices import placed
from chainft.world import World

if TYPE_CHECKING:
    from chainft.tasks.base import Task


class Placed:
    """The stages of this process, linked with those of the others. Made before the optimizer."""

    def __init__(
        self,
        model: PreTrainedModel,
        chain: Chain,
        task: Task,
        spans: Sequence[Span],
        *,
        world: World,
        launch: LaunchConfig,
        autocast: Any,
    ) -> None:
        """`spans`: all stages of the pipeline in order. Raises ModelError for a cut or a family that is refused."""
        self.model = model
        self.world = world
        self.canonical = canonical_names(model)
        """Every name of each parameter in the whole model -> its first name."""
        self._first = {*self.canonical.values()}
        everyone: Any = dist.group.WORLD
        self._group: dist.ProcessGroup = world.places if world.places is not None else everyone
        a_place = launch.stages_of_place
        ranks = placement(launch.schedule, launch.pipeline, a_place)
        mine = [number for number, rank in enumerate(ranks) if rank == world.place]
        self.spans = tuple(spans)
        self.mine = tuple(mine)
        stages = own_stages(model, spans, mine)
        chain.follow(model)
        chain.is_cut = True
        self.sharding = Sharding(model, chain, world, launch, stage=stages[0]) if launch.fsdp else None
        self.pipeline = Pipeline(
            stages,
            task,
            schedule=launch.schedule,
            group=self._group,
            device=model.device,
            autocast=autocast,
            splits_backward=not launch.fsdp,
            timeout=timedelta(seconds=launch.timeout_s),
        )

    def gradient(
        self, batches: Sequence[Batch], num_targets: float, *, seed: Callable[[int], None], num_idle: int = 0
    ) -> float:
        """Gradients of all micro-batches, summed over copies of a parameter in the pipeline; the loss a target.

        The last `num_idle` batches count nothing.
        """
        scale = 1 if self.sharding is None else self.sharding.loss_scale
        loss = self.pipeline.gradient(batches, num_targets / scale, seed=seed, num_idle=num_idle)
        self.pipeline.sum_ties()
        return float(loss) / scale

    def clip(self, parameters: Sequence[Tensor], limit: float | None) -> float:
        """Clip the gradients of the whole model to a norm; returns the norm before, which counts each parameter once."""
        norm = math.sqrt(float(self.pipeline.grad_norm_sq()))
        if limit is not None and norm > limit:
            scale = limit / (norm + 1e-6)  # As torch.nn.utils.clip_grad_norm_ does.
            for one in parameters:
                if one.grad is not None:
                    one.grad.mul_(scale)
        return norm

    def infer(self, batch: Batch) -> Any:
        """The model's output for a batch, on every process of the pipeline."""
        return self.pipeline.infer(batch)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within the context the model itself can be called and writes texts, on all processes in step.

        Keys and values of earlier tokens are computed again for each new one: a cache knows all blocks of a model.
        """
        own = self.model.forward
        inside = False

        def forward(**arguments: Any) -> Any:
            nonlocal inside
            if inside:  # A stage runs the model's own forward pass.
                return own(**arguments)
            inside = True
            try:
                return self.pipeline.forward_like(**arguments)
            finally:
                inside = False

        self.model.forward = forward
        try:
            # Copies write texts of other lengths, and must not wait for each other's slices.
            with without_keys(self.model), self.sharding.gathered() if self.sharding else nullcontext():
                yield
        finally:
            del self.model.forward

    def rest(self) -> None:
        """Let the model have its slices as parameters, where it is sharded too."""
        if self.sharding is not None:
            self.sharding.rest()

    def state(self) -> dict[str, Tensor]:
        """What this process writes of the whole model's state. All processes must call it.

        Buffers, which every place has, are written by each: of them the last one counts.
        """
        self.rest()
        return own_part(self._own_state(), self.world)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What this process writes of the whole optimizer's state; on the main one, what else belongs to all of it."""
        self.rest()
        tensors, json = pack_optimizer(optimizer, self.model)
        owned = {*self.pipeline.owned_names()}
        own = {name: self.canonical[name] for name in {*json["shapes"], *json["scalars"]}}
        own = {name: first for name, first in own.items() if first in owned}
        kept = {}
        for name, tensor in tensors.items():
            parameter, _, entry = name.rpartition(SEPARATOR)
            if parameter in own:
                kept[f"{own[parameter]}{SEPARATOR}{entry}"] = tensor
        tables = {
            table: {own[name]: value for name, value in json[table].items() if name in own}
            for table in ("shapes", "scalars")
        }
        record: dict[str, Any] = {**json, "shapes": {}, "scalars": {}}
        for found in self._gathered(tables):
            for table in ("shapes", "scalars"):
                record[table].update(found[table])
        return own_part(kept, self.world), record

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Give the stages of this process the whole model's weights."""
        self.rest()
        with torch.no_grad():
            for name, mine in self.model.state_dict().items():
                mine.copy_(placed(state[name], mine))

    def restore_optimizer(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], json: Mapping[str, Any]
    ) -> None:
        """Give the optimizer its part of a whole state. Raises CheckpointError where it does not fit."""
        local = {self.canonical[name]: name for name, _ in self.model.named_parameters()}
        kept = {}
        for name, tensor in tensors.items():
            parameter, _, entry = name.rpartition(SEPARATOR)
            first = self.canonical.get(parameter, parameter)
            if first in local:
                kept[f"{local[first]}{SEPARATOR}{entry}"] = tensor
        tables = {
            table: {
                local[self.canonical.get(name, name)]: value
                for name, value in json[table].items()
                if self.canonical.get(name, name) in local
            }
            for table in ("shapes", "scalars")
        }
        restore_optimizer(optimizer, self.model, kept, {**json, **tables})

    def dissolve(self) -> None:
        """Give the main process the plain whole model again, for writing it; the others keep their stages."""
        trained = {self.canonical[name]: one.requires_grad for name, one in self.model.named_parameters()}
        self.rest()
        firsts = {name: one for name, one in self._own_state().items() if self.canonical.get(name, name) == name}
        parts = self._gathered({name: _whole(tensor) for name, tensor in firsts.items()})
        state = {name: value for part in parts for name, value in part.items()}
        if not self.world.is_main:
            return
        for part in self.model.modules():
            vars(part).pop("parameters", None)  # What asked ghosts for their type.
        made: dict[str, nn.Parameter] = {}
        for name, first in self.canonical.items():
            path, _, leaf = name.rpartition(".")
            module = self.model.get_submodule(path)
            vars(module).pop(leaf, None)
            value = state[first].to(self.model.device)
            one = made.setdefault(first, nn.Parameter(value, requires_grad=trained.get(first, False)))
            module._parameters[leaf] = one

    def _own_state(self) -> dict[str, Tensor]:
        """Parameters that this place owns, under all their names in the whole model, and its buffers."""
        local = self.model.state_dict(keep_vars=True)
        mine = {self.canonical.get(name, name): tensor for name, tensor in local.items()}
        owned = {*self.pipeline.owned_names()}
        given = {name: mine[first] for name, first in self.canonical.items() if first in owned}
        return given | {name: tensor for name, tensor in mine.items() if name not in self._first}

    def _gathered(self, value: Any) -> list[Any]:
        """What all places of the main pipeline give, on the main process; nothing elsewhere."""
        if self.world.copy != 0:
            return []
        found: list[Any] | None = [None] * self.world.num_places if self.world.is_main else None
        dist.gather_object(value, found, group=self._group, group_dst=0)
        return found or []


def pipeline_spans(launch: LaunchConfig, model: PreTrainedModel, chain: Chain, task: Task, batch: Batch) -> list[Span]:
    """The stages that a pipeline has, in order; `batch`: some rows, of which the time is measured.

    Raises ConfigError where the chain has too few stages, or the model too few blocks.
    """
    blocks = find_blocks(model)
    inputs = task.arguments(batch.to(model.device))
    return place_spans(launch, [*chain.spans.values()], blocks.num_blocks, lambda: block_seconds(model, inputs))


def _whole(tensor: Tensor) -> Tensor:
    """On the CPU; of slices, the whole."""
    full: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu()
