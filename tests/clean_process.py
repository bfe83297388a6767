"""Runs within the process of the tests leave nothing to the next ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate.state import AcceleratorState


@contextmanager
def clean_process() -> Iterator[None]:
    """Around runs: handlers of logs that they add are closed, and Accelerate forgets them."""
    root = logging.getLogger()
    before = list(root.handlers)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        for handler in [one for one in root.handlers if one not in before]:
            root.removeHandler(handler)
            handler.close()
