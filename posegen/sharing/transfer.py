"""The record on the host: written while the anchor goes on, and read one position before the block that needs it.

A worker thread does what takes the host's time (pinning memory, fetching from a server's store); the copies themselves
run beside the computation, see `posegen.sharing.copies`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType

import torch

from posegen.common.pinned import host_tensor
from posegen.sharing.copies import Copies, Mark, copies_to
from posegen.sharing.record import Position, SharedEntry, SharedRecord, SharedStore

IN_FLIGHT = 2
"""Entries on the device at most while a record is written or read: that of the block that computes, and one copied."""


@dataclass
class HostRecord(SharedRecord):
    """A record in the host's memory. `put` returns before the entry is there, unless two others are on their way.

    copies: from the device where entries are made, found by the first of them if None.
    """

    copies: Copies | None = None
    _writing: deque[Future[Mark]] = field(default_factory=deque)
    _written: dict[Position, Future[Mark]] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "record-writer"))

    def put(self, position: Position, entry: SharedEntry) -> None:
        made = (*entry.tensors, entry.foreground)
        self.copies = self.copies or copies_to(entry.tensors[0].device)
        while len(self._writing) >= IN_FLIGHT:
            self.copies.finish(self._writing.popleft().result())
        write = self._pool.submit(self._write, position, made, self.copies, self.copies.mark())
        self._writing.append(write)
        self._written[position] = write

    def _write(self, position: Position, made: Sequence[torch.Tensor], copies: Copies, after: Mark) -> Mark:
        """Copies an entry's tensors, its foreground last; in the worker thread."""
        *tensors, foreground = kept = [host_tensor(tensor) for tensor in made]
        self.entries[position] = SharedEntry(tuple(tensors), foreground)
        return copies.copy(kept, made, after)

    def get(self, position: Position) -> SharedEntry:
        """The entry on the host, whole."""
        if (write := self._written.pop(position, None)) and self.copies:
            self.copies.finish(write.result())
        return super().get(position)


class ReadAhead:
    """A store whose entries are fetched and copied to the device one position ahead; to be closed.

    Two buffers on the device take turns, so an entry is valid until the one after the next is asked for.
    """

    def __init__(self, store: SharedStore, order: Sequence[Position], copies: Copies) -> None:
        """order: of the positions that will be asked for; the first one is on its way when this returns."""
        self._store, self._copies = store, copies
        self._following = dict(pairwise(order))
        self._buffers: deque[list[torch.Tensor]] = deque([[], []])
        self._pool = ThreadPoolExecutor(1, "read-ahead")
        self._ahead = {position: self._ask(position) for position in order[:1]}

    def put(self, position: Position, entry: SharedEntry) -> None:
        """Keeps an entry in the store."""
        self._store.put(position, entry)

    def get(self, position: Position) -> SharedEntry:
        """The entry on the device; raises what the store does. The following one is asked for before it is awaited."""
        read = self._ahead.pop(position, None) or self._ask(position)
        if (following := self._following.get(position)) is not None:
            self._ahead = {following: self._ask(following)}
        entry, copied = read.result()
        self._copies.wait(copied)
        return entry

    def _ask(self, position: Position) -> Future[tuple[SharedEntry, Mark]]:
        """Has an entry read into the buffer that was used the longer ago, when what uses it is computed."""
        self._buffers.rotate()
        return self._pool.submit(self._read, position, self._buffers[0], self._copies.mark())

    def _read(self, position: Position, buffer: list[torch.Tensor], after: Mark) -> tuple[SharedEntry, Mark]:
        """An entry and the end of its copy; in the worker thread."""
        entry = self._store.get(position)
        if all(map(self._copies.is_there, entry.tensors)):
            return entry, after
        if [(t.shape, t.dtype) for t in buffer] != [(t.shape, t.dtype) for t in entry.tensors]:
            buffer[:] = map(self._copies.empty, entry.tensors)
        # The foreground stays on the host, where it is evaluated without waiting for the device.
        return SharedEntry(tuple(buffer), entry.foreground), self._copies.copy(buffer, entry.tensors, after)

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for what is on its way, as the store's memory may be given back then."""
        self._pool.shutdown(cancel_futures=True)
        for read in self._ahead.values():
            if not read.cancelled() and read.exception() is None:
                self._copies.finish(read.result()[1])
