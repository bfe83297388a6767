"""The loss without logits is the loss with logits, and so are its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from chainft.models import fused_loss
from chainft.models.fused_loss import DeferredLogits, linear_cross_entropy_sum
from chainft.models.losses import cross_entropy_sum


def parts(rows: int, words: int, *, bias: bool, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Any]:
    """Hidden states (rows, 5), weight (words, 5), bias or None, labels (rows,) of which every fourth is ignored."""
    made = torch.Generator().manual_seed(seed)
    tensors: list[Any] = [
        torch.randn(*size, generator=made).to(dtype).requires_grad_() for size in ((rows, 5), (words, 5))
    ]
    tensors.append(torch.randn(words, generator=made).to(dtype).requires_grad_() if bias else None)
    labels = torch.randint(0, words, (rows,), generator=made)
    labels[3::4] = -100
    return [*tensors, labels]


def gradients(loss: Tensor, tensors: list[Any]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [one for one in tensors if one is not None]))


@given(rows=st.integers(0, 23), words=st.integers(2, 31), bias=st.booleans(), chunk=st.sampled_from([1, 40, 1 << 20]))
@settings(max_examples=60, deadline=None)
def test_loss_and_gradients_are_those_of_all_logits(rows: int, words: int, bias: bool, chunk: int) -> None:
    """However many logits are made at a time."""
    *tensors, labels = parts(rows, words, bias=bias)
    expected = 3 * functional.cross_entropy(functional.linear(*tensors), labels, reduction="sum")
    found = 3 * linear_cross_entropy_sum(DeferredLogits(*tensors, chunk=chunk), labels)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-6)
    for one, other in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trained", ["hidden", "weight", "bias", "nothing"])
def test_only_what_is_trained_gets_a_gradient(trained: str) -> None:
    tensors = dict(zip(("hidden", "weight", "bias"), parts(8, 11, bias=True), strict=False))
    labels = torch.arange(8)
    for name, tensor in tensors.items():
        tensor.requires_grad_(name == trained)
    loss = linear_cross_entropy_sum(DeferredLogits(**tensors), labels)
    assert loss.requires_grad == (trained != "nothing")
    if trained != "nothing":
        loss.backward()
    assert [name for name, tensor in tensors.items() if tensor.grad is not None] == [trained] * (trained != "nothing")


def test_no_more_logits_than_a_chunk_are_ever_there(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    linear = functional.linear

    def noted(*args: Any) -> Tensor:
        out = linear(*args)
        sizes.append(out.numel())
        return out

    monkeypatch.setattr(fused_loss.functional, "linear", noted)
    *tensors, labels = parts(20, 11, bias=False)
    linear_cross_entropy_sum(DeferredLogits(*tensors, chunk=3 * 11), labels).backward()
    assert sum(sizes) == 15 * 11 and max(sizes) == 3 * 11


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_scoring_makes_no_gradients(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    *tensors, labels = parts(8, 11, bias=True)
    monkeypatch.setattr(fused_loss, "_slope", None)
    with mode():
        found = linear_cross_entropy_sum(DeferredLogits(*tensors), labels)
        expected = functional.cross_entropy(functional.linear(*tensors), labels, reduction="sum")
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_gradients_are_used_up() -> None:
    """A second backward pass would get gradients that were scaled twice: it is refused."""
    *tensors, labels = parts(8, 11, bias=False)
    loss = 2 * linear_cross_entropy_sum(DeferredLogits(*tensors), labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("chosen", [slice(None), (..., slice(2)), torch.ones(3, 2, dtype=torch.bool), torch.rand(3)])
def test_only_tokens_are_chosen(chosen: Any) -> None:
    with pytest.raises(TypeError, match="chosen by tokens alone"):
        DeferredLogits(torch.randn(3, 4, 5), torch.randn(7, 5))[chosen]


def test_weights_in_bf16_collect_their_gradient_in_float32() -> None:
    *tensors, labels = parts(200, 7, bias=True, dtype=torch.bfloat16)
    exact = [None if one is None else one.detach().float().requires_grad_() for one in tensors]
    expected = gradients(functional.cross_entropy(functional.linear(*exact), labels, reduction="sum"), exact)
    found = gradients(linear_cross_entropy_sum(DeferredLogits(*tensors, chunk=7), labels), tensors)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        assert float((one.float() - other).norm() / other.norm()) < 0.02


def test_autocast_computes_in_its_type_and_gives_gradients_in_that_of_the_parameters() -> None:
    *tensors, labels = parts(16, 9, bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = functional.cross_entropy(functional.linear(*tensors).float(), labels, reduction="sum")
    found = linear_cross_entropy_sum(DeferredLogits(*tensors, dtype=torch.bfloat16), labels)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-3)
    for one, other in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.02


def test_chosen_tokens_smoothing_and_class_weights() -> None:
    *tensors, labels = parts(12, 6, bias=True)
    logits, mask = DeferredLogits(*tensors), labels != -100
    assert logits.shape == (12, 6)
    torch.testing.assert_close(
        logits[mask].tensor(), functional.linear(*tensors)[mask]
    )  # Rounded as their number tells.
    options: dict[str, Any] = {"label_smoothing": 0.1, "class_weights": torch.arange(1.0, 7.0)}
    expected = cross_entropy_sum(functional.linear(*tensors), labels, **options)
    assert torch.equal(cross_entropy_sum(logits, labels, **options), expected)
