"""Random numbers of a step: a function of seed, step and micro-batch alone."""

from __future__ import annotations

import numpy as np
import torch


def seed_step(seed: int, step: int, number: int, *, device: torch.device, copy: int = 0) -> None:
    """Seed torch for micro-batch `number` of `step` in copy `copy`: independent of everything that happened before."""
    key = [seed, step, number, copy] if copy else [seed, step, number]
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    # `torch.manual_seed` seeds all devices and, where CUDA is not in use, formats a traceback each time: 2 ms.
    seed_all = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
    seed_all(int(state[0]) << 32 | int(state[1]))
