"""What the frozen networks make of clips, captions and drawn poses.

Choices made: three classes, one for each place in the run. `SpanEncoder` and `TextEncoder` fill the caches before it;
`BatchEncoder` makes the batches of it, from the caches and from poses drawn anew each time. Every item is encoded by
itself: what it becomes does not depend on its neighbours in a batch, so not on the number of workers either.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from posegen.alignment import fit
from posegen.conditions import draw_poses, encode, encode_image, encode_text, pose_condition
from posegen.dataset import content_id, unpack_keypoints
from posegen.skeleton import BODY, VISIBLE
from posegen.video import VideoError, VideoInfo, probe, read_frames, sample_indices
from training import models
from training.augment import augment, random_of
from training.cache import SPANS, TEXTS, Place, Tables, pack, unpack
from training.data import Batch, Bucket, DataConfig
from training.order import Item
from training.selection import Clip

MEDIA = ("clip_id", "media", "media_start", "seconds", "rate")
SEEN_JOINTS = 4  # of the body's 17 that make a frame one with a person in it


class ClipError(ValueError):
    """A clip cannot be trained on; the message says why."""


def device_of(config: DataConfig) -> str:
    return "cuda" if config.encode_gpus > 0 else "cpu"


def latents_folder(config: DataConfig) -> str:
    """Where the spans of these settings are, below the cache folder."""
    parts = [part for part in ("vae", "image_encoder", "image_processor") if models.has(config.model, part)]
    settings = (config.sizes, config.frames, config.rate, config.spans, config.references)
    return f"latents/{content_id(models.fingerprint(config.model, *parts), repr(settings))[:16]}"


def text_folder(config: DataConfig) -> str:
    """Where this model's texts are, below the cache folder."""
    return f"text/{models.fingerprint(config.model, 'tokenizer', 'text_encoder')[:16]}"


class SpanEncoder:
    """Encodes the clips of one file of `media/` and writes them to the cache; holds the VAE and CLIP."""

    def __init__(self, config: DataConfig) -> None:
        self.config, self.source, self.target = config, Tables(config.dataset), Tables(config.cache_folder)
        self.folder = latents_folder(config)
        self.vae = models.load(config.model, "vae", device_of(config))
        self.clip_encoder = self.image_processor = None
        if models.has(config.model, "image_encoder"):
            self.clip_encoder = models.load(config.model, "image_encoder", device_of(config))
            self.image_processor = models.load(config.model, "image_processor")

    @torch.no_grad()
    def __call__(self, unit: Mapping[str, Any]) -> dict[str, int]:
        """Encodes `clips` (list of `Clip`) of `file`; counts those that are ready and those that cannot be used."""
        wanted = {clip.clip_id: clip for clip in unit["clips"]}
        keypoints = self._keypoints(unit["clips"])
        rows, failed = [], 0
        for group in range(self.source.groups(unit["file"])):
            place = Place(unit["file"], group)
            for media in self.source.group(place, MEDIA):
                if media["clip_id"] not in wanted:
                    continue
                try:
                    rows += self._spans(wanted[media["clip_id"]], keypoints[media["clip_id"]], media, place)
                except (VideoError, ClipError) as error:
                    rows.append(failed_clip(media["clip_id"], error))
                    failed += 1
        name = content_id(unit["file"], *wanted)
        self.target.write(f"{self.folder}/part-{name}.parquet", rows, SPANS)
        return {"ready": len(wanted) - failed, "failed": failed}

    def _keypoints(self, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
        columns = ("clip_id", "keypoints", "keypoints_shape")
        groups = {clip.place for clip in clips}
        rows = [row for place in sorted(groups) for row in self.source.group(place, columns)]
        return {row["clip_id"]: unpack_keypoints(row) for row in rows if row["keypoints"] is not None}

    def _spans(
        self, clip: Clip, keypoints: np.ndarray, media: Mapping[str, Any], place: Place
    ) -> list[dict[str, Any]]:
        bucket, frames = clip.bucket, clip.frames(self.config.rate)
        poses = fit(clip.size, bucket[:2]).keypoints(keypoints[frames])
        seen = (poses[:, BODY, 2] >= VISIBLE).sum(axis=1) >= SEEN_JOINTS
        rows = []
        with opened(media) as info:
            for start in span_starts(len(frames), bucket.frames, self.config.spans):
                shown = np.arange(start, start + bucket.frames)
                if not seen[shown].any():
                    continue
                references = reference_frames(seen, start, bucket.frames, self.config.references)
                pictures = read_clip(info, media, frames[[*shown, *references]], bucket)
                rows.append(
                    {
                        "clip_id": clip.clip_id,
                        "start": start,
                        "references": references.tolist(),
                        "media_file": place.file,
                        "media_group": place.group,
                        **pack("keypoints", poses[shown], "<f4"),
                        **self._pictures(pictures[: bucket.frames], pictures[bucket.frames :]),
                    }
                )
        if not rows:
            raise ClipError("no frame that could be used shows a person")
        return rows

    def _pictures(self, video: np.ndarray, references: np.ndarray) -> dict[str, Any]:
        columns = pack("latents", encode(self.vae, video[None])[0].cpu().numpy())
        columns |= pack("reference_latents", encode(self.vae, references[:, None]).cpu().numpy())
        if self.clip_encoder is not None:
            image = encode_image(self.image_processor, self.clip_encoder, references)
            columns |= pack("image", image.float().cpu().numpy())
        return columns


def failed_clip(clip_id: str, error: Exception) -> dict[str, Any]:
    """The row of a clip that cannot be trained on."""
    return {"clip_id": clip_id, "error_type": type(error).__name__, "error_message": str(error)}


def span_starts(length: int, frames: int, most: int) -> list[int]:
    """First frames of at most `most` spans of `frames` frames, spread evenly over a clip of `length`."""
    room = length - frames
    return sorted({round(start) for start in np.linspace(0, room, min(most, room + 1))})


def reference_frames(seen: np.ndarray, start: int, frames: int, most: int) -> np.ndarray:
    """Frames (R,) that show the person at another moment than the span: outside it where there are any.

    seen: (N,) bool, which frames of the clip show the person.
    """
    there = np.flatnonzero(seen)
    outside = there[(there < start) | (there >= start + frames)]
    candidates = outside if len(outside) else there
    return candidates[np.unique(np.linspace(0, len(candidates) - 1, most).round().astype(int))]


@contextmanager
def opened(media: Mapping[str, Any]) -> Iterator[VideoInfo]:
    """A row of `media/` as a video that can be read for as long as the block lasts."""
    with tempfile.NamedTemporaryFile(prefix="posegen-", suffix=".mp4") as file:
        file.write(media["media"])
        file.flush()
        yield probe(file.name)


def read_clip(info: VideoInfo, media: Mapping[str, Any], frames: np.ndarray, bucket: Bucket) -> np.ndarray:
    """The clip's frames of these numbers, in any order, as (n, H, W, 3) uint8 of the bucket's size, cut to fill it."""
    stop = min(media["media_start"] + media["seconds"], info.duration)
    shown = sample_indices(info, media["media_start"], stop, media["rate"])
    if frames.max() >= len(shown):
        raise ClipError(f"its video has {len(shown)} frames, but there are poses of frame {frames.max()}")
    distinct, place = np.unique(shown[frames], return_inverse=True)
    width, height = (max(1, round(side * _cover(info, bucket))) for side in (info.width, info.height))
    left, top = (width - bucket.width) // 2, (height - bucket.height) // 2
    pictures = np.concatenate(list(read_frames(info, distinct, (width, height))))
    return pictures[place, top : top + bucket.height, left : left + bucket.width]


def _cover(info: VideoInfo, bucket: Bucket) -> float:
    return fit((info.width, info.height), bucket[:2]).scale


class TextEncoder:
    """Encodes captions and writes them to the cache; holds tokenizer and text encoder."""

    def __init__(self, config: DataConfig) -> None:
        self.target, self.folder = Tables(config.cache_folder), text_folder(config)
        self.tokenizer = models.load(config.model, "tokenizer")
        self.text_encoder = models.load(config.model, "text_encoder", device_of(config))

    @torch.no_grad()
    def __call__(self, unit: Mapping[str, Any]) -> dict[str, int]:
        """Encodes the `captions` (list of text); counts them."""
        rows = []
        for caption in unit["captions"]:
            states = encode_text(self.tokenizer, self.text_encoder, [caption])[0].float().cpu().numpy()
            kept = int(np.flatnonzero(states.any(axis=1)).max(initial=-1)) + 1  # the rest are zeros
            rows.append(
                {"text_id": content_id(caption), "tokens": len(states), **pack("states", states[:kept])}
            )
        self.target.write(f"{self.folder}/part-{content_id(*unit['captions'])}.parquet", rows, TEXTS)
        return {"ready": len(rows), "failed": 0}


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
        self.config, self.source, self.cache = config, Tables(config.dataset), Tables(config.cache_folder)
        self.vae = models.load(config.model, "vae", device_of(config))
        self._hands: dict[Bucket, torch.Tensor] = {}

    @torch.no_grad()
    def __call__(self, requests: Sequence[Request]) -> Batch:
        """One batch of requests of one bucket."""
        start = time.perf_counter()
        columns = [name for name in SPANS.names if not name.startswith("error")]
        spans = [self.cache.row(request.span, request.item.clip_id, columns) for request in requests]
        pairs = list(zip(requests, spans, strict=True))
        return Batch(
            keys=[(request.item.clip_id, request.item.epoch) for request in requests],
            latents=torch.stack([torch.from_numpy(unpack(span, "latents")) for span in spans]),
            reference_latents=torch.stack([_reference("reference_latents", *pair) for pair in pairs]),
            pose_latents=torch.stack([self._pose(*pair) for pair in pairs]),
            hand_latents=self._no_hands(requests[0].bucket, len(requests)) if self.config.hands else None,
            text=torch.stack([self._text(request) for request in requests]),
            image=None
            if spans[0]["image"] is None
            else torch.stack([_reference("image", *p) for p in pairs]),
            encode_seconds=time.perf_counter() - start,
        )

    def _pose(self, request: Request, span: Mapping[str, Any]) -> torch.Tensor:
        """(4 + z, f, h, w): the frame mask, then latents of the drawn poses and given frames."""
        bucket, config = request.bucket, self.config
        pictures = np.zeros((bucket.frames, bucket.height, bucket.width, 3), np.uint8)
        if not request.drop_pose:
            poses = unpack(dict(span), "keypoints", "<f4")
            if request.augmented:
                random = random_of(config.seed, *request.item, "pose")
                poses = augment(poses, bucket[:2], config.augmentation, random)
            pictures = draw_poses(poses, bucket[:2], config.pose_oversampling)
        given = torch.zeros(1, bucket.frames, dtype=torch.bool)
        if request.head or request.tail:
            frames = self._given(request)
            head, tail = len(request.head), bucket.frames - len(request.tail)
            pictures[:head], pictures[tail:] = frames[:head], frames[head:]
            given[:, :head] = given[:, tail:] = True
        return pose_condition(self.vae, pictures[None], given)[0].cpu()

    def _given(self, request: Request) -> np.ndarray:
        media = self.source.row(request.media, request.item.clip_id, MEDIA)
        with opened(media) as info:
            return read_clip(info, media, np.array(request.head + request.tail), request.bucket)

    def _text(self, request: Request) -> torch.Tensor:
        row = self.cache.row(request.text, request.text_id, TEXTS.names)
        states = torch.from_numpy(unpack(row, "states"))
        return torch.nn.functional.pad(states, (0, 0, 0, row["tokens"] - len(states)))

    def _no_hands(self, bucket: Bucket, count: int) -> torch.Tensor:
        if bucket not in self._hands:
            black = np.zeros((1, bucket.frames, bucket.height, bucket.width, 3), np.uint8)
            self._hands[bucket] = encode(self.vae, black).cpu()
        return self._hands[bucket].expand(count, -1, -1, -1, -1)


def _reference(name: str, request: Request, span: Mapping[str, Any]) -> torch.Tensor:
    """The chosen reference's part of a column; zeros where it is dropped."""
    values = torch.from_numpy(unpack(dict(span), name)[request.reference])
    return torch.zeros_like(values) if request.drop_reference else values
