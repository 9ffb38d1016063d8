"""What a machine's cores do together is measured of work that curation does."""

from __future__ import annotations

import time

import pytest

from benchmarks.machine import KINDS, counted, scaling


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_work_is_counted(kind: str) -> None:
    assert counted(kind, time.time(), 0.2) > 0


@pytest.mark.slow
def test_one_process_does_as_much_as_one() -> None:
    found = scaling(1, seconds=0.5)
    assert found.keys() == KINDS.keys() and min(found.values()) > 0
