"""A step foreseen from small ones is the step itself, whatever the architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from chainft.data.batching import Batch
from chainft.plan.measure import measure_step, trace_step
from chainft.plan.trace import Ghostly
from chainft.stages.blocks import find_blocks
from chainft.stages.chain import Chain, build_chain
from chainft.stages.skeleton import skeleton
from chainft.tasks.base import Task
from tests.stages.architectures import CASES, HEADS, tiny_config
from tests.stages.test_chain import configured

QUICK = ("bert:tokens", "gpt2:classify", "llama:causal", "t5:seq2seq", "albert:classify", "modernbert:tokens")
SIZE = (4, 48)


class ModelsOwnLoss:
    """Stands for a task: the loss is the one that the model computes."""

    arguments = Task.arguments
    planned = Task.planned

    def loss(self, output: Any, batch: Batch) -> torch.Tensor:
        loss: torch.Tensor = output.loss
        return loss


def make_batch(case: str, rows: int, length: int) -> Batch:
    ids = torch.full((rows, length), 5)
    ids[:, -1] = 2
    mask = torch.ones_like(ids)
    mask[1:, -1] = 0
    labels = (
        torch.zeros(rows, dtype=torch.int64) if case.endswith(":classify") else ids % (2 if "tokens" in case else 64)
    )
    return Batch({"input_ids": ids, "attention_mask": mask, "labels": labels}, {}, (), mask.sum(1))


def chained(case: str) -> Chain:
    kind, head = case.split(":")
    with Ghostly():
        return build_chain(skeleton(getattr(transformers, HEADS[head]), tiny_config(kind)), configured({"split": 2}))


@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_the_step_at_another_size_is_foreseen_exactly(case: str) -> None:
    chain = chained(case)
    blocks, task = find_blocks(chain.model), ModelsOwnLoss()
    found = measure_step(
        chain, task, lambda rows, length: make_batch(case, rows, length), blocks=blocks, size=SIZE, mixed=False
    )
    true = trace_step(chain, task, make_batch(case, *SIZE), blocks=blocks, mixed=False)
    assert found.alive == pytest.approx(true.alive, rel=1e-6, abs=1)
    assert found.gradients.tolist() == true.gradients
    assert {key: value for key, value in found.flops.items() if round(value)} == pytest.approx(
        {key: value for key, value in true.flops.items() if value}
    )
