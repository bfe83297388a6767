"""What processes tell each other, where one process can show it."""

from __future__ import annotations

import pytest
import torch

from chainft import world


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_the_digest_of_a_tensor_does_not_depend_on_its_pieces(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    tensor = torch.randn(7, 9, generator=torch.Generator().manual_seed(0)).mul(5).to(dtype)
    whole = world._digest(tensor)
    monkeypatch.setattr(world, "_PIECE_BYTES", 16)
    assert torch.equal(world._digest(tensor), whole)
    other = tensor.clone()
    other[6, 8] = 1 - other[6, 8].to(torch.int64)
    assert not torch.equal(world._digest(other), whole)
