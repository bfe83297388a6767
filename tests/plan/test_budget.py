"""The plan against the real model: parameters, states, what frozen stages cost, and FLOPs by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from chainft.config.compose import compose
from chainft.errors import ConfigError
from chainft.models.load import load_model
from chainft.plan.budget import Asked, Budget, make_budget
from chainft.plan.optimizer_state import OptimizerForms
from chainft.plan.probe import make_batch, new_task
from chainft.stages.chain import build_chain
from chainft.train.optimizer import build_optimizer

WIDTH, INNER, LENGTH, ROWS = 32, 64, 40, 4
"""Of `tiny_encoder`, and of the batch."""


@pytest.fixture(scope="module")
def folder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_encoder`'s tokenizer and config with four blocks, and no weights."""
    path = tmp_path_factory.mktemp("no-weights")
    for file in tiny_encoder.iterdir():
        if "token" in file.name:
            (path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tiny_encoder / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}), encoding="utf-8")
    return path


@cache
def planned(folder: Path, *words: str, length: int = LENGTH, rows: int = ROWS) -> Budget:
    config = compose([*settings(folder, words, rows)]).config
    asked = Asked(length=length, num_labels=3)
    return make_budget(config, lambda module: build_optimizer(module, config.optimizer), asked)


def settings(folder: Path, words: Sequence[str], rows: int = ROWS) -> list[str]:
    return ["task=ner", f"model={folder}", "model.pretrained=false", f"train.batch_size={rows}", *words]


FROZEN = ("chain.split=2", "chain.stages.stage0.frozen=true")
RECIPES = {
    "whole": (),
    "split": ("chain.split=2",),
    "frozen": FROZEN,
    "by pattern": ("chain.split=2", "chain.stages.stage0.frozen=embeddings"),
    "lora": ("chain.split=2", "chain.stages.stage1.lora.r=4"),
    "shared": ("chain.split=2", "chain.stages.stage1.share.with=stage0"),
    "repeated": ("chain.split=2", "chain.stages.stage0.repeat=2"),
    "half": (*FROZEN, "chain.stages.stage0.dtype=bfloat16"),
    "sgd": ("optimizer=sgd",),
    "momentum": ("optimizer=sgd", "optimizer.options.momentum=0.9"),
    "adafactor": ("optimizer=adafactor",),
    "lion": ("optimizer=lion",),
    "rmsprop": ("optimizer=rmsprop",),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_parameters_gradients_and_state_are_those_of_the_real_training(folder: Path, recipe: str) -> None:
    budget = planned(folder, *RECIPES[recipe])
    config = compose(settings(folder, RECIPES[recipe])).config
    task = new_task(config, 3)
    chain = build_chain(load_model(config.model, task, seed=0).model, config)
    optimizer = build_optimizer(chain.model, config.optimizer, chain)
    batch = make_batch(task, ROWS, LENGTH)
    task.loss(chain.model(**batch.inputs), batch).backward()
    parameters = list(chain.model.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    assert budget.total.num_parameters == sum(parameter.numel() for parameter in parameters)
    assert budget.total.num_trainable == sum(gradient.numel() for gradient in gradients)
    assert budget.total.memory.weights == size(parameters)
    assert budget.total.memory.gradients == size(gradients)
    assert budget.total.memory.optimizer == size(kept)


def size(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_frozen_stage_below_all_trained_ones_costs_its_weights_alone(folder: Path) -> None:
    base, top = planned(folder, *FROZEN).stages
    memory = base.memory
    assert (base.num_trainable, memory.gradients, memory.optimizer, memory.activations) == (0, 0, 0, 0)
    assert base.flops_backward == 0
    assert top.memory.activations > 0


def test_frozen_stage_above_a_trained_one_keeps_activations_and_has_a_backward_pass(folder: Path) -> None:
    base, top = planned(folder, "chain.split=2", "chain.stages.stage1.frozen='layer'").stages
    whole = planned(folder, "chain.split=2").stages[1]
    assert 0 < top.flops_backward < whole.flops_backward
    assert 0 < top.memory.activations < whole.memory.activations
    assert base.memory.activations > 0


def test_flops_are_those_counted_by_hand(folder: Path) -> None:
    """BERT's block: 4 projections and 2 feed-forward layers, and 2 products of length x length a head (dropout > 0)."""
    base, top = planned(folder, "chain.split=2", rows=1).stages
    block = 2 * LENGTH * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER) + 2 * 2 * LENGTH * LENGTH * WIDTH
    assert base.flops_forward == 2 * block
    assert top.flops_forward == 2 * block + 2 * LENGTH * WIDTH * 3
    assert base.flops_backward == 2 * base.flops_forward
    assert base.time_share == pytest.approx(base.flops_forward / (base.flops_forward + top.flops_forward))


def test_the_polynomial_meets_a_step_of_that_size(folder: Path) -> None:
    """A size that is none of those measured, against the same step followed outright."""
    from chainft.plan.followed import new_chain
    from chainft.plan.measure import measure_step, trace_step
    from chainft.stages.blocks import find_blocks

    config = compose(settings(folder, ["chain.split=2"])).config
    task = new_task(config, 3)
    chain = new_chain(config, task, (5, 61))
    blocks = find_blocks(chain.model)
    found = measure_step(
        chain, task, lambda rows, length: make_batch(task, rows, length), blocks=blocks, size=(5, 61), mixed=False
    )
    true = trace_step(chain, task, make_batch(task, 5, 61), blocks=blocks, mixed=False)
    assert found.alive == pytest.approx(true.alive)
    assert {key: value for key, value in found.flops.items() if value} == pytest.approx(
        {key: value for key, value in true.flops.items() if value}
    )
    assert found.kept == pytest.approx(true.kept)


def test_recomputing_activations_keeps_fewer_and_works_more(folder: Path) -> None:
    plain = planned(folder, "chain.split=2")
    less = planned(folder, "chain.split=2", "chain.stages.stage1.gradient_checkpointing=true")
    # The mask, made below, now waits for the second pass.
    assert less.stages[0].memory.activations == pytest.approx(plain.stages[0].memory.activations, rel=0.01)
    assert less.stages[1].memory.activations < plain.stages[1].memory.activations / 4
    assert less.stages[1].flops_backward > plain.stages[1].flops_backward
    assert less.peak.total < plain.peak.total


def test_memory_of_activations_is_that_of_the_micro_batch_and_work_that_of_the_batch(folder: Path) -> None:
    whole = planned(folder, rows=8)
    parts = planned(folder, "train.micro_batch_size=4", rows=8)
    assert parts.total.memory.activations == planned(folder, rows=4).total.memory.activations
    assert parts.total.flops_forward == pytest.approx(whole.total.flops_forward, rel=1e-3)
    assert parts.peak.gradients == parts.total.memory.gradients  # Those of the first part wait for the second.


def test_sharing_stages_name_each_other_and_count_once(folder: Path) -> None:
    base, top = planned(folder, "chain.split=2", "chain.stages.stage1.share.with=stage0").stages
    assert (base.shared_with, top.shared_with) == (("stage1",), ("stage0",))
    assert top.num_parameters == WIDTH * 3 + 3  # The classifier.
    assert top.flops_forward > base.flops_forward


def test_automatic_cuts_follow_the_cost(folder: Path) -> None:
    stages = planned(folder, "chain.split=auto", "chain.num_stages=2").stages
    assert [stage.blocks for stage in stages] == ["embeddings, 0:2", "2:4, head"]


def test_dropout_off_saves_the_attention_matrices(folder: Path) -> None:
    """Without dropout torch's fused attention keeps no length x length matrix."""
    with_dropout = planned(folder, "chain.split=1", length=64)
    without = planned(folder, "chain.split=1", "chain.stages.stage0.dropout=0", length=64)
    matrix = 4 * ROWS * 2 * 64 * 64  # One of float32, 2 heads.
    saved = with_dropout.total.memory.activations - without.total.memory.activations
    assert saved > 4 * 2 * matrix  # Probabilities before and after dropout, in 4 blocks.


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (
            ["chain.order=[a,b]", "chain.stages.a.blocks='embeddings, :2'", "chain.stages.b.blocks='3:, head'"],
            "blocks",
        ),
        (["chain.split=9"], "chain.split"),
        (["chain.split=2", "chain.stages.stage7.frozen=true"], "chain.stages.stage7"),
        (["chain.split=2", "chain.stages.stage0.frozen=nothing_like_it"], "chain.stages.stage0.frozen"),
    ],
)
def test_a_wrong_chain_is_refused(folder: Path, words: Sequence[str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(folder, *words)
    assert key in str(caught.value.problems[0].key)


def test_a_length_beyond_the_model_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--length 65"):
        planned(folder, length=65)


def test_factored_state_of_a_matrix_is_a_row_and_a_column() -> None:
    forms = OptimizerForms(lambda module: torch.optim.Adafactor(module.parameters()))
    matrix = torch.zeros(100, 7)
    assert forms.of(matrix).bytes_of(matrix) == 4 * (100 + 7) + 4  # And the step.


def test_an_update_in_place_takes_nothing_for_a_moment() -> None:
    plain = OptimizerForms(lambda module: torch.optim.AdamW(module.parameters(), foreach=False))
    fused = OptimizerForms(lambda module: torch.optim.AdamW(module.parameters(), fused=True))
    weights = [nn.Parameter(torch.zeros(64, 64)), nn.Parameter(torch.zeros(8, 8))]
    assert fused.temporaries(weights) == 0
    assert plain.temporaries(weights) >= 4 * 64 * 64
