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

    It has a part for the versions of the datasets that the run began with, and one for those that it took at the
    beginning of each later epoch. Clips are validated on as in the first part.

    steps_per_epoch: how many steps show each clip of the last part once (to a batch's rounding, for each bucket).
    left_out: how many of its kept clips are not used, by reason.

    Raises ValueError where there is no index or no clip, or versions are taken within an epoch.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self._parts = [Part(config)]
        for step, taken in config.later_versions:
            epoch, rest = self._parts[-1].epoch_of(step)
            if rest:
                raise ValueError(f"Step {step:,} does not begin an epoch, so no version can be taken there.")
            self._parts.append(
                Part(replace(config, dataset_versions=taken), step, epoch, self._parts[0].kept_videos)
            )
        self.left_out, self.steps_per_epoch = self._parts[-1].left_out, self._parts[-1].steps_per_epoch

    @property
    def validation(self) -> list[list[Request]]:
        """The batches to validate on, always the same."""
        return self._parts[0].validation

    def fingerprint(self, step: int) -> str:
        """16 digits; plans with the same ones give the same batches for all steps before this one."""
        begun = [part for part in self._parts if part.first_step < step or part is self._parts[0]]
        if len(begun) == 1:
            return begun[0].fingerprint
        return content_id(*((part.first_step, part.fingerprint) for part in begun))[:16]

    def next_epoch(self, step: int) -> int:
        """The first step of the epoch that begins at this step or after it."""
        _, rest = self._parts[-1].epoch_of(step)
        return step + (self.steps_per_epoch - rest if rest else 0)

    def request(self, step: int, place: int, attempt: int = 0) -> Request:
        """An item of a step; `attempt` counts the clips that were tried for it and cannot be used."""
        part = next(part for part in reversed(self._parts) if part.first_step <= step)
        return part.request(step, place, attempt)

    def requests(self, step: int) -> Iterator[Request]:
        """All items of a step."""
        return (self.request(step, place) for place in range(self.config.batch_size))


class Part:
    """The plan's items from `first_step` on, with which epoch `first_epoch` begins, of one version of each dataset.

    kept_videos: hashes of the videos that are kept from training; those of its own validation clips by default.
    """

    def __init__(
        self,
        config: DataConfig,
        first_step: int = 0,
        first_epoch: int = 0,
        kept_videos: np.ndarray | None = None,
    ) -> None:
        self.config, self.first_step = config, first_step
        self._indexes = [Index(config, dataset) for dataset in config.datasets]
        self.left_out = _sum([index.left_out for index in self._indexes])
        sizes = [len(index) for index in self._indexes]
        keys = np.concatenate([index.keys for index in self._indexes])
        videos = np.concatenate([index.videos for index in self._indexes])
        first = np.zeros(len(keys), bool)
        # A clip of two datasets counts for the first of them.
        first[np.unique(keys, return_index=True)[1]] = True
        chosen, kept_from = validation_split(keys, videos, config.validation_clips)
        self.kept_videos = videos[chosen] if kept_videos is None else kept_videos
        if kept_videos is not None:
            kept_from = np.isin(videos, kept_videos)
        starts = np.cumsum([0, *sizes])
        self._validation = [self._place(starts, int(number)) for number in chosen]
        free = np.split(first & ~kept_from, starts[1:-1])
        self._numbers, parts = self._parts(free)
        self._sampler = BatchSampler(parts, config.batch_size, config.seed)
        self.steps_per_epoch = self._sampler.steps_per_epoch
        # Steps are the sampler's from its first epoch on, so that a clip's epochs, and with them its noise, go on.
        self._shift = first_epoch * self.steps_per_epoch - first_step
        self._step = lru_cache(4)(self._sampler.step)

    @cached_property
    def fingerprint(self) -> str:
        return content_id(self._sampler.fingerprint, *_content(self.config))[:16]

    def epoch_of(self, step: int) -> tuple[int, int]:
        """The epoch of a step, and how many steps of it are before this one."""
        return divmod(step + self._shift, self.steps_per_epoch)

    def request(self, step: int, place: int, attempt: int) -> Request:
        bucket, items = self._step(step + self._shift)
        item = items[place]
        clip = self._clip(bucket, item.part, item.clip)
        key = Key(clip.clip_id, item.epoch)
        if attempt:
            clip = self._clip(bucket, *self._sampler.substitute(bucket, *key, attempt))
        return self._drawn(key, clip, attempt)

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
