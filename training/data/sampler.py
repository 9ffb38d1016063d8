"""Which items a step sees: a pure function of the seed, the clips and the step, the same for every caller.

Each bucket is an endless sequence of its clips, every epoch in another order, cut into batches without a
rest: a batch may hold the end of one epoch and the start of the next, so no clip is left out or seen twice as often as
another. An epoch has a fixed number of steps, at least one of each bucket, so the number of a step determines its
items. Where several datasets are mixed, a bucket takes a turn of slots from each in its proportion, and shuffles the
slots. Orders come from hashes of the clips' ids, not from where they stand in a table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np

from training.data.items import Bucket

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Clips:
    """Clips of one dataset and bucket. keys: (N,) uint64, a hash of each; repeats: how often a turn shows each."""

    keys: np.ndarray
    repeats: float = 1.0

    @property
    def slots(self) -> int:
        """How many of a turn's items are from here."""
        return max(1, round(self.repeats * len(self.keys)))


@dataclass(frozen=True)
class Drawn:
    """An item's clip: `clip` numbers it in part `part` of its bucket, `epoch` counts how often it was seen before."""

    part: int
    clip: int
    epoch: int


class BatchSampler:
    """The items of every step of a run.

    clips: of each bucket, from one dataset or several; their own order does not matter. batch_size: items of a step.
    """

    def __init__(self, clips: Mapping[Bucket, Sequence[Clips]], batch_size: int, seed: int) -> None:
        self._clips = {bucket: parts for bucket, parts in sorted(clips.items()) if parts}
        if not self._clips:
            raise ValueError(
                "There is no clip to train on: add clips, widen scores and frames, or hold fewer out."
            )
        self._batch_size, self._seed = batch_size, seed
        self._slots = {bucket: sum(part.slots for part in parts) for bucket, parts in self._clips.items()}
        self._batches = {b: max(1, round(slots / batch_size)) for b, slots in self._slots.items()}
        parts = sum(map(len, self._clips.values()))
        self._epoch_batches = lru_cache(2)(self._ordered_batches)
        self._turn = lru_cache(2 * len(self._clips))(self._ordered_slots)
        self._epoch_clips = lru_cache(2 * parts)(self._ordered_clips)

    @property
    def steps_per_epoch(self) -> int:
        return sum(self._batches.values())

    @cached_property
    def fingerprint(self) -> str:
        """16 digits that tell this order from any other: a run may be resumed where they are the same."""
        digest = hashlib.sha256(f"{self._seed} {self._batch_size}".encode())
        for bucket, parts in self._clips.items():
            for part in parts:
                digest.update(f"{bucket} {part.repeats}".encode() + np.sort(part.keys).tobytes())
        return digest.hexdigest()[:16]

    def step(self, step: int) -> tuple[Bucket, list[Drawn]]:
        """The bucket and the batch_size items of a step, counted from 0 over all epochs."""
        epoch, place = divmod(step, self.steps_per_epoch)
        buckets, batches = self._epoch_batches(epoch)
        bucket = list(self._clips)[buckets[place]]
        first = (epoch * self._batches[bucket] + int(batches[place])) * self._batch_size
        return bucket, [self._item(bucket, number) for number in range(first, first + self._batch_size)]

    def substitute(self, bucket: Bucket, clip_id: str, epoch: int, attempt: int) -> tuple[int, int]:
        """Another clip of the bucket, by part and number, for an item whose clip cannot be used."""
        parts = self._clips[bucket]
        slot = _hash(self._seed, clip_id, epoch, attempt) % sum(len(part.keys) for part in parts)
        for number, part in enumerate(parts):
            if slot < len(part.keys):
                # Among the clips by their hashes, so that their order in the table does not matter.
                return number, int(np.argsort(part.keys)[slot])
            slot -= len(part.keys)
        raise AssertionError("a slot is one of the clips")

    def _item(self, bucket: Bucket, number: int) -> Drawn:
        """The item of this number in a bucket's endless sequence."""
        turn, place = divmod(number, self._slots[bucket])
        slot = int(self._turn(bucket, turn)[place])
        for part, clips in enumerate(self._clips[bucket]):
            if slot < clips.slots:
                epoch, place = divmod(turn * clips.slots + slot, len(clips.keys))
                return Drawn(part, int(self._epoch_clips(bucket, part, epoch)[place]), epoch)
            slot -= clips.slots
        raise AssertionError("a slot is one of the parts'")

    def _ordered_batches(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's batches, (S,) places of their buckets and (S,) numbers within these."""
        counts = list(self._batches.values())
        buckets = np.repeat(np.arange(len(counts)), counts)
        batches = np.concatenate([np.arange(count) for count in counts])
        order = shuffled(np.arange(len(buckets), dtype=np.uint64), self._seed, epoch)
        return buckets[order], batches[order]

    def _ordered_slots(self, bucket: Bucket, turn: int) -> np.ndarray:
        return shuffled(np.arange(self._slots[bucket], dtype=np.uint64), self._seed, turn, *bucket)

    def _ordered_clips(self, bucket: Bucket, part: int, epoch: int) -> np.ndarray:
        return shuffled(self._clips[bucket][part].keys, self._seed, epoch, "clips")


def shuffled(keys: np.ndarray, *purpose: object) -> np.ndarray:
    """The places (N,) of distinct keys (N,) uint64 in an order that depends on the purpose.

    Each key is hashed by the finaliser of SplitMix64 (Steele et al., OOPSLA 2014).
    """
    mixed = keys ^ np.uint64(_hash(*purpose))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(mixed ^ (mixed >> np.uint64(31)))


def share(items: Sequence[T], rank: int, world_size: int) -> list[T]:
    """A worker's part of a step's items; parts differ by one at most, and none is empty.

    Raises ValueError for more workers than items.
    """
    if world_size > len(items):
        raise ValueError(
            f"{world_size} workers cannot share a batch of {len(items)}; give a batch_size of at least {world_size}."
        )
    return list(items[rank::world_size])


def validation_split(keys: np.ndarray, videos: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(places (count,) of the clips to validate on, whether (N,) a clip is kept from training).

    keys, videos: (N,) uint64 hashes of clips and of their videos. `count` clips of videos in the order of a hash, and
    all other clips of these videos, which show the same person.
    """
    chosen = np.lexsort((keys, videos))[:count]
    return chosen, np.isin(videos, videos[chosen])


def _hash(*parts: object) -> int:
    """64 bits of the parts' text."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")
