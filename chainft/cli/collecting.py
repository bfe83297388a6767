"""Python's search for circular garbage, where it would only go through again and again what stays."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing(module: str) -> Iterator[None]:
    """For the first import of a module that brings torch and transformers, which make a million objects that stay: no
    search meanwhile, and later ones leave out all that there is by then. A tenth of the time that the import takes."""
    if module in sys.modules or not gc.isenabled():
        yield  # What a program that imported it made since may be garbage.
        return
    gc.collect()  # What is garbage by now is not to stay.
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
