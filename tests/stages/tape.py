"""What stands on a CPU for the GPU that plays recorded passes, and passes to compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BioGptConfig, BioGptForCausalLM, PreTrainedModel

from chainft.stages import flash_rows
from chainft.stages.cuda_graphs import Graphs
from chainft.stages.packing import Packing, packing_of
from tests.stages.architectures import tiny_model
from tests.stages.test_packing import batch, loss

LONGEST = 20
LENGTHS = (np.array([7, 3, 11, 3, 5]), np.array([2, 9, 9]), np.array([20, 1]))


class Tape:
    """Does work again as a CUDA graph would: on the same memory, and not yet while it is recorded."""

    def __init__(self) -> None:
        self.graphs: Graphs | None = None
        self.played = 0
        self.recovered = 0
        self.is_alert = False

    @contextmanager
    def alert(self) -> Iterator[None]:
        self.is_alert = True
        try:
            yield
        finally:
            self.is_alert = False

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        assert self.graphs is not None
        places = list(self.graphs._gradients.values())
        kept = [one.clone() for one in places]
        work()
        for place, one in zip(places, kept, strict=True):
            place.copy_(one)

        def again() -> None:
            self.played += 1
            work()

        return again

    def renew(self) -> None:
        assert self.graphs is not None and not self.graphs.num_recorded, "memory of recordings that may be played"

    def recover(self) -> None:
        self.recovered += 1


def use_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an attention on the CPU in the place of the GPU's kernel, called as that is."""

    def attend(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, **options: Any) -> Tensor:
        times = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(times, dim=1) for one in (key, value))
        query_ends = options.get("query_ends")
        found = []
        for asked, there in zip(
            pairwise((ends if query_ends is None else query_ends).tolist()), pairwise(ends.tolist()), strict=True
        ):
            assert there[1] - there[0] <= longest
            if asked[0] == asked[1]:
                continue
            rows = (query[:, :, slice(*asked)], key[:, :, slice(*there)], value[:, :, slice(*there)])
            found.append(
                functional.scaled_dot_product_attention(
                    *rows, is_causal=options["causal"], dropout_p=options["dropout_p"], scale=options["scale"]
                )
            )
        return torch.cat(found, dim=2).transpose(1, 2)

    monkeypatch.setattr(flash_rows, "attend", attend)
    monkeypatch.setattr(flash_rows, "suits", lambda _: True)


def made(name: str, tape: Any = None) -> tuple[Packing, Graphs, Any]:
    """A model without dropout, its packing with recordings, and the tape."""
    model = biogpt() if name == "biogpt" else tiny_model(name)
    packing = packing_of(model)
    assert packing is not None
    drop(model, 0.0)
    model.train()
    packing.has_kernel = True
    tape = tape or Tape()
    packing.graphs = tape.graphs = Graphs(model, tape, longest=LONGEST)
    return packing, packing.graphs, tape


def biogpt() -> PreTrainedModel:
    """A model that calls dropout as a function before its blocks."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BioGptConfig(**sizes, intermediate_size=48, activation_dropout=0.0, hidden_dropout_prob=0.2)
    return BioGptForCausalLM(config).eval()


def drop(model: nn.Module, rate: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate


def passes(packing: Packing, lengths: np.ndarray, read: np.ndarray | None = None) -> float:
    """A loss, whose gradients are added to those that there are."""
    inputs = batch(packing.gates.model, lengths)
    found = loss(packing.run(inputs, lengths, read=read), inputs["attention_mask"])
    found.backward()  # type: ignore[no-untyped-call]
    return float(found.detach())


def plainly(packing: Packing, lengths: np.ndarray, read: np.ndarray | None = None) -> float:
    graphs, packing.graphs = packing.graphs, None
    try:
        return passes(packing, lengths, read)
    finally:
        packing.graphs = graphs


def taken(model: PreTrainedModel) -> dict[str, Tensor]:
    """The gradients, which are then gone."""
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, one in found.items():
        torch.testing.assert_close(one, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def assert_as_plain(packing: Packing, lengths: np.ndarray) -> None:
    """A pass gives the gradients that it gives without recordings."""
    model = packing.gates.model
    passes(packing, lengths)
    gradients = taken(model)
    plainly(packing, lengths)
    assert_same(gradients, taken(model))
