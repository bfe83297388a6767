"""What the device of this machine attains: matrix products of a model's most frequent form, and copies of memory."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

from chainft.bench.matmul import fastest
from chainft.plan.machine import DEVICES, Device

_COPIED_BYTES = 2**27
_COPIES = 5
_MOST_ROWS = 2048


def measure_device(model: Any, *, device: Any, num_tokens: int, num_processes: int) -> Device:
    """Times this machine for about a second; links and the attained share are those of `cpu`, on a GPU of `l4`.

    `num_tokens` of a micro-batch; `num_processes` on this machine, which share the cores as training lets them.
    """
    import torch

    like = DEVICES["cpu" if device.type == "cpu" else "l4"]
    out, columns = Counter(tuple(one.shape) for one in model.parameters() if one.ndim == 2).most_common(1)[0][0]
    rows = min(num_tokens, _MOST_ROWS)
    threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, threads // num_processes))
    try:
        seconds = [fastest(rows, (out, columns), device=device, dtype=one) for one in (torch.float32, torch.bfloat16)]
        bandwidth = _bandwidth(device)
    finally:
        torch.set_num_threads(threads)
    peak, peak_16 = (2 * rows * out * columns / one for one in seconds)
    memory = _memory_bytes(device) / (num_processes if device.type == "cpu" else 1)
    return Device(
        "measured", peak, peak_16, like.attained_fraction, memory, bandwidth, inside=like.inside, between=like.between
    )


def _bandwidth(device: Any) -> float:
    """Bytes a second, those read and those written, of the fastest copy."""
    import torch

    source = torch.ones(_COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(_COPIES):
        started = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * _COPIED_BYTES / best


def _memory_bytes(device: Any) -> float:
    import torch

    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
