"""Which items a step sees: a pure function of the seed, the clips and the step, the same for every caller.

Each bucket is an endless sequence of its clips, every epoch in another order, cut into batches without a
rest: a batch may hold the end of one epoch and the start of the next, so no clip is left out or seen twice as often as
another. An epoch has a fixed number of steps, at least one of each bucket, so the number of a step determines its
items. Orders come from hashes, which stay the same in every version of a library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

from training.data.items import Bucket

T = TypeVar("T")


class Item(NamedTuple):
    """A clip in an epoch."""

    clip_id: str
    epoch: int


class BatchSampler:
    """The items of every step of a run.

    clips: clip_ids of each bucket; their own order does not matter. batch_size: items of a step.
    """

    def __init__(self, clips: Mapping[Bucket, Iterable[str]], batch_size: int, seed: int) -> None:
        self._clips = {bucket: tuple(sorted(ids)) for bucket, ids in sorted(clips.items()) if ids}
        if not self._clips:
            raise ValueError(
                "There is no clip to train on: add clips, widen scores and frames, or hold fewer out."
            )
        self._batch_size, self._seed = batch_size, seed
        self._batches = {b: max(1, round(len(ids) / batch_size)) for b, ids in self._clips.items()}
        self._epoch_batches = lru_cache(2)(self._ordered_batches)
        self._epoch_clips = lru_cache(4 * len(self._clips))(self._ordered_clips)

    @property
    def steps_per_epoch(self) -> int:
        return sum(self._batches.values())

    @property
    def fingerprint(self) -> str:
        """16 digits that tell this order from any other: a run may be resumed where they are the same."""
        return _digest(self._seed, self._batch_size, self._clips)[:16]

    def step(self, step: int) -> tuple[Bucket, list[Item]]:
        """The bucket and the batch_size items of a step, counted from 0 over all epochs."""
        epoch, place = divmod(step, self.steps_per_epoch)
        bucket, batch = self._epoch_batches(epoch)[place]
        first = (epoch * self._batches[bucket] + batch) * self._batch_size
        count, items = len(self._clips[bucket]), []
        for number in range(first, first + self._batch_size):
            turn, place = divmod(number, count)
            items.append(Item(self._epoch_clips(bucket, turn)[place], turn))
        return bucket, items

    def _ordered_batches(self, epoch: int) -> list[tuple[Bucket, int]]:
        batches = [(bucket, batch) for bucket, count in self._batches.items() for batch in range(count)]
        return sorted(batches, key=lambda batch: _digest(self._seed, epoch, *batch))

    def _ordered_clips(self, bucket: Bucket, turn: int) -> list[str]:
        return sorted(self._clips[bucket], key=lambda clip_id: _digest(self._seed, turn, clip_id))


def share(items: Sequence[T], rank: int, world_size: int) -> list[T]:
    """A worker's part of a step's items; parts differ by one at most, and none is empty.

    Raises ValueError for more workers than items.
    """
    if world_size > len(items):
        raise ValueError(
            f"{world_size} workers cannot share a batch of {len(items)}; give a batch_size of at least {world_size}."
        )
    return list(items[rank::world_size])


def validation_split(videos: Mapping[str, str], count: int) -> tuple[set[str], set[str]]:
    """(clip_ids to validate on, clip_ids never to train on) of clips, given as clip_id -> video_id.

    `count` clips of videos in the order of a hash, and all other clips of these videos, which show the same person.
    """
    ordered = sorted(videos, key=lambda clip_id: (_digest(videos[clip_id]), _digest(clip_id)))
    chosen = set(ordered[:count])
    kept_from = {videos[clip_id] for clip_id in chosen}
    return chosen, {clip_id for clip_id, video_id in videos.items() if video_id in kept_from}


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
