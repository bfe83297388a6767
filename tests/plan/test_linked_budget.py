"""The plan of linked models against the real ones: parameters, states, what stages cost and read, FLOPs by hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from chainft.config.compose import compose
from chainft.errors import ModelError
from chainft.plan.budget import Asked, Budget, make_budget
from chainft.plan.mermaid import mermaid
from chainft.plan.probe import make_batch, new_task
from chainft.report.budget_words import size
from chainft.stages.chain import build_chain
from chainft.stages.links_load import build_linked
from chainft.stages.loss import loss_of
from chainft.train.optimizer import build_optimizer

WIDTH, INNER, LENGTH, ROWS = 32, 64, 40, 4
"""Of `tiny_encoder`, and of the batch."""
BLOCK = 2 * LENGTH * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER) + 2 * 2 * LENGTH * LENGTH * WIDTH
"""FLOPs of one block and row: 4 projections, 2 feed-forward layers, 2 products of length x length."""
RECIPES = {
    "cascade": (),
    "frozen": ("chain.stages.first.frozen=true",),
    "replaced": ("chain.stages.second.residual=false",),
    "mixed": ("chain.stages.third.receive=all", "chain.stages.third.connector=linear"),
    "shared": ("chain.stages.second.share.with=first", "chain.stages.first.auxiliary.weight=0.3"),
    "lora": ("chain.stages.second.lora.r=4",),
}


def settings(folder: Path, words: tuple[str, ...]) -> list[str]:
    return [
        "task=ner",
        f"model={folder}",
        "model.pretrained=false",
        "chain=cascade",
        f"train.batch_size={ROWS}",
        *words,
    ]


@cache
def planned(folder: Path, *words: str) -> Budget:
    config = compose(settings(folder, words)).config
    asked = Asked(length=LENGTH, num_labels=3)
    return make_budget(config, lambda module: build_optimizer(module, config.optimizer), asked)


@pytest.mark.parametrize("recipe", RECIPES)
def test_parameters_gradients_and_state_are_those_of_the_real_training(tiny_encoder: Path, recipe: str) -> None:
    total = planned(tiny_encoder, *RECIPES[recipe]).total
    config = compose(settings(tiny_encoder, RECIPES[recipe])).config
    task = new_task(config, 3)
    chain = build_chain(build_linked(config, task, seed=0).model, config)
    optimizer = build_optimizer(chain.model, config.optimizer, chain)
    chain.model.train()
    batch = make_batch(task, ROWS, LENGTH)
    loss_of(task, chain.model(**batch.inputs), batch).backward()  # type: ignore[no-untyped-call]
    parameters = list(chain.model.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    assert total.num_parameters == sum(parameter.numel() for parameter in parameters)
    assert total.num_trainable == sum(gradient.numel() for gradient in gradients)
    assert total.memory.weights == in_bytes(parameters)
    assert total.memory.gradients == in_bytes(gradients)
    assert total.memory.optimizer == in_bytes(kept)


def in_bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_flops_are_those_counted_by_hand(tiny_encoder: Path) -> None:
    first, second, third = planned(tiny_encoder, "chain.stages.second.connector=linear").stages
    assert first.flops_forward == ROWS * 2 * BLOCK
    assert second.flops_forward == ROWS * (2 * BLOCK + 2 * LENGTH * WIDTH * WIDTH)
    assert third.flops_forward == ROWS * (2 * BLOCK + 2 * LENGTH * WIDTH * 3)
    for stage in (first, second, third):
        assert stage.flops_backward == 2 * stage.flops_forward
    assert sum(stage.time_share for stage in (first, second, third)) == pytest.approx(1)


def test_a_frozen_first_stage_costs_its_weights_alone(tiny_encoder: Path) -> None:
    first, second, _ = planned(tiny_encoder, "chain.stages.first.frozen=true").stages
    memory = first.memory
    assert (first.num_trainable, memory.gradients, memory.optimizer, memory.activations) == (0, 0, 0, 0)
    assert first.flops_backward == 0
    assert second.memory.activations > 0


def test_an_auxiliary_head_counts_where_it_is(tiny_encoder: Path) -> None:
    plain, with_head = (planned(tiny_encoder, *words).stages[0] for words in ((), RECIPES["shared"]))
    head = 2 * LENGTH * WIDTH * 3
    assert with_head.flops_forward == plain.flops_forward + ROWS * head
    assert with_head.flops_backward == plain.flops_backward + ROWS * 2 * head


def test_stages_name_what_they_share_and_read(tiny_encoder: Path) -> None:
    budget = planned(tiny_encoder, *RECIPES["shared"], "chain.stages.third.receive=all")
    first, second, third = budget.stages
    assert (first.shared_with, second.shared_with, third.shared_with) == (("second",), ("first",), ())
    assert (first.sources, second.sources, third.sources) == ((), ("first",), ("first", "second"))
    drawn = mermaid(budget, size).splitlines()[4:]
    assert drawn == ["    s0 --> s1", "    s0 --> s2", "    s1 --> s2", "    s0 -. shares .- s1"]


def test_recomputing_and_sixteen_bits_keep_fewer_activations(tiny_encoder: Path) -> None:
    plain = planned(tiny_encoder, "chain.stages.first.auxiliary.weight=0.3")
    for words in ("train.gradient_checkpointing=true", "train.mixed_precision=bf16"):
        less = planned(tiny_encoder, "chain.stages.first.auxiliary.weight=0.3", words)
        for one, other in zip(less.stages, plain.stages, strict=True):
            assert 0 < one.memory.activations < other.memory.activations


def test_a_saved_folder_of_linked_models_is_planned_as_one_model(tiny_encoder: Path, tmp_path: Path) -> None:
    words = settings(tiny_encoder, ("chain.stages.first.auxiliary.weight=0.3",))
    config = compose(words).config
    task = new_task(config, 3)
    build_linked(config, task, seed=0).model.save_pretrained(tmp_path)
    task.tokenizer.save_pretrained(tmp_path)
    whole = compose(["task=ner", f"model={tmp_path}", f"train.batch_size={ROWS}"]).config
    asked = Asked(length=LENGTH, num_labels=3)
    budget = make_budget(whole, lambda module: build_optimizer(module, whole.optimizer), asked)
    stages = planned(tiny_encoder, "chain.stages.first.auxiliary.weight=0.3")
    assert [(one.name, one.sources) for one in budget.stages] == [("model", ())]
    assert budget.total.memory == stages.total.memory
    assert budget.total.flops_forward == stages.total.flops_forward


def test_a_model_that_cannot_be_linked_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    from transformers import BartConfig

    BartConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be a linked stage") as caught:
        planned(tiny_encoder, f"chain.stages.second.model={tmp_path}")
    assert caught.value.problems[0].key == "chain.stages.second.model"
