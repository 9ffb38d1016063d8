"""The anchor's record on its way from the replica that makes it to those that read it.

Where its entries lie is hidden behind `Records`. Each step is announced in the database when it is written, so readers
start as soon as the last shared step is there.
A record that cannot be read is given up, whatever the reason, and made again; the database counts how often.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from posegen.sharing import Position, SharedEntry
from serving.state.database import Database
from serving.state.rows import Claim


class RecordId(NamedTuple):
    """A job's record; each time it is made anew it is of another generation."""

    job_id: str
    generation: int


class RecordLost(Exception):  # noqa: N818 - it is made once more
    """A record cannot be read or written any more."""


@contextmanager
def _readable(record: RecordId) -> Iterator[None]:
    """Turns any failure to read a store into RecordLost."""
    try:
        yield
    except RecordLost:
        raise
    except Exception as error:  # the database counts the losses of a job
        raise RecordLost(f"{record} cannot be read: {error!r}") from error


class Records(Protocol):
    """The stores of records; entries are written to the one on this machine."""

    def here(self) -> str:
        """The name of the store on this machine."""
        ...

    def put(self, record: RecordId, place: Position, entry: SharedEntry) -> None:
        """Keeps an entry in the store here; raises RecordLost."""
        ...

    def get(self, store: str, record: RecordId, place: Position) -> SharedEntry:
        """An entry; raises RecordLost."""
        ...

    def sweep(self, live: set[tuple[str, int]]) -> None:
        """Drops all records but these from the store here."""
        ...


class RecordWriter:
    """What an anchor's task records, a `posegen.sharing.SharedStore`; it keeps nothing if the task need not record."""

    def __init__(self, database: Database, records: Records, claim: Claim) -> None:
        self._database, self._records, self._claim = database, records, claim
        self._record = RecordId(claim.job.id, claim.job.record_generation)
        self._published = 0
        self._wanted = claim.records

    def put(self, position: Position, entry: SharedEntry) -> None:
        """Keeps an entry; that of a new step tells that the steps before are whole."""
        self.publish(position.step)
        if not self._wanted:
            return
        try:
            self._records.put(self._record, position, entry)
        except RecordLost:
            self._wanted = False
            self._database.queue.report_record_lost(*self._record)

    def get(self, position: Position) -> SharedEntry:
        """Never called: an anchor reads no record."""
        raise RecordLost(f"{self._record} is being written")

    def publish(self, steps: int) -> None:
        """Announces that this many shared steps are complete."""
        if steps <= self._published:
            return
        self._published = steps
        if self._wanted:
            self._wanted = self._database.queue.publish_record_step(self._claim, steps)


class RecordReader:
    """What a base segment reads, a `posegen.sharing.SharedStore`."""

    def __init__(self, records: Records, store: str, record: RecordId) -> None:
        self._records, self._store, self._record = records, store, record

    def put(self, position: Position, entry: SharedEntry) -> None:
        """Never called: a reader records nothing."""
        raise RecordLost(f"{self._record} is being read")

    def get(self, position: Position) -> SharedEntry:
        """The entry; raises RecordLost. The library asks ahead of the block that needs it."""
        with _readable(self._record):
            return self._records.get(self._store, self._record, position)
