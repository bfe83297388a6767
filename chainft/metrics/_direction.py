"""Which way is better, told by the name of a value. Light: help and messages need it too."""

from __future__ import annotations

FALLING = ("loss", "perplexity", "error", "error_rate")
"""Endings of the names of values of which less is better."""


def falls(metric: str) -> bool:
    """Whether less is better: losses, perplexity and errors fall, everything else rises.

    >>> [falls(name) for name in ("loss", "ner/loss", "mean_absolute_error", "slot_error_rate", "f1_macro")]
    [True, True, True, True, False]
    """
    return metric.endswith(FALLING)
