"""What each item of a run is made of: a pure function of the settings, the clips, the step and the item's place in it.

Nothing is read but the index, so whoever needs an item, encodes it or keeps its cache knows what it will be. A clip
whose turn it is and that cannot be used is replaced by another one that a hash draws, again the same for everybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from posegen.dataset import content_id
from training.data.augment import random_of
from training.data.index import Clip, Index
from training.data.items import Bucket, DataConfig
from training.data.sampler import BatchSampler, Clips, validation_split
from training.model import frozen

NO_CAPTION = ""


class Key(NamedTuple):
    """What an item's random numbers are drawn from: the clip whose turn it was, and its epoch."""

    clip_id: str
    epoch: int


@dataclass(frozen=True)
class Request:
    """An item with everything drawn that it is made of, but for its pose's augmentation.

    start: first frame of its span, at the model's rate. reference: which of the span's, from 0 to
    `DataConfig.references`. head, tail: how many frames are given. augmented: whether its pose is.
    """

    key: Key
    clip: Clip
    start: int
    reference: int
    caption: str
    head: int = 0
    tail: int = 0
    augmented: bool = False
    drop_pose: bool = False
    drop_reference: bool = False

    @property
    def bucket(self) -> Bucket:
        return self.clip.bucket


class Plan:
    """The items of every step of a run, and those to validate on.

    steps_per_epoch: how many steps show each clip once (to a batch's rounding, for each bucket). left_out: how many
    kept clips are not used, by reason. fingerprint: 16 digits; plans with the same ones give the same batches.

    Raises ValueError where there is no index or no clip.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self._indexes = [Index(config, dataset) for dataset in config.datasets]
        self.left_out = _sum([index.left_out for index in self._indexes])
        sizes = [len(index) for index in self._indexes]
        keys = np.concatenate([index.keys for index in self._indexes])
        videos = np.concatenate([index.videos for index in self._indexes])
        first = np.zeros(len(keys), bool)
        # A clip of two datasets counts for the first of them.
        first[np.unique(keys, return_index=True)[1]] = True
        chosen, kept_from = validation_split(keys, videos, config.validation_clips)
        starts = np.cumsum([0, *sizes])
        self._validation = [self._place(starts, int(number)) for number in chosen]
        free = np.split(first & ~kept_from, starts[1:-1])
        self._numbers, parts = self._parts(free)
        self._sampler = BatchSampler(parts, config.batch_size, config.seed)
        self.steps_per_epoch = self._sampler.steps_per_epoch
        self._step = lru_cache(4)(self._sampler.step)

    @cached_property
    def fingerprint(self) -> str:
        return content_id(self._sampler.fingerprint, *_content(self.config))[:16]

    def request(self, step: int, place: int, attempt: int = 0) -> Request:
        """An item of a step; `attempt` counts the clips that were tried for it and cannot be used."""
        bucket, items = self._step(step)
        item = items[place]
        clip = self._clip(bucket, item.part, item.clip)
        key = Key(clip.clip_id, item.epoch)
        if attempt:
            clip = self._clip(bucket, *self._sampler.substitute(bucket, *key, attempt))
        return self._drawn(key, clip, attempt)

    def requests(self, step: int) -> Iterator[Request]:
        """All items of a step."""
        return (self.request(step, place) for place in range(self.config.batch_size))

    @cached_property
    def validation(self) -> list[list[Request]]:
        """The batches to validate on, always the same: middle spans, nothing augmented, nothing dropped."""
        buckets: dict[Bucket, list[Request]] = {}
        for index, number in self._validation:
            request = self._validation_request(self._indexes[index].clip(number))
            buckets.setdefault(request.bucket, []).append(request)
        size = self.config.batch_size
        return [
            held[first : first + size] for held in buckets.values() for first in range(0, len(held), size)
        ]

    def _parts(
        self, free: list[np.ndarray]
    ) -> tuple[dict[Bucket, list[tuple[int, np.ndarray]]], dict[Bucket, list[Clips]]]:
        """By bucket: (dataset, numbers of its clips) of each part, and the part as the sampler wants it."""
        numbers: dict[Bucket, list[tuple[int, np.ndarray]]] = {}
        parts: dict[Bucket, list[Clips]] = {}
        for place, (index, repeats) in enumerate(
            zip(self._indexes, self.config.datasets.values(), strict=True)
        ):
            for number, bucket in enumerate(index.buckets):
                clips = np.flatnonzero(free[place] & (index.bucket_of == number))
                if len(clips):
                    numbers.setdefault(bucket, []).append((place, clips))
                    parts.setdefault(bucket, []).append(Clips(index.keys[clips], repeats))
        return numbers, parts

    def _place(self, starts: np.ndarray, number: int) -> tuple[int, int]:
        """(dataset, number of the clip in it) of a clip that is counted over all datasets."""
        index = int(np.searchsorted(starts, number, side="right")) - 1
        return index, number - int(starts[index])

    def _clip(self, bucket: Bucket, part: int, clip: int) -> Clip:
        index, numbers = self._numbers[bucket][part]
        return self._indexes[index].clip(int(numbers[clip]))

    def _drawn(self, key: Key, clip: Clip, attempt: int) -> Request:
        """An item with what is random about it drawn."""
        config = self.config
        random = random_of(config.seed, *key, f"choices {attempt}" if attempt else "choices")
        starts = self._starts(clip)
        start = starts[random.integers(len(starts))]
        no_text, no_pose, no_reference = (
            bool(random.uniform() < share)
            for share in (config.drop_text, config.drop_pose, config.drop_reference)
        )
        reference = int(random.integers(config.references))
        lengths = config.given_lengths(clip.bucket.frames)
        head, tail = lengths[random.integers(len(lengths))]
        caption = NO_CAPTION if no_text else clip.caption
        request = Request(key, clip, start, reference, caption, head, tail)
        return replace(request, augmented=True, drop_pose=no_pose, drop_reference=no_reference)

    def _validation_request(self, clip: Clip) -> Request:
        starts = self._starts(clip)
        lengths = self.config.given_lengths(clip.bucket.frames)
        last = self.config.references - 1  # the reference furthest from the span
        return Request(
            Key(clip.clip_id, 0),
            clip,
            starts[len(starts) // 2],
            last,
            clip.caption,
            *lengths[len(lengths) // 2],
        )

    def _starts(self, clip: Clip) -> list[int]:
        return span_starts(len(clip.frames(self.config.rate)), clip.bucket.frames, self.config.spans)


def span_starts(length: int, frames: int, most: int) -> list[int]:
    """First frames of at most `most` spans of `frames` frames, spread evenly over a clip of `length`."""
    room = length - frames
    return sorted({round(start) for start in np.linspace(0, room, min(most, room + 1))})


def _content(config: DataConfig) -> tuple[object, ...]:
    """The settings that batches depend on beside the order: not where folders lie or how items are encoded."""
    parts = ("vae", "image_encoder", "image_processor", "tokenizer", "text_encoder")
    model = frozen.fingerprint(config.model, *(part for part in parts if frozen.has(config.model, part)))
    given = (config.adapter, config.given_head, config.given_tail, config.pose_oversampling, config.hands)
    drops = (config.drop_text, config.drop_pose, config.drop_reference)
    return model, config.rate, config.spans, config.references, given, drops, config.augmentation


def _sum(counts: list[dict[str, int]]) -> dict[str, int]:
    reasons = sorted({reason for counted in counts for reason in counted})
    return {reason: sum(counted.get(reason, 0) for counted in counts) for reason in reasons}
