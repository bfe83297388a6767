"""The search for garbage pauses for the first import of what is large, and only for that."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from chainft.cli.collecting import importing


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_the_first_import_is_not_searched_and_what_it_made_is_left_out_later() -> None:
    before = gc.get_freeze_count()
    with pytest.raises(ImportError), importing("a_module_that_nobody_imported"):
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() and gc.get_freeze_count() > before


def test_a_program_that_has_it_already_keeps_its_garbage_in_view() -> None:
    before = gc.get_freeze_count()
    with importing("gc"):
        assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_a_program_that_collects_by_itself_goes_on_so() -> None:
    gc.disable()
    before = gc.get_freeze_count()
    with importing("a_module_that_nobody_imported"):
        pass
    assert not gc.isenabled() and gc.get_freeze_count() == before
