"""Counts how often a piece of work was begun, so that one that kills its worker is not tried for ever.

Ray runs a dead worker's task again and again. The count lives in an actor of the running job. A job that is itself
killed begins a new count: an interruption never makes a clip fail, and a clip that is at fault is still tried at most
three times in a run. Work that hangs is ended by a timer that needs neither the interpreter's lock nor the library that
hangs, and then counts as work that died.
"""

from __future__ import annotations

import faulthandler
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

MOST_ATTEMPTS = 3


class Attempts:
    """The count; made a Ray actor by the job.

    alive: the ids of the nodes that are up, so that an attempt that went down with its node counts for nothing. claims:
    of earlier runs, thing -> key.
    """

    def __init__(self, alive: Callable[[], set[str]], claims: Mapping[str, str] = {}) -> None:
        self._alive = alive
        self._begun: defaultdict[str, list[str]] = defaultdict(list)
        self._claims = dict(claims)

    def begin(self, key: str, node: str) -> int:
        """Which attempt at this key begins now on a node, from 1."""
        if self._begun[key]:
            up = self._alive()
            self._begun[key] = [before for before in self._begun[key] if before in up]
        self._begun[key].append(node)
        return len(self._begun[key])

    def end(self, key: str) -> None:
        """The key's work has ended, with success or a recorded failure."""
        self._begun.pop(key, None)

    def claim(self, thing: str, key: str) -> bool:
        """Whether this thing is the key's to work on: the first that asks keeps it."""
        return self._claims.setdefault(thing, key) == key


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Ends this process, with a traceback on its standard error, if the block takes longer."""
    with os.fdopen(os.dup(2), "wb") as log:
        faulthandler.dump_traceback_later(seconds, exit=True, file=log)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
