"""Training data as an endless stream of batches that a step's number alone determines.

`prepare` fills the caches once, in the driver, before any worker asks for a `TrainingStream`. A few Ray actors encode
batches ahead of their step and are fed and read in order; Ray starts an actor that dies again, and it does its batch
once more. Without actors the caller's process does the same work, for tests and small machines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count, cycle, islice
from typing import Any

import cv2
import numpy as np

from posegen.dataset import content_id
from training.data.augment import random_of
from training.data.batches import BatchEncoder, Request
from training.data.cache import Place, Tables
from training.data.items import Batch, Bucket, DataConfig
from training.data.prepare import NO_CAPTION, prepare
from training.data.sampler import BatchSampler, Item, share, validation_split
from training.data.selection import select
from training.data.spans import latents_folder, text_folder

__all__ = ["Batch", "DataConfig", "TrainingStream", "prepare"]

INDEX = (
    "clip_id",
    "version",
    "error_type",
    "error_message",
    "start",
    "references",
    "media_file",
    "media_group",
)
Span = tuple[Place, dict[str, Any]]  # where its row is, and the row's columns INDEX

WAIT_S = 300.0
"""How long to wait for an encoder to be started before the cluster is taken to have no room for one."""


class TrainingStream:
    """The batches of a dataset, prepared by `prepare` of the same settings.

    steps_per_epoch: how many steps show each clip once (to a batch's rounding, for each bucket). left_out: why each
    other kept clip is not used, by clip_id. fingerprint: 16 digits; streams with the same ones give the same batches,
    so it tells whether a checkpoint can be resumed.

    Raises ValueError where clips are not prepared or none is left, and for more workers than a batch has items.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        selection = select(config)
        self._clips, self.left_out = selection.clips, dict(selection.left_out)
        self._read_index()
        usable = {clip_id: self._clips[clip_id].video_id for clip_id in self._spans}
        self._validation, kept_from = validation_split(usable, config.validation_clips)
        buckets: dict[Bucket, list[str]] = {}
        for clip_id in usable.keys() - kept_from:
            buckets.setdefault(self._clips[clip_id].bucket, []).append(clip_id)
        self._sampler = BatchSampler(buckets, config.batch_size, config.seed)
        self.steps_per_epoch = self._sampler.steps_per_epoch
        self.fingerprint = content_id(self._sampler.fingerprint, *_content(config))[:16]

    def batches(self, start_step: int, rank: int, world_size: int) -> Iterator[Batch]:
        """This worker's share of every step's batch from `start_step` on, without end."""
        share(
            range(self.config.batch_size), rank, world_size
        )  # raises at once where there are too many workers
        requests = (self._requests(step, rank, world_size) for step in count(start_step))
        return _encoded(self.config, requests, -(-self.config.encode_workers // world_size))

    def validation_batches(self) -> list[Batch]:
        """The batches to validate on, always the same: middle spans, nothing augmented, nothing dropped."""
        buckets: dict[Bucket, list[Request]] = {}
        for clip_id in sorted(self._validation):
            request = self._validation_request(clip_id)
            buckets.setdefault(request.bucket, []).append(request)
        size = self.config.batch_size
        parts = [
            held[first : first + size] for held in buckets.values() for first in range(0, len(held), size)
        ]
        return list(_encoded(self.config, parts, min(self.config.encode_workers, 1))) if parts else []

    def _read_index(self) -> None:
        """Finds where the spans and texts of the selected clips are."""
        cache = Tables(self.config.cache_folder)
        # By start, as two runs that prepare at once may both write a clip.
        spans: dict[str, dict[int, Span]] = {}
        for place, row in cache.scan(latents_folder(self.config), INDEX):
            clip = self._clips.get(row["clip_id"])
            if clip is None or clip.version != row["version"]:
                continue
            if row["error_type"]:
                self.left_out[clip.clip_id] = row["error_message"]
            else:
                spans.setdefault(clip.clip_id, {}).setdefault(row["start"], (place, row))
        self._spans = {
            clip_id: [found[start] for start in sorted(found)] for clip_id, found in sorted(spans.items())
        }
        texts = cache.scan(text_folder(self.config), ["text_id"])
        self._texts = {row["text_id"]: place for place, row in texts}
        wanted = {content_id(NO_CAPTION), *(content_id(clip.caption) for clip in self._clips.values())}
        missing = self._clips.keys() - self._spans.keys() - self.left_out.keys()
        if missing or wanted - self._texts.keys():
            raise ValueError(
                f"{len(missing)} clips of {self.config.dataset}, or their captions, are not encoded for "
                f"{self.config.model} yet; call training.data.stream.prepare with these settings first."
            )

    def _requests(self, step: int, rank: int, world_size: int) -> list[Request]:
        _, items = self._sampler.step(step)
        return [self._drawn(item) for item in share(items, rank, world_size)]

    def _drawn(self, item: Item) -> Request:
        """An item with what is random about it drawn."""
        config, clip = self.config, self._clips[item.clip_id]
        random = random_of(config.seed, *item, "choices")
        spans = self._spans[item.clip_id]
        span = spans[random.integers(len(spans))]
        no_text, no_pose, no_reference = (
            bool(random.uniform() < share)
            for share in (config.drop_text, config.drop_pose, config.drop_reference)
        )
        # Pictures from long before or after are chosen the more often: they show who, not how.
        apart = _apart(span, clip.bucket)
        lengths = config.given_lengths(clip.bucket.frames)
        request = self._request(
            item,
            span,
            reference=int(random.choice(len(apart), p=apart / apart.sum())),
            caption=NO_CAPTION if no_text else clip.caption,
            given=lengths[random.integers(len(lengths))],
        )
        return replace(request, augmented=True, drop_pose=no_pose, drop_reference=no_reference)

    def _validation_request(self, clip_id: str) -> Request:
        spans, clip = self._spans[clip_id], self._clips[clip_id]
        span = spans[len(spans) // 2]
        reference = int(_apart(span, clip.bucket).argmax())
        lengths = self.config.given_lengths(clip.bucket.frames)
        return self._request(Item(clip_id, 0), span, reference, clip.caption, lengths[len(lengths) // 2])

    def _request(
        self, item: Item, span: Span, reference: int, caption: str, given: tuple[int, int]
    ) -> Request:
        clip, (place, row) = self._clips[item.clip_id], span
        frames = clip.frames(self.config.rate)[row["start"] :][: clip.bucket.frames].tolist()
        return Request(
            item=item,
            bucket=clip.bucket,
            span=place,
            media=Place(row["media_file"], row["media_group"]),
            text_id=content_id(caption),
            text=self._texts[content_id(caption)],
            reference=reference,
            head=tuple(frames[: given[0]]),
            tail=tuple(frames[len(frames) - given[1] :]),
        )


def _apart(span: Span, bucket: Bucket) -> np.ndarray:
    """How many frames each of the span's references lies from its middle, and one more: (R,)."""
    middle = span[1]["start"] + bucket.frames // 2
    return np.abs(np.array(span[1]["references"]) - middle) + 1.0


def _content(config: DataConfig) -> tuple[object, ...]:
    """The settings that batches depend on beside the order: not where folders lie or how items are encoded."""
    given = (config.adapter, config.given_head, config.given_tail, config.pose_oversampling, config.hands)
    drops = (config.drop_text, config.drop_pose, config.drop_reference)
    return latents_folder(config), text_folder(config), given, drops, config.augmentation


def _encoded(config: DataConfig, requests: Iterable[list[Request]], encoders: int) -> Iterator[Batch]:
    """The batches of the requests in their order, made by so many actors, or in this process if it is 0."""
    return _encoded_ahead(config, requests, encoders) if encoders else map(BatchEncoder(config), requests)


def _encoded_ahead(config: DataConfig, requests: Iterable[list[Request]], encoders: int) -> Iterator[Batch]:
    """As `_encoded`, `config.prefetch` batches ahead; Ray ends the actors with the last reference to the iterator."""
    import ray

    # Whatever kills an actor, Ray starts it again; a batch that kills it again and again is an error.
    actor: Any = ray.remote(_Encoder).options(
        num_cpus=config.encode_cpus, num_gpus=config.encode_gpus, max_restarts=-1, max_task_retries=3
    )
    pool = [actor.remote(config) for _ in range(encoders)]
    started = [encoder.started.remote() for encoder in pool]
    if ray.wait(started, num_returns=encoders, timeout=WAIT_S)[1]:
        raise RuntimeError(
            f"{encoders} encoders could not all be started in {WAIT_S:.0f} s: the cluster has no "
            f"{config.encode_cpus:g} CPUs and {config.encode_gpus:g} GPUs to spare for each. Give it more, ask for "
            "fewer encode_workers, or for 0 to encode in the training's own processes."
        )
    work = (encoder.encode.remote(part) for part, encoder in zip(requests, cycle(pool), strict=False))
    ahead = deque(islice(work, config.prefetch))
    for following in work:
        yield ray.get(ahead.popleft())
        ahead.append(following)
    while ahead:
        yield ray.get(ahead.popleft())


class _Encoder:
    """The actor: loads the VAE when the first batch comes, so that it is known to run before that."""

    def __init__(self, config: DataConfig) -> None:
        cv2.setNumThreads(1)  # pictures are small; more threads only take turns
        self.config = config
        self.encoder: BatchEncoder | None = None

    def started(self) -> bool:
        return True

    def encode(self, requests: list[Request]) -> Batch:
        self.encoder = self.encoder or BatchEncoder(self.config)
        return self.encoder(requests)
