"""Batches of a step: cached latents and texts, and poses drawn and encoded anew each time.

Everything random about an item, apart from the changes of its pose, is drawn by the caller and stands in its `Request`.
Every item is encoded by itself, so it depends neither on its neighbours in a batch nor on the number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from posegen.driving.drawing import foreground_mask
from posegen.longvideo.conditions import draw_poses, encode_frames, pose_condition
from posegen.sharing import foreground_tokens
from training.data.augment import augment, random_of
from training.data.cache import SPANS, TEXTS, Place, Tables, unpack
from training.data.frames import MEDIA_COLUMNS, opened, read_clip
from training.data.items import Batch, Bucket, DataConfig
from training.data.sampler import Item
from training.model import frozen


@dataclass(frozen=True)
class Request:
    """An item with everything drawn and looked up that it is made of, but for its pose's augmentation.

    span, media, text: where its rows are. frames: (head, tail) clip frames that are given, by number. reference: which
    of the span's. augmented: whether its pose is.
    """

    item: Item
    bucket: Bucket
    span: Place
    media: Place
    text_id: str
    text: Place
    reference: int
    head: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()
    augmented: bool = False
    drop_pose: bool = False
    drop_reference: bool = False


class BatchEncoder:
    """Makes batches of requests: reads their cached rows, draws and encodes their poses; holds the VAE."""

    def __init__(self, config: DataConfig) -> None:
        self.config, self.source, self.cache = (
            config,
            Tables(config.dataset, config.dataset_version),
            Tables(config.cache_folder),
        )
        self.vae = frozen.load(config.model, "vae", config.device)
        self._no_hands: dict[Bucket, torch.Tensor] = {}

    @torch.no_grad()
    def __call__(self, requests: Sequence[Request]) -> Batch:
        """One batch of requests of one bucket."""
        start = time.perf_counter()
        columns = [name for name in SPANS.names if not name.startswith("error")]
        spans = [self.cache.row(request.span, request.item.clip_id, columns) for request in requests]
        pairs = list(zip(requests, spans, strict=True))
        given = [self._given(request) for request in requests]
        return Batch(
            keys=[(request.item.clip_id, request.item.epoch) for request in requests],
            latents=torch.stack([torch.from_numpy(unpack(span, "latents")) for span in spans]),
            reference_latents=torch.stack([_reference("reference_latents", *pair) for pair in pairs]),
            pose_latents=torch.stack(
                [self._pose(*pair, frames) for pair, frames in zip(pairs, given, strict=True)]
            ),
            hand_latents=self._hands(requests, given) if self.config.hands else None,
            text=torch.stack([self._text(request) for request in requests]),
            image=None
            if spans[0]["image"] is None
            else torch.stack([_reference("image", *p) for p in pairs]),
            person=torch.stack([_person(*pair) for pair in pairs]),
            encode_seconds=time.perf_counter() - start,
        )

    def _pose(self, request: Request, span: Mapping[str, Any], frames: np.ndarray | None) -> torch.Tensor:
        """(4 + z, f, h, w): the frame mask, then latents of the drawn poses and given frames."""
        bucket, config = request.bucket, self.config
        pictures = _black(bucket)
        if not request.drop_pose:
            poses = unpack(dict(span), "keypoints", "<f4")
            if request.augmented:
                random = random_of(config.seed, *request.item, "pose")
                poses = augment(poses, bucket[:2], config.augmentation, random)
            pictures = draw_poses(poses, bucket[:2], config.pose_oversampling)
        given = torch.zeros(1, bucket.frames, dtype=torch.bool)
        if frames is not None:
            _place(frames, request, pictures)
            given[:, : len(request.head)] = given[:, bucket.frames - len(request.tail) :] = True
        return pose_condition(self.vae, pictures[None], given)[0].cpu()

    def _given(self, request: Request) -> np.ndarray | None:
        """The given frames (head + tail, height, width, 3) uint8, None where none are."""
        if not request.head and not request.tail:
            return None
        media = self.source.row(request.media, request.item.clip_id, MEDIA_COLUMNS)
        with opened(media) as info:
            return read_clip(info, media, np.array(request.head + request.tail), request.bucket)

    def _text(self, request: Request) -> torch.Tensor:
        row = self.cache.row(request.text, request.text_id, TEXTS.names)
        states = torch.from_numpy(unpack(row, "states"))
        return torch.nn.functional.pad(states, (0, 0, 0, row["tokens"] - len(states)))

    def _hands(self, requests: Sequence[Request], given: Sequence[np.ndarray | None]) -> torch.Tensor:
        """(b, z, f, h, w): latents of black, and of given frames, which the hand video holds as the pose video does."""
        latents = []
        for request, frames in zip(requests, given, strict=True):
            video, bucket = _black(request.bucket), request.bucket
            if frames is not None:
                _place(frames, request, video)
                latents.append(encode_frames(self.vae, video[None]).cpu())
                continue
            if bucket not in self._no_hands:
                self._no_hands[bucket] = encode_frames(self.vae, video[None]).cpu()
            latents.append(self._no_hands[bucket])
        return torch.cat(latents)


def _black(bucket: Bucket) -> np.ndarray:
    return np.zeros((bucket.frames, bucket.height, bucket.width, 3), np.uint8)


def _place(given: np.ndarray, request: Request, video: np.ndarray) -> None:
    """Writes given frames (head + tail, H, W, 3) over the first and last ones of a video."""
    head = len(request.head)
    video[:head], video[len(video) - len(request.tail) :] = given[:head], given[head:]


def _reference(name: str, request: Request, span: Mapping[str, Any]) -> torch.Tensor:
    """The chosen reference's part of a column; zeros where it is dropped."""
    values = torch.from_numpy(unpack(dict(span), name)[request.reference])
    return torch.zeros_like(values) if request.drop_reference else values


def _person(request: Request, span: Mapping[str, Any]) -> torch.Tensor:
    """(1, f, h, w) float32: where the person is, whatever becomes of the drawn pose."""
    poses = np.nan_to_num(unpack(dict(span), "keypoints", "<f4"))
    masks = np.stack([foreground_mask(pose, request.bucket[:2]) for pose in poses])
    return foreground_tokens(masks, patch_size=(1, 1, 1)).float().view(1, *span["latents_shape"][1:])
