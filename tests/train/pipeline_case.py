"""Tiny models that are trained for some steps by one process and by a pipeline, with the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import transformers
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional
from transformers import PreTrainedModel

from chainft.data.batching import Batch
from chainft.plan.pipeline_schedule import placement
from chainft.stages.gates import Gates
from chainft.stages.own import canonical_names, own_stages
from chainft.stages.sharing import tie_blocks
from chainft.stages.spans import equal_spans
from chainft.train.pipeline import Pipeline
from tests.stages.architectures import HEADS, VOCABULARY, tiny_config

SHAPES = (((3, 9), (2, 5), (1, 12), (3, 9)), ((2, 7), (4, 5), (2, 5)), ((1, 9), (2, 5), (3, 9), (2, 7), (1, 4)))
"""Rows and tokens of each micro-batch of each step."""


@dataclass(frozen=True)
class Case:
    """What is trained."""

    model: str
    """`model type:head`."""
    frozen: tuple[str, ...] = ()
    """Parts of names of the parameters that are not trained."""
    unfrozen_at: int | None = None
    """The step from which they are, after all."""
    lora: bool = False
    blocks: int = 8
    tied: bool = False
    bf16: bool = False
    """Under autocast."""
    recomputed: bool = False
    dropout: float = 0.0
    repeats: bool = False
    """The upper half of the blocks has the parameters of the lower one."""

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)


@dataclass(frozen=True)
class Seen:
    """What one rank of a pipeline did."""

    owned: tuple[str, ...]
    handed_back: dict[int, int]


@dataclass(frozen=True)
class Outcome:
    """What training gave; parameters and gradients by their first names in the whole model."""

    losses: list[float]
    norms: list[float]
    gradients: Mapping[str, np.ndarray]
    """Of the first step."""
    parameters: Mapping[str, np.ndarray]
    """After the last step."""
    logits: np.ndarray
    """Of one more batch, in evaluation."""
    seen: Seen | None = None


class Targets:
    """The parts of a task that training needs: cross entropy, summed."""

    def __init__(self, head: str) -> None:
        self.head = head

    def arguments(self, batch: Batch) -> dict[str, Any]:
        return dict(batch.inputs)

    def loss(self, output: Any, batch: Batch) -> Tensor:
        logits, labels = output.logits, batch.targets["labels"]
        if self.head == "causal":
            logits, labels = logits[:, :-1], labels[:, 1:]
        return functional.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="sum")

    def num_targets(self, batch: Batch) -> float:
        labels = batch.targets["labels"]
        return float((labels[:, 1:] if self.head == "causal" else labels).numel())


def model_of(case: Case) -> PreTrainedModel:
    kind, head = case.model.split(":")
    config: Any = tiny_config(kind)
    if kind == "t5":
        config.num_layers = config.num_decoder_layers = case.blocks // 2
    else:
        config.num_hidden_layers = case.blocks
        config.tie_word_embeddings = case.tied
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, case.dropout)
    torch.manual_seed(0)
    model: PreTrainedModel = getattr(transformers, HEADS[head]).from_config(config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in case.frozen))
    if case.repeats:
        tie_blocks(Gates(model).blocks, [(one + 4, one) for one in range(4)], pattern=None, stage="top", other="base")
    if case.lora:
        from chainft.config.chain import LoraConfig
        from chainft.stages.lora import add_adapters

        paths = [Gates(model).blocks.path_of(block) for block in range(case.blocks)]
        add_adapters(model, paths, LoraConfig(r=2, dropout=0.0), key="lora")
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    if case.recomputed:
        model.activation_checkpointing_enable()
    return model.train()


def batches_of(case: Case, step: int) -> list[Batch]:
    """The micro-batches of a step: of different rows and lengths, and partly padded."""
    head = case.model.split(":")[1]
    generator = torch.Generator().manual_seed(step)
    found = []
    for rows, length in SHAPES[step % len(SHAPES)]:
        ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, length // 2 :] = 0
        inputs = {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}
        labels = ids if head == "causal" else torch.randint(0, 2, (rows,), generator=generator)
        if head == "seq2seq":
            labels = torch.randint(3, VOCABULARY, (rows, length - 2), generator=generator)
            inputs["decoder_input_ids"] = labels.roll(1, 1)
        found.append(Batch(inputs, {"labels": labels}, tuple(range(rows)), mask.sum(1)))
    return found


def unfreeze(model: torch.nn.Module, case: Case, step: int) -> None:
    if step == case.unfrozen_at:
        for name, parameter in model.named_parameters():
            if any(part in name for part in case.frozen):
                parameter.requires_grad_(True)


def seed(step: int, number: int) -> None:
    torch.manual_seed(100 * step + number)


def optimizer_of(parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


@cache
def single(case: Case, steps: int = 3) -> Outcome:
    """Training by one process."""
    model, task = model_of(case), Targets(case.model.split(":")[1])
    model.config.use_cache = False
    optimizer = optimizer_of(list(model.parameters()))
    losses, norms, gradients = [], [], {}
    for step in range(steps):
        unfreeze(model, case, step)
        batches = batches_of(case, step)
        count = sum(map(task.num_targets, batches))
        total = 0.0
        for number, batch in enumerate(batches):
            seed(step, number)
            with case.autocast():
                output = model(**task.arguments(batch))
            loss = task.loss(output, batch) / count
            loss.backward()
            total += float(loss.detach())
        losses.append(total)
        found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
        norms.append(float(torch.stack([one.double().norm() for one in found.values()]).norm()))
        gradients = gradients or {name: one.numpy() for name, one in found.items()}
        optimizer.step()
        optimizer.zero_grad()
    parameters = {name: one.detach().numpy() for name, one in model.named_parameters()}
    with torch.inference_mode(), case.autocast():
        logits = model.eval()(**task.arguments(batches_of(case, 7)[0])).logits.float().numpy()
    return Outcome(losses, norms, gradients, parameters, logits)


def piped(
    rank: int,
    case: Case,
    schedule: str,
    stages_per_rank: int,
    splits_backward: bool = True,
    steps: int = 3,
    size: int | None = None,
    sharded: bool = False,
) -> Outcome:
    """Training by one rank of a pipeline of all ranks, or of `size` of them, with more pipelines beside it.

    `sharded`: these hold the blocks of each place together (FSDP2).
    """
    size = size or dist.get_world_size()
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, dist.get_world_size(), size)]
    group, rank = groups[rank // size], rank % size
    assert group is not None
    model, task = model_of(case), Targets(case.model.split(":")[1])
    canonical = canonical_names(model)
    blocks = Gates(model).blocks
    spans = equal_spans(blocks.map, size * stages_per_rank)
    ranks = placement(schedule, size, stages_per_rank)
    mine = [number for number, one in enumerate(ranks) if one == rank]
    stages = own_stages(model, spans, mine)
    if sharded:
        shape = (dist.get_world_size() // size, size)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copy", "place"))["copy"]
        for block in (block for stage in stages for block in stage.span.blocks):
            fully_shard(blocks.module(block), mesh=mesh, reshard_after_forward=True)
    optimizer = optimizer_of(list(model.parameters()))
    pipeline = Pipeline(
        stages,
        task,  # type: ignore[arg-type]
        schedule=schedule,
        group=group,
        device=torch.device("cpu"),
        autocast=case.autocast,
        splits_backward=splits_backward,
    )
    losses, norms, gradients = [], [], {}
    handed_back = count_gradients(pipeline)
    for step in range(steps):
        unfreeze(model, case, step)
        batches = batches_of(case, step)
        count = sum(map(task.num_targets, batches))
        loss = pipeline.gradient(batches, count, seed=partial(seed, step))
        pipeline.sum_ties()
        losses.append(float(loss))
        norms.append(float(pipeline.grad_norm_sq().sqrt()))
        if step == 0:
            gradients = {canonical[n]: full(p.grad) for n, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
    parameters = {canonical[name]: full(one) for name, one in model.named_parameters()}
    model.eval()
    with torch.no_grad():
        logits = pipeline.infer(batches_of(case, 7)[0]).logits.float().numpy()
    return Outcome(losses, norms, gradients, parameters, logits, Seen(pipeline.owned_names(), handed_back))


def full(tensor: Tensor) -> np.ndarray:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    found: np.ndarray = whole.detach().numpy().copy()
    return found


def count_gradients(pipeline: Pipeline) -> dict[int, int]:
    """Lower stage -> to how many micro-batches' gradients the upper one, where it is on this rank, hands back to it."""
    counts: dict[int, int] = {}
    for lower, link in pipeline.links.items():

        def send(gradients: Sequence[Tensor], lower: int = lower, send: Any = link.send_gradients) -> None:
            counts[lower] = counts.get(lower, 0) + 1
            send(gradients)

        link.send_gradients = send  # type: ignore[method-assign]
    return counts


def difference(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    return max((float(np.abs(ours[name] - theirs[name]).max()) for name in ours), default=0.0)


def assert_equal(ranks: Sequence[Outcome], whole: Outcome, *, gradient: float = 1e-6, parameter: float = 1e-5) -> None:
    """The outcome of every rank is that of the single process, copies of a parameter are equal, and none is missing."""
    for one in ranks:
        np.testing.assert_allclose(one.losses, whole.losses, atol=1e-6)
        np.testing.assert_allclose(one.norms, whole.norms, rtol=1e-5)
        np.testing.assert_allclose(one.logits, whole.logits, atol=1e-5)
        assert difference(one.gradients, whole.gradients) <= gradient
        assert difference(one.parameters, whole.parameters) <= parameter
    assert {name for one in ranks for name in one.gradients} == whole.gradients.keys()
    assert {name for one in ranks for name in one.parameters} == whole.parameters.keys()
    for one, other in pairwise(ranks):
        common = one.parameters.keys() & other.parameters.keys()
        assert all(np.array_equal(one.parameters[name], other.parameters[name]) for name in common)
    owned = [name for one in ranks if one.seen for name in one.seen.owned]
    assert sorted(owned) == sorted(whole.parameters)
