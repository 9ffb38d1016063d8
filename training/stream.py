"""Training data as an endless stream of batches that a step's number alone determines.

Choices made: `prepare` fills the caches once, in the driver, before any worker asks for a `TrainingStream`. Batches are
encoded ahead of their step by a few Ray actors, fed and read in order; an actor that dies is started again by Ray and
does its batch once more. Without actors the caller's process does the same work, for tests and small machines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import Any

import numpy as np

from posegen.dataset import content_id
from training.augment import random_of
from training.cache import Place, Tables
from training.data import Batch, Bucket, DataConfig
from training.encode import BatchEncoder, Request, latents_folder, text_folder
from training.order import Item, Order, held_out, share
from training.prepare import NO_CAPTION, prepare
from training.selection import select

__all__ = ["Batch", "DataConfig", "TrainingStream", "prepare"]

INDEX = ("clip_id", "error_type", "error_message", "start", "references", "media_file", "media_group")
WAIT_S = 300.0
"""How long to wait for an encoder to be started before the cluster is taken to have no room for one."""


class TrainingStream:
    """The batches of a dataset, prepared by `prepare` of the same settings.

    steps_per_epoch: how many steps show each clip once (to a batch's rounding, for each bucket). left_out: why each
    other kept clip is not trained on, by clip_id. fingerprint: two streams with the same one have the same order.

    Raises ValueError where clips are not prepared or none is left, and for more workers than a batch has items.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        selection = select(config)
        self._clips, self.left_out = selection.clips, dict(selection.left_out)
        self._spans: dict[str, list[tuple[Place, dict[str, Any]]]] = {}
        self._read_index()
        usable = {clip_id: self._clips[clip_id].video_id for clip_id in self._spans}
        self._measured, kept_from = held_out(usable, config.held_out)
        buckets: dict[Bucket, list[str]] = {}
        for clip_id in usable.keys() - kept_from:
            buckets.setdefault(self._clips[clip_id].bucket, []).append(clip_id)
        self._order = Order(buckets, config.batch_size, config.seed)
        self.steps_per_epoch, self.fingerprint = self._order.steps_per_epoch, self._order.fingerprint

    def batches(self, start_step: int, rank: int, world_size: int) -> Iterator[Batch]:
        """This worker's share of every step's batch from `start_step` on, without end."""
        share(range(self.config.batch_size), rank, world_size)  # says at once that there are too many workers
        requests = (self._requests(step, rank, world_size) for step in count(start_step))
        if self.config.encode_workers == 0:
            return map(BatchEncoder(self.config), requests)
        return _encoded_ahead(self.config, requests, -(-self.config.encode_workers // world_size))

    def held_out(self) -> list[Batch]:
        """The batches to measure on, always the same: middle spans, nothing augmented, nothing dropped."""
        buckets: dict[Bucket, list[Request]] = {}
        for clip_id in sorted(self._measured):
            request = self._measured_request(clip_id)
            buckets.setdefault(request.bucket, []).append(request)
        size = self.config.batch_size
        parts = [
            held[first : first + size] for held in buckets.values() for first in range(0, len(held), size)
        ]
        return list(map(BatchEncoder(self.config), parts)) if parts else []

    def _read_index(self) -> None:
        cache = Tables(self.config.cache_folder)
        for place, row in cache.scan(latents_folder(self.config), INDEX):
            if row["clip_id"] not in self._clips:
                continue
            if row["error_type"]:
                self.left_out[row["clip_id"]] = row["error_message"]
            else:
                self._spans.setdefault(row["clip_id"], []).append((place, row))
        self._texts = {
            row["text_id"]: place for place, row in cache.scan(text_folder(self.config), ["text_id"])
        }
        captions = {content_id(NO_CAPTION), *(content_id(clip.caption) for clip in self._clips.values())}
        open_clips = self._clips.keys() - self._spans.keys() - self.left_out.keys()
        if open_clips or captions - self._texts.keys():
            raise ValueError(
                f"{len(open_clips)} clips of {self.config.dataset} are not encoded for {self.config.model} yet; "
                "call training.stream.prepare with these settings first."
            )

    def _requests(self, step: int, rank: int, world_size: int) -> list[Request]:
        _, items = self._order.step(step)
        return [self._drawn(item) for item in share(items, rank, world_size)]

    def _drawn(self, item: Item) -> Request:
        """An item with what is random about it drawn."""
        config, spans = self.config, self._spans[item.clip_id]
        random = random_of(config.seed, *item, "choices")
        place, span = spans[random.integers(len(spans))]
        text, pose, reference = random.uniform(size=3) < (
            config.drop_text,
            config.drop_pose,
            config.drop_reference,
        )
        bucket = self._clips[item.clip_id].bucket
        # Pictures from long before or after are chosen the more often: they show who, not how.
        apart = np.abs(np.array(span["references"]) - span["start"] - bucket.frames // 2) + 1.0
        lengths = config.given_lengths(bucket.frames)
        head, tail = lengths[random.integers(len(lengths))]
        return self._request(
            item,
            place,
            span,
            reference=int(random.choice(len(apart), p=apart / apart.sum())),
            caption=NO_CAPTION if text else self._clips[item.clip_id].caption,
            given=(head, tail),
            augmented=True,
            drop_pose=bool(pose),
            drop_reference=bool(reference),
        )

    def _measured_request(self, clip_id: str) -> Request:
        spans = self._spans[clip_id]
        place, span = spans[len(spans) // 2]
        lengths = self.config.given_lengths(self._clips[clip_id].bucket.frames)
        return self._request(
            Item(clip_id, 0),
            place,
            span,
            reference=0,
            caption=self._clips[clip_id].caption,
            given=lengths[len(lengths) // 2],
        )

    def _request(
        self,
        item: Item,
        place: Place,
        span: dict[str, Any],
        reference: int,
        caption: str,
        given: tuple[int, int],
        **chosen: bool,
    ) -> Request:
        clip = self._clips[item.clip_id]
        stop = span["start"] + clip.bucket.frames
        frames = clip.frames(self.config.rate)[span["start"] : stop].tolist()
        return Request(
            item=item,
            bucket=clip.bucket,
            span=place,
            media=Place(span["media_file"], span["media_group"]),
            text_id=content_id(caption),
            text=self._texts[content_id(caption)],
            reference=reference,
            head=tuple(frames[: given[0]]),
            tail=tuple(frames[len(frames) - given[1] :]),
            **chosen,
        )


def _encoded_ahead(config: DataConfig, requests: Iterable[list[Request]], encoders: int) -> Iterator[Batch]:
    """The batches of the requests in their order, `config.prefetch` of them under way; the actors end with it."""
    import ray

    # Whatever kills an actor, Ray starts it again; a batch that kills it again and again is an error.
    actor: Any = ray.remote(_Encoder).options(
        num_cpus=config.encode_cpus, num_gpus=config.encode_gpus, max_restarts=-1, max_task_retries=3
    )
    pool = [actor.remote(config) for _ in range(encoders)]
    try:
        if not ray.wait([encoder.started.remote() for encoder in pool], timeout=WAIT_S)[0]:
            raise RuntimeError(
                f"No encoder could be started in {WAIT_S:.0f} s: the cluster has no {config.encode_cpus:g} CPUs and "
                f"{config.encode_gpus:g} GPUs to spare. Give it more, or set encode_workers to 0."
            )
        work = (encoder.encode.remote(part) for encoder, part in zip(_in_turn(pool), requests, strict=False))
        ahead = deque(islice(work, config.prefetch))
        for following in work:
            yield ray.get(ahead.popleft())
            ahead.append(following)
    finally:
        for encoder in pool:
            ray.kill(encoder)


def _in_turn(pool: list[Any]) -> Iterator[Any]:
    while True:
        yield from pool


class _Encoder:
    """The actor: loads the VAE when the first batch comes, so that it is known to run before that."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.encoder: BatchEncoder | None = None

    def started(self) -> bool:
        return True

    def encode(self, requests: list[Request]) -> Batch:
        self.encoder = self.encoder or BatchEncoder(self.config)
        return self.encoder(requests)
