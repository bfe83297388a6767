"""Devices by name, and the errors that mean that memory is full."""

from __future__ import annotations

import pytest
import torch

from chainft.errors import ConfigError
from chainft.models.device import choose_device, is_out_of_memory, one_thread_beside


def test_the_cpu_is_always_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused_with_its_name() -> None:
    with pytest.raises(ConfigError, match="'cuda'"):
        choose_device("cuda")


@pytest.mark.parametrize(("name", "num_threads"), [("cuda", 1), ("cpu", 3)])
def test_beside_a_gpu_one_thread_computes(name: str, num_threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread_beside(torch.device(name)):
            assert torch.get_num_threads() == num_threads
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_an_allocation_that_the_cpu_refuses_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


def test_another_runtime_error_is_not() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(caught.value)
