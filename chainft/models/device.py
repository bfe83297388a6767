"""The device to compute on, and how it says that its memory is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from chainft.errors import ConfigError

_FULL = ("DefaultCPUAllocator", "MPS backend out of memory")
"""torch 2.13 raises `OutOfMemoryError` for CUDA alone; the CPU and MPS raise RuntimeErrors with these words."""


def choose_device(name: str) -> torch.device:
    """The device of `train.device`; auto: the accelerator if there is one. Raises ConfigError for one that is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if there["cuda"] else "mps" if there["mps"] else "cpu")
    if not there[name]:
        raise ConfigError(
            f"train.device={name!r}, but this machine has none that torch {torch.__version__} can use",
            slug="no-device",
            key="train.device",
            help="use train.device=auto or cpu; 'chainft doctor' lists the devices",
        )
    return torch.device(name)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on `device`; to a GPU without waiting for what it computes, by way of memory that is pinned."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextmanager
def for_batches_of_any_size(device: torch.device) -> Iterator[None]:
    """Within the context attention on a GPU is never cuDNN's, which builds a kernel for each new size of a batch: that
    takes longer than a step."""
    before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@contextmanager
def one_thread_beside(device: torch.device) -> Iterator[None]:
    """Within the context torch computes on the CPU in the calling thread alone, where `device` is a GPU.

    Beside a GPU the CPU only puts batches together, which is done before other threads have woken up: of a step of
    131 ms with 256 texts, copies and comparisons on 16 cores took 70 (one H200, `scripts/bench_gpu.py`).
    """
    before = torch.get_num_threads()
    if device.type == "cuda":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_recorded(device: torch.device) -> bool:
    """Whether what is handed to a GPU now is not computed but recorded, as a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed: a smaller batch may go through."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _FULL)


def float64_device(device: torch.device) -> torch.device:
    """Where numbers of 64 bits that belong to a device can be: Apple's GPUs have none."""
    return torch.device("cpu") if device.type == "mps" else device
