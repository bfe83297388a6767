"""The learning rate as a share of its peak: a pure function of the step, so there is nothing to save or restore.

Warm-up rises linearly from 0, then the curve named by `scheduler.name` runs to the last step. Values equal those of
`transformers.get_scheduler` (5.23) for the same curve and the same number of warm-up steps. Imports no torch.
"""

from __future__ import annotations

import math

from chainft.config.run import SchedulerConfig
from chainft.errors import ConfigError

DEFAULT_WARMUP_FRACTION = 0.1
DEFAULT_POWER = 2.0
DEFAULT_DECAY_FRACTION = 0.1
INVERSE_SQRT_TIMESCALE = 10_000
"""Timescale of inverse_sqrt without warm-up, in steps; transformers 5.23, `get_inverse_sqrt_schedule`."""


def lr_factor(step: int, *, total_steps: int, config: SchedulerConfig) -> float:
    """The learning rate of the update number `step` (from 0) as a share of the peak, 0..1.

    Raises ConfigError where warm-up and decay do not fit into `total_steps`.

    >>> config = SchedulerConfig(name="linear", warmup_steps=2)
    >>> [lr_factor(step, total_steps=6, config=config) for step in range(6)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    """
    warmup = warmup_steps_of(total_steps, config)
    if step < warmup:
        return step / warmup
    if config.name == "constant":
        return 1.0
    if config.name == "inverse_sqrt":
        timescale = warmup or INVERSE_SQRT_TIMESCALE
        return math.sqrt(timescale / (step - warmup + timescale))
    low = config.min_lr_fraction or 0.0
    return low + (1.0 - low) * _fall(step, warmup, total_steps, config)


def warmup_steps_of(total_steps: int, config: SchedulerConfig) -> int:
    """How many of `total_steps` warm up; a fraction is rounded up and leaves at least one step at the peak.

    Raises ConfigError where `warmup_steps` leaves no step, or warm-up and final decay overlap.
    """
    if config.warmup_steps is None:
        fraction = DEFAULT_WARMUP_FRACTION if config.warmup_fraction is None else config.warmup_fraction
        warmup = min(_share(total_steps, fraction), total_steps - 1)
    else:
        warmup = config.warmup_steps
    if warmup >= total_steps:
        raise ConfigError(
            f"scheduler.warmup_steps={warmup} is not less than the {total_steps} steps of the training",
            slug="warmup-too-long",
            key="scheduler.warmup_steps",
            help="lower it, or give scheduler.warmup_fraction",
        )
    if config.name == "warmup_stable_decay" and warmup + decay_steps_of(total_steps, config) > total_steps:
        raise ConfigError(
            f"{warmup} steps of warm-up and {decay_steps_of(total_steps, config)} of decay do not fit into the "
            f"{total_steps} steps of the training",
            slug="warmup-too-long",
            key="scheduler.decay_fraction",
            help="lower scheduler.decay_fraction or the warm-up",
        )
    return warmup


def decay_steps_of(total_steps: int, config: SchedulerConfig) -> int:
    """How many steps the final decay of `warmup_stable_decay` takes."""
    fraction = DEFAULT_DECAY_FRACTION if config.decay_fraction is None else config.decay_fraction
    return min(_share(total_steps, fraction), max(total_steps - 1, 1))


def _fall(step: int, warmup: int, total_steps: int, config: SchedulerConfig) -> float:
    """The part of a falling curve that is left, from 1 after warm-up to 0 at `total_steps`."""
    if config.name == "warmup_stable_decay":
        decay = decay_steps_of(total_steps, config)
        left = (total_steps - step) / decay if decay else 1.0
    else:
        left = (total_steps - step) / (total_steps - warmup)
    left = min(max(left, 0.0), 1.0)
    if config.name == "linear":
        return left
    if config.name == "polynomial":
        return float(left ** (DEFAULT_POWER if config.power is None else config.power))
    return 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))


def _share(total_steps: int, fraction: float) -> int:
    """`fraction` of the steps, rounded up; the small term undoes float error such as 110 * 0.1 = 11.000000000000002."""
    return math.ceil(total_steps * fraction - 1e-9)
