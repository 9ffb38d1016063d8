"""Counts how often a piece of work was begun, so that one that kills its worker is not tried for ever.

Ray runs a dead worker's task again and again. The count lives in an actor of the running job. A job that is itself
killed begins a new count: an interruption never makes a clip fail, and a clip that is at fault is still tried at most
three times in a run. Work that hangs is ended by a timer that needs neither the interpreter's lock nor the library that
hangs, and then counts as work that died.
"""

from __future__ import annotations

import faulthandler
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

MOST_ATTEMPTS = 3


class Attempts:
    """The count; made a Ray actor by the job."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, key: str) -> int:
        """Which attempt at this key begins now, from 1."""
        self._begun[key] += 1
        return self._begun[key]

    def end(self, key: str) -> None:
        """The key's work has ended, with success or a recorded failure."""
        del self._begun[key]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Ends this process, with a traceback on its standard error, if the block takes longer."""
    with os.fdopen(os.dup(2), "wb") as log:
        faulthandler.dump_traceback_later(seconds, exit=True, file=log)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
