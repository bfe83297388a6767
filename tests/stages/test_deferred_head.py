"""Logits are left to the loss where that gives the same loss, and nowhere else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chainft.data.batching import Batch
from chainft.models.losses import cross_entropy_sum
from chainft.stages.deferred_head import find_deferred_head
from chainft.stages.gates import probe_inputs
from tests.stages.architectures import CASES, tiny_model


class Choosing:
    """A loss of the tokens with a target."""

    def loss(self, output: Any, batch: Batch) -> torch.Tensor:
        kept = batch.targets["labels"] != -100
        return cross_entropy_sum(output.logits[kept], batch.targets["labels"][kept])


class Whole:
    """A loss that also wants the logits themselves."""

    def loss(self, output: Any, batch: Batch) -> torch.Tensor:
        return Choosing().loss(output, batch) + output.logits.square().mean()


def batch_of(labels: torch.Tensor) -> Batch:
    return Batch({}, {"labels": labels}, tuple(range(len(labels))), torch.tensor([labels.shape[1]] * len(labels)))


LABELS = torch.tensor([[-100, 4, 7, -100], [3, -100, 5, 6]])


CAPPED = {"gemma2:causal"}
"""Families that change the logits after the output layer, in a way that does not go together with a product."""


def writers() -> list[str]:
    return [case for case in CASES if hasattr(tiny_model(case), "lm_head")]


@pytest.mark.parametrize("case", writers())
def test_deferred_is_computed_or_not_offered(case: str) -> None:
    model = tiny_model(case)
    if "final_logits_bias" in model._buffers:
        model.final_logits_bias.normal_()
    head = find_deferred_head(model, Choosing(), batch_of(LABELS))  # type: ignore[arg-type]
    if head is None:
        assert case in CAPPED
        return
    inputs = probe_inputs(model)
    labels = torch.randint(5, 20, inputs["input_ids"].shape)
    expected = Choosing().loss(model(**inputs, use_cache=False), batch_of(labels))
    model.zero_grad()
    expected.backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with head.left_out():
        output = model(**inputs, use_cache=False)
    found = Choosing().loss(head.finish(output), batch_of(labels))
    found.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    after = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert before.keys() == after.keys()
    for name, one in before.items():
        assert torch.allclose(after[name], one, rtol=1e-3, atol=1e-4), name
    assert model(**inputs, use_cache=False).logits.shape[-1] == model.config.get_text_config().vocab_size


def test_a_loss_that_wants_all_logits_gets_them() -> None:
    model = tiny_model("llama:causal")
    assert find_deferred_head(model, Choosing(), batch_of(LABELS)) is not None  # type: ignore[arg-type]
    assert find_deferred_head(model, Whole(), batch_of(LABELS)) is None  # type: ignore[arg-type]


LOSSES: dict[str, Any] = {
    "by number": lambda output: output[0].square().mean(),
    "by name": lambda output: output["logits"].square().mean(),
    "hidden states": lambda output: output.hidden_states[-1].mean(),
    "some words": lambda output: output.logits[LABELS != -100][:, torch.tensor([4, 90])].mean(),
    "a slice": lambda output: output.logits[..., :5].mean(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_others_keep_their_logits(name: str) -> None:
    class Other:
        def loss(self, output: Any, batch: Batch) -> torch.Tensor:
            found: torch.Tensor = LOSSES[name](output)
            return found

    assert find_deferred_head(tiny_model("llama:causal"), Other(), batch_of(LABELS)) is None  # type: ignore[arg-type]


def test_contexts_may_be_nested() -> None:
    model = tiny_model("llama:causal")
    head = find_deferred_head(model, Choosing(), batch_of(LABELS))  # type: ignore[arg-type]
    assert head is not None
    hidden = torch.randn(2, head.layer.in_features)
    with head.left_out():
        with head.left_out():
            pass
        assert head.layer(hidden) is hidden
    assert head.layer(hidden).shape[-1] == head.layer.out_features


def test_capped_logits_are_the_models() -> None:
    model = tiny_model("llama:causal")
    layer = model.get_output_embeddings()
    forward = type(model).forward

    def capped(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        return SimpleNamespace(logits=torch.tanh(output.logits))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "forward", capped)
        assert find_deferred_head(model, Choosing(), batch_of(LABELS)) is None  # type: ignore[arg-type]
    assert "forward" not in vars(layer)


def test_half_precision_that_is_scaled_keeps_its_logits() -> None:
    """The gradients of fp16 are scaled before they are computed; those of bf16 need no scale."""
    assert find_deferred_head(tiny_model("llama:causal").half(), Choosing(), batch_of(LABELS)) is None  # type: ignore[arg-type]
    assert find_deferred_head(tiny_model("llama:causal").bfloat16(), Choosing(), batch_of(LABELS)) is not None  # type: ignore[arg-type]
