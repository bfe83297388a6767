"""Dropout and the attention of short rows on a CPU: chainft's against torch's, forward and backward.

    python scripts/bench_rows.py --rows 32 --heads 12 --width 32

Attention within rows of 5 to 80 tokens that stand end to end, with dropout as in training and without; torch's is
`scaled_dot_product_attention`, a few rows of like length at a time. Dropout is that of the hidden states of these
tokens. Prints milliseconds, the best of several tries taken by turns, and ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from torch import nn

from chainft.stages import packed_attention, row_attention
from chainft.stages.dropout import QuickDropout
from chainft.stages.packed_layout import Layout

P = 0.1


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    drawn = np.random.default_rng(0)
    lengths = np.clip(drawn.normal(30, 14, options.rows), 5, 80).astype(int)
    print(f"{options.rows} rows, {lengths.sum()} tokens, {options.threads} thread(s)")
    hidden = torch.randn(int(lengths.sum()), options.heads * options.width, requires_grad=True)
    theirs, ours = nn.Dropout(P), QuickDropout(P)
    compare("dropout", lambda: theirs(hidden).sum().backward(), lambda: ours(hidden).sum().backward())
    for p in (P, 0.0):
        step = attention(lengths, options.heads, options.width, p)

        def by_torch(step: Callable[[], None] = step) -> None:
            with mock.patch.object(row_attention, "suits", lambda *_: False):
                step()

        compare(f"attention, dropout {p}", by_torch, step)


def attention(lengths: np.ndarray, heads: int, width: int, p: float) -> Callable[[], None]:
    """A forward and backward pass."""
    layout = Layout(lengths, torch.device("cpu"))
    packed_attention.register()
    shape = (1, int(lengths.sum()), heads, width)
    parts = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    weights = torch.randn(shape)

    def step() -> None:
        with packed_attention.attending([], layout):
            out, _ = packed_attention.attend_within_rows(
                None, *(one.transpose(1, 2) for one in parts), None, dropout=p, is_causal=False
            )
        out.backward(weights)

    return step


def compare(what: str, theirs: Callable[[], None], ours: Callable[[], None]) -> None:
    """By turns; the best of each."""
    best = {"torch": float("inf"), "chainft": float("inf")}
    for number in range(30):
        for name, step in (("torch", theirs), ("chainft", ours)):
            started = time.perf_counter()
            step()
            if number > 3:
                best[name] = min(best[name], time.perf_counter() - started)
    ratio = best["torch"] / best["chainft"]
    print(f"  {what}: torch {1000 * best['torch']:.2f} ms, chainft {1000 * best['chainft']:.2f} ms, {ratio:.2f}x")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=32, help="of a head")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
