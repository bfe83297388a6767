"""How many operations a second this machine attains on matrix products of a model's sizes.

    python -m chainft.bench.matmul '{"rows": 900, "forms": [[384, 384, 24]], "device": "cpu", "dtype": "float32"}'

Prints one JSON line. Each product is `torch.mm` of (rows, columns) with a weight (out, columns), as a linear layer does
it; its fastest repetition counts, since others on the machine only slow it down.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

SECONDS = 0.3
"""How long each form of weight is measured."""
LEAST_REPETITIONS = 5


def main() -> None:
    asked: dict[str, Any] = json.loads(sys.argv[1])
    import torch

    device = torch.device(asked["device"])
    flops = sum(2 * asked["rows"] * out * columns * count for out, columns, count in asked["forms"])
    dtype = getattr(torch, asked["dtype"])
    seconds = sum(
        fastest(asked["rows"], (out, columns), device=device, dtype=dtype) * count
        for out, columns, count in asked["forms"]
    )
    found = {"flops_per_s": flops / seconds, "threads": torch.get_num_threads(), "torch": torch.__version__}
    sys.stdout.write(json.dumps(found) + "\n")


def fastest(rows: int, form: tuple[int, int], *, device: Any, dtype: Any = None) -> float:
    """Seconds of the fastest of many products (rows, columns) x (columns, out); `dtype`: default float32."""
    import torch

    dtype = dtype or torch.float32
    hidden = torch.randn(rows, form[1], device=device, dtype=dtype)
    weight = torch.randn(form, device=device, dtype=dtype).t()
    torch.mm(hidden, weight)
    best, began, done = float("inf"), time.perf_counter(), 0
    while done < LEAST_REPETITIONS or time.perf_counter() - began < SECONDS:
        _wait_for(device)
        started = time.perf_counter()
        torch.mm(hidden, weight)
        _wait_for(device)
        best, done = min(best, time.perf_counter() - started), done + 1
    return best


def _wait_for(device: Any) -> None:
    """What was started on a GPU is done when this returns."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


if __name__ == "__main__":
    main()
