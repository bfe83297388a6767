"""What the attention of a GPU is told of rows; the kernel itself is tried in `tests/train/test_gpu.py`."""

from __future__ import annotations

import numpy as np
import torch

from chainft.stages.flash_rows import Bounds, in_type_of, is_available, suits
from chainft.stages.packed_layout import Layout

CPU = torch.device("cpu")


def test_ends_of_rows_as_they_are_packed() -> None:
    layout = Layout(np.array([5, 2, 9]), CPU)
    assert layout.ends.tolist() == [0, 2, 7, 16] and layout.ends.dtype == torch.int32
    assert layout.longest == 9


def test_ends_among_read_tokens() -> None:
    read = np.zeros((3, 9), bool)
    read[0, [0, 4]] = read[2, [1, 2, 8]] = True
    ends, most = Layout(np.array([5, 2, 9]), CPU, read).read_ends
    assert ends.tolist() == [0, 0, 2, 5] and ends.dtype == torch.int32
    assert most == 3


def test_bounds_are_those_of_a_layout_or_wider() -> None:
    bounds = Bounds()
    bounds.of(Layout(np.array([5, 2]), CPU))
    assert bounds.ends is not None and bounds.ends.tolist() == [0, 2, 7] and bounds.longest == 5
    bounds.least = 9
    bounds.of(Layout(np.array([5, 2]), CPU))
    assert bounds.longest == 9
    bounds.of(None)
    assert bounds.ends is None and not is_available(CPU)


def test_kernels_are_for_16_bits_and_heads_of_some_widths() -> None:
    assert suits(torch.zeros(1, 2, 3, 64, dtype=torch.bfloat16))
    assert not suits(torch.zeros(1, 2, 3, 64))
    assert not suits(torch.zeros(1, 2, 3, 20, dtype=torch.float16))
    assert not suits(torch.zeros(1, 2, 3, 264, dtype=torch.float16))


def test_rotated_queries_are_rounded_as_values_are() -> None:
    value, query = torch.zeros(2, dtype=torch.bfloat16), torch.full((2,), 1 / 3)
    assert torch.equal(in_type_of(value, query), query.bfloat16())
    assert in_type_of(value.float(), query) is query
