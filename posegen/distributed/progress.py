"""Whether the processes of a group get on: each counts the transformer's blocks that it has done.

In an exchange the fast ones wait for the slowest, however long that takes. Only where no process at all has done a
block for a long time is one of them stuck.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

STUCK_S = 300.0
"""How long no block is done before the group counts as stuck; one takes seconds on a GPU, a minute or two on a CPU."""


def counts(processes: int) -> Any:
    """A count for each process, in memory that all of them share once it was given to them at their start."""
    return multiprocessing.RawArray("q", processes)


def count_blocks(transformer: Any, counts: Any, rank: int) -> None:
    """From now on counts the blocks that this process has done."""

    def count(*_: object) -> None:
        counts[rank] += 1

    for block in transformer.blocks:
        block.register_forward_hook(count)


@dataclass
class Patience:
    """Tells when counts have stood still for too long.

    limit: seconds.
    """

    limit: float
    _seen: list[int] = field(default_factory=list)
    _since: float = 0.0

    def ended(self, counts: Sequence[int], now: float) -> bool:
        """Whether these counts have been the same for longer than the limit; now: seconds of any clock."""
        if self._seen != [*counts]:
            self._seen, self._since = [*counts], now
        return now - self._since > self.limit

    def renew(self) -> None:
        """Begins anew, as nothing is waited for."""
        self._seen = []
