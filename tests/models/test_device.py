"""Devices by name, and the errors that mean that memory is full."""

from __future__ import annotations

import pytest
import torch

from chainft.errors import ConfigError
from chainft.models.device import choose_device, is_out_of_memory


def test_the_cpu_is_always_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused_with_its_name() -> None:
    with pytest.raises(ConfigError, match="'cuda'"):
        choose_device("cuda")


def test_an_allocation_that_the_cpu_refuses_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


def test_another_runtime_error_is_not() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(caught.value)
