"""Progress as plain lines, every few seconds, so that a terminal and `ray job logs` show the same."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Stage:
    """What a finished stage did: so many things, e.g. "clips", in so many seconds of wall-clock."""

    name: str
    things: int
    unit: str
    seconds: float


class Progress:
    """Counts finished things of one stage and says how many, how fast and how long still.

    total: how many there will be, where known. unit: what is counted, in the plural. rate_unit: what the rate counts.
    """

    def __init__(self, stage: str, unit: str, total: int | None = None, rate_unit: str | None = None):
        self.stage, self.unit, self.total = stage, unit, total
        self.rate_unit = rate_unit or unit
        self.done, self.work, self.failed, self._found = 0, 0.0, 0, 0
        self._started = self._said = time.monotonic()

    def add(self, things: int = 1, work: float | None = None, failed: int = 0) -> None:
        """Counts finished things, their work in rate units, and how many of them failed."""
        self.done += things
        self.work += things if work is None else work
        self.failed += failed
        if time.monotonic() - self._said >= EVERY_SECONDS and self.done != self.total:
            self.say()

    def find(self, things: int, failed: int = 0) -> None:
        """Counts things that an earlier run finished: they say nothing of the rate."""
        self._found += things
        self.add(things, work=0.0, failed=failed)

    def say(self) -> None:
        """Prints the line now."""
        self._said = time.monotonic()
        seconds = max(self._said - self._started, 1e-9)
        line = f"{self.stage:<8} {self.done:,}" + (f"/{self.total:,}" if self.total else "") + f" {self.unit}"
        if self.failed:
            line += f" ({self.failed:,} failed)"
        line += f", {self.work / seconds:.1f} {self.rate_unit}/s"
        if self.total and self._found < self.done < self.total:
            line += f", {duration(seconds / (self.done - self._found) * (self.total - self.done))} to go"
        elif self.done == self.total:
            line += f", took {duration(seconds)}"
        print(line, file=sys.stderr, flush=True)

    def end(self) -> Stage:
        """Prints the last line and gives back what the stage did."""
        self.say()
        return Stage(self.stage, self.done, self.unit, self._said - self._started)


def duration(seconds: float) -> str:
    """Seconds as people say them: "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
