"""CPU time by name, counted where it is spent.

Curation promises that little CPU time goes anywhere but decoding and neural networks, so those two are timed at
the place that does them and summed up for each clip. Seconds are of the calling thread (`time.thread_time`): work
of other processes on the machine does not count, and nested names count for both.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_collector: ContextVar[dict[str, float] | None] = ContextVar("seconds_by_name", default=None)


@contextmanager
def collect() -> Iterator[dict[str, float]]:
    """Yields a dict that the `timed` blocks entered within this block add their CPU seconds to."""
    seconds: dict[str, float] = {}
    token = _collector.set(seconds)
    try:
        yield seconds
    finally:
        _collector.reset(token)


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Adds the block's CPU seconds to `name` of the surrounding `collect`; costs a microsecond without one."""
    seconds = _collector.get()
    started = time.thread_time()
    try:
        yield
    finally:
        if seconds is not None:
            seconds[name] = seconds.get(name, 0.0) + time.thread_time() - started
