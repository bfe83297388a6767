"""`chainft check chain`: proves on the configured model and data that the stages compute what the whole computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from chainft.config.joint import JointDataConfig
from chainft.config.run import DataConfig, RunConfig
from chainft.data.batching import Batch
from chainft.errors import ConfigError
from chainft.models.device import choose_device
from chainft.stages.chain import Chain, is_trivial
from chainft.stages.compare import Differences, compare
from chainft.stages.compare_links import compare_linked
from chainft.stages.gates import Gates
from chainft.stages.links import LinkedModel
from chainft.stages.loss import loss_of
from chainft.stages.sharing import shared_names
from chainft.tasks.base import Task
from chainft.train.prepare import Prepared, Progress, prepare

MAX_EXAMPLES = 8
TOLERANCE = 1e-6
"""Relative; only gradients of parameters that several stages compute with are ever above 0 in float32 on a CPU."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    what: str
    found: str
    passed: bool


def check_chain(config: RunConfig, *, progress: Progress) -> tuple[Chain, list[Check]]:
    """The chain of a config and all checks. Raises ChainftError where it cannot be built at all."""
    if is_trivial(config.chain):
        raise ConfigError(
            "there is no chain to check",
            slug="no-chain",
            key="chain",
            help="give one, for example chain.split=3 or chain=frozen_base",
        )
    prepared = prepare(_smaller(config), progress=progress, poll=lambda: None)
    torch.nn.Module.to(prepared.loaded.model, choose_device(config.train.device))
    prepared.loaded.model.train(False)
    if isinstance(prepared.loaded.model, LinkedModel):
        prepared.loaded.model.training = True  # For auxiliary heads; its stages stay without dropout.
    checks = [*_split_equals_whole(prepared), *_gradients_reach_what_is_trained(prepared)]
    return prepared.chain, [*checks, *_ties_hold(prepared.chain)]


def _smaller(config: RunConfig) -> RunConfig:
    """The same run on a few examples; labels that these lack are no error here."""
    data = _limited(config.data)
    if isinstance(data, JointDataConfig):
        data = replace(data, tasks={name: _limited(one) for name, one in data.tasks.items()})
    return replace(config, data=data)


def _limited(data: DataConfig) -> DataConfig:
    return replace(
        data,
        max_train_samples=MAX_EXAMPLES,
        max_validation_samples=MAX_EXAMPLES,
        max_test_samples=MAX_EXAMPLES,
        unseen_labels="allow",
    )


def _batch(prepared: Prepared) -> Batch:
    store = prepared.stores["train"]
    each = max(1, len(prepared.task.tasks))
    rows = list(range(min(MAX_EXAMPLES * each, len(store))))  # Of several tasks, examples of all.
    batch = prepared.task.collate([store[row] for row in rows], rows)
    return prepared.task.balanced([batch])[0].to(prepared.loaded.model.device)


def _loss(task: Task, batch: Batch) -> Callable[[Any], Tensor]:
    """Of a model's output, auxiliary heads included."""
    count = max(task.num_targets(batch), 1e-12)
    return lambda output: loss_of(task, output, batch) / count


def _head_loss(task: Task, batch: Batch) -> Callable[[Any], Tensor]:
    """Of the output of one head."""
    count = max(task.num_targets(batch), 1e-12)
    return lambda output: task.loss(output, batch) / count


def _split_equals_whole(prepared: Prepared) -> Iterator[Check]:
    """Every gradient is compared, those of frozen parameters too: their flags come back afterwards."""
    model, batch = prepared.loaded.model, _batch(prepared)
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(True)
    try:
        if isinstance(model, LinkedModel):
            found = compare_linked(model, batch.inputs, _head_loss(prepared.task, batch))
        else:
            spans = list(prepared.chain.spans.values())
            found = compare(Gates(model), spans, prepared.task.arguments(batch), _loss(prepared.task, batch))
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
    yield from _rows(found)


def _rows(found: Differences) -> Iterator[Check]:
    for what, value in (
        ("logits: largest |split - whole|", found.output),
        ("loss: |split - whole|", found.loss),
        ("gradients: largest relative difference", found.gradient),
        ("gradients of parameters in several stages: the same", found.shared_gradient),
    ):
        yield Check(what, "0 (exact)" if value == 0 else f"{value:.1e}", value <= TOLERANCE)
    missing = ", ".join(found.missing[:3]) or "none"
    yield Check("parameters with a gradient on one side only", missing, not found.missing)


def _gradients_reach_what_is_trained(prepared: Prepared) -> Iterator[Check]:
    model, batch, chain = prepared.loaded.model, _batch(prepared), prepared.chain
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(_loss(prepared.task, batch)(model(**prepared.task.arguments(batch))))
    for part in chain.parts:
        frozen = [name for name, p in part.parameters.items() if not p.requires_grad and p.grad is not None]
        idle = [name for name, p in part.parameters.items() if p.requires_grad and p.grad is None]
        trained = sum(parameter.requires_grad for parameter in part.parameters.values())
        told = f"{trained} of {len(part.parameters)} tensors"
        wrong = ", ".join([*frozen, *idle][:3])
        yield Check(f"stage {part.name}: gradients in trained parameters only", wrong or told, not wrong)
    model.zero_grad(set_to_none=True)


def _ties_hold(chain: Chain) -> Iterator[Check]:
    """Declared ties and the model's own are one tensor each."""
    groups = list(shared_names(chain.model))
    where = {name: number for number, names in enumerate(groups) for name in names}
    ties = {**chain.ties, **(chain.model.config.ties if isinstance(chain.model, LinkedModel) else {})}
    broken = [name for name, to in ties.items() if where.get(name, -1) != where.get(to, -2)]
    told = f"{len(groups)} tensors have several names" if groups else "no parameter is shared"
    yield Check("shared parameters are one tensor", ", ".join(broken[:3]) or told, not broken)
