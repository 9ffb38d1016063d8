"""The record on the host: what is copied when, what waits for it, and which memory is used again.

There is no GPU here. `Lane` stands for its two streams: it copies on the CPU and writes down who waits for what.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch

from posegen.sharing import (
    HostRecord,
    Position,
    ReadAhead,
    SharedEntry,
    SharedRange,
    SharedRecord,
    SharingError,
)
from posegen.sharing.copies import DirectCopies, Mark, copies_to

PLACES = [*SharedRange(range(2), range(3)).positions()]
PATIENCE_S = 60.0


class Lane(DirectCopies):
    """A device of its own, by name: what it computes and copies is a list of (what, a number or a mark)."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.log: list[tuple[str, object]] = []
        self.used: list[int] = []
        self.computed = 0

    def is_there(self, tensor: torch.Tensor) -> bool:
        return False

    def mark(self) -> Mark:
        return self.computed

    def copy(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], after: Mark) -> Mark:
        self.log.append(("copy after", after))
        self.used.append(targets[0].data_ptr())
        super().copy(targets, sources, after)
        return f"copy {len(self.used) - 1}"

    def wait(self, copied: Mark) -> None:
        self.log.append(("wait", copied))

    def finish(self, copied: Mark) -> None:
        self.log.append(("finish", copied))


def entry(number: int) -> SharedEntry:
    return SharedEntry((torch.full((1, 4, 2, 3), float(number)),) * 2, torch.arange(4)[None] > number % 4)


def record(places: Sequence[Position] = PLACES) -> SharedRecord:
    return SharedRecord({place: entry(number) for number, place in enumerate(places)})


class Watched(SharedRecord):
    """A record that tells which position was fetched."""

    def __init__(self, kept: SharedRecord) -> None:
        super().__init__(kept.entries)
        self.fetched = {place: threading.Event() for place in kept.entries}

    def get(self, position: Position) -> SharedEntry:
        self.fetched[position].set()
        return super().get(position)


def test_an_entry_is_on_its_way_before_the_block_before_it_computes() -> None:
    store = Watched(record())
    with ReadAhead(store, PLACES, Lane()) as ahead:
        assert store.fetched[PLACES[0]].wait(PATIENCE_S)  # before anything is asked for
        for place, following in pairwise(PLACES):
            ahead.get(place)
            assert store.fetched[following].wait(PATIENCE_S)
        ahead.get(PLACES[-1])


def test_two_buffers_take_turns_and_none_is_written_while_it_is_read() -> None:
    lane = Lane()
    with ReadAhead(record(), PLACES, lane) as ahead:
        for number, place in enumerate(PLACES):
            read = ahead.get(place)
            for tensor, made in zip(read.tensors, entry(number).tensors, strict=True):
                assert torch.equal(tensor, made)
            assert torch.equal(read.foreground, entry(number).foreground)
            lane.computed += 1  # the block that uses it
    assert lane.used == [lane.used[number % 2] for number in range(len(PLACES))]
    assert lane.used[0] != lane.used[1]
    # Copy n overwrites what block n - 2 read, so it waits for the first n - 1 blocks.
    assert [after for what, after in lane.log if what == "copy after"] == [0, *range(len(PLACES) - 1)]
    assert [copied for what, copied in lane.log if what == "wait"] == [
        f"copy {number}" for number in range(len(PLACES))
    ]


def test_another_order_than_expected_is_read_too() -> None:
    with ReadAhead(record(), PLACES, Lane()) as ahead:
        for number in (0, 3, 4, 1, 2):
            assert ahead.get(PLACES[number]).tensors[0].unique().tolist() == [number]


def test_what_is_on_the_device_already_is_not_copied() -> None:
    kept = record()
    with ReadAhead(kept, PLACES, copies_to(torch.device("cpu"))) as ahead:
        assert ahead.get(PLACES[0]) is kept.entries[PLACES[0]]


def test_a_missing_entry_is_an_error_of_the_block_that_needs_it() -> None:
    with ReadAhead(record(PLACES[:1]), PLACES, Lane()) as ahead:
        ahead.get(PLACES[0])
        with pytest.raises(SharingError, match="the anchor kept nothing at step 0, block 1"):
            ahead.get(PLACES[1])


def test_a_reader_that_ends_early_waits_for_what_is_on_its_way() -> None:
    lane = Lane()
    with ReadAhead(Watched(record()), PLACES, lane) as ahead:
        ahead.get(PLACES[0])
        while len(lane.used) < 2:  # the next entry's copy
            pass
    assert lane.log[-1] == ("finish", "copy 1")


def test_an_entry_is_written_beside_the_computation() -> None:
    lane, kept = Lane(), HostRecord()
    kept.copies = lane
    for number, place in enumerate(PLACES):
        kept.put(place, entry(number))
        lane.computed += 1
    assert len(kept._writing) == 2
    for number, place in enumerate(PLACES):
        assert torch.equal(kept.get(place).tensors[1], entry(number).tensors[1])
        assert torch.equal(kept.get(place).foreground, entry(number).foreground)
    assert [after for what, after in lane.log if what == "copy after"] == [*range(len(PLACES))]
    assert sorted(str(copied) for what, copied in lane.log if what == "finish") == sorted(
        [f"copy {number}" for number in range(len(PLACES) - 2)]  # before a third is put on its way
        + [f"copy {number}" for number in range(len(PLACES))]  # before it is read
    )
    assert [*kept.entries] == PLACES


def test_a_record_without_room_says_so_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(like: torch.Tensor) -> torch.Tensor:
        raise MemoryError("no room")

    monkeypatch.setattr("posegen.sharing.transfer.host_tensor", full)
    kept = HostRecord(copies=Lane())
    kept.put(PLACES[0], entry(0))
    with pytest.raises(MemoryError, match="no room"):
        kept.get(PLACES[0])
