"""Linear layers that multiply 8-bit integers: for prediction on CPUs whose float32 products are at their peak.

Symmetric, with a factor for each output channel of the weights (Jacob et al. 2018, arXiv:1712.05877, sections 2.1 and
3) and for each token of the input, found as it comes ("vector-wise quantization", Dettmers et al. 2022,
arXiv:2208.07339, section 3.1): a text's answer depends on no other text of its batch, and nothing is calibrated.
Letters: T tokens, K inputs, N outputs.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST = 127
"""Of the 8-bit values; -128 is left out, so that they are symmetric."""
_LEAST = 1e-30
"""Values of rows that are all smaller become zeros; `LARGEST / _LEAST` is still a float32."""
_AT_ONCE = 1 << 17
"""Values that a thread quantises at once, so that what is in the works stays in its cache: a product by a tenth
faster than with all at once, measured with rows of 1536 on a Xeon with 1 MB of it."""


class Quantised(NamedTuple):
    """What stands for a float32 tensor (T, K)."""

    values: Tensor
    """(T, K) int8."""
    largest: Tensor
    """(T, 1) float32, the greatest magnitude of each row, for which the value 127 stands."""


def quantise(rows: Tensor) -> Quantised:
    """`rows` (T, K) float32, each row by itself; a value is off by at most half of its row's `largest` / 127.

    A row with NaN or an infinity has such a `largest` too, so that what is computed of it is not finite either.
    """
    largest = torch.maximum(rows.amax(1, keepdim=True), rows.amin(1, keepdim=True).neg_()).clamp_(min=_LEAST)
    factors = largest.reciprocal().mul_(LARGEST)
    step = max(1, _AT_ONCE * torch.get_num_threads() // rows.shape[1])
    if len(rows) <= step:
        return Quantised((rows * factors).round_().to(torch.int8), largest)
    values = torch.empty(rows.shape, dtype=torch.int8)
    scratch = rows.new_empty(step, rows.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        product = torch.mul(rows[part], factors[part], out=scratch[: len(rows) - start])
        values[part] = product.round_()
    return Quantised(values, largest)


class LatestInput:
    """Keeps what came of the input that was quantised last: query, key and value read the same one."""

    def __init__(self) -> None:
        self._kept: tuple[weakref.ref[Tensor], Quantised] | None = None

    def quantised(self, inputs: Tensor) -> Quantised:
        """Of `inputs` (..., K), which must not change in place between the layers that read it: training would not
        allow that, since each layer needs what it read for its gradient."""
        kept = self._kept
        if kept is not None and kept[0]() is inputs:
            return kept[1]
        found = quantise(inputs.reshape(-1, inputs.shape[-1]))
        self._kept = weakref.ref(inputs), found
        return found


_IS_ROUNDED: ContextVar[bool] = ContextVar("chainft_int8_is_rounded", default=True)


@contextmanager
def unrounded() -> Iterator[None]:
    """Within the context, 8-bit layers take their inputs as they are, so that nearly equal ones give nearly equal outputs:
    for trying whether two ways of computing a model are one."""
    token = _IS_ROUNDED.set(False)
    try:
        yield
    finally:
        _IS_ROUNDED.reset(token)


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights, for inference alone: it has no parameters, and gradients do not pass it."""

    weight: Tensor
    """(N, K) int8."""
    factor: Tensor
    """(N,) float32: what a product of two values of 1 stands for, but for the factor of the token."""
    bias: Tensor | None
    """(N,) float32."""

    def __init__(self, weight: Quantised, bias: Tensor | None, latest: LatestInput) -> None:
        """`weight` is that of a matrix (N, K), `bias` (N,); `latest` may serve all layers of a model."""
        super().__init__()
        self.register_buffer("weight", weight.values)
        self.register_buffer("factor", weight.largest[:, 0] / LARGEST**2)
        self.register_buffer("bias", bias)
        self.latest = latest
        self.out_features, self.in_features = weight.values.shape

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., N) float32 of (..., K)."""
        if not _IS_ROUNDED.get():
            return functional.linear(inputs, self.weight * (self.factor * LARGEST)[:, None], self.bias)
        values, largest = self.latest.quantised(inputs)
        sums = torch._int_mm(values, self.weight.t())
        # In place, from one 4-byte type to the other: memory that is written first costs more than the arithmetic.
        output = sums.view(torch.float32).copy_(sums).mul_(self.factor)
        if self.bias is None:
            output.mul_(largest)
        else:
            torch.addcmul(self.bias, output, largest, out=output)
        return output.view(*inputs.shape[:-1], self.out_features)
