"""Items of a batch: latents and texts from the cache, and poses drawn and encoded anew each time.

Every item is made by itself, so it depends neither on its neighbours in a batch nor on the number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from posegen.driving.drawing import foreground_mask
from posegen.longvideo.conditions import draw_poses, encode_frames, pose_condition
from posegen.sharing import foreground_tokens
from posegen.video import VideoError
from training.data.augment import augment, random_of
from training.data.cache import Arrays
from training.data.frames import ClipError
from training.data.items import Batch, Bucket
from training.data.plan import Key, Plan, Request
from training.data.spans import SpanEncoder

MOST_ATTEMPTS = 20
"""Clips in a row that cannot be used, after which a training ends: something is wrong with all of them."""


@dataclass(frozen=True)
class Item:
    """One item of a batch; arrays are named as in `Batch`. replaced: sentences on clips that could not be used."""

    key: Key
    clip_id: str
    arrays: Arrays
    replaced: tuple[str, ...]
    seconds: float


class ItemEncoder:
    """Makes items of a run; `text` gives the states of a caption for a step, (tokens, text_dim) float16."""

    def __init__(self, plan: Plan, spans: SpanEncoder, text: Callable[[str, int | None], np.ndarray]) -> None:
        self._plan, self._config, self._spans, self._text = plan, plan.config, spans, text
        self._no_hands: dict[Bucket, np.ndarray] = {}

    def item(self, step: int, place: int) -> Item:
        """The item at a place of a step's batch; raises ValueError where one clip after another cannot be used."""
        replaced: list[str] = []
        for attempt in range(MOST_ATTEMPTS):
            request = self._plan.request(step, place, attempt)
            name = f"clip {request.clip.clip_id} of {request.clip.dataset}"
            try:
                return self._made(request, step, tuple(replaced))
            except (VideoError, ClipError) as error:
                replaced.append(f"{name} cannot be used, another stands in: {error}")
                last = f"{name}: {error}"
        raise ValueError(f"{MOST_ATTEMPTS} clips in a row cannot be used; the last of them: {last}")

    def validation(self, request: Request) -> Item | str:
        """An item to validate on; where its clip cannot be used, the sentence that says so."""
        try:
            return self._made(request, None, ())
        except (VideoError, ClipError) as error:
            clip = request.clip
            return (
                f"clip {clip.clip_id} of {clip.dataset} cannot be used, validation goes without it: {error}"
            )

    @torch.no_grad()
    def _made(self, request: Request, step: int | None, replaced: tuple[str, ...]) -> Item:
        start = time.perf_counter()
        span = self._spans(request, step)
        given = self._spans.given(request)
        arrays = {
            "latents": span["latents"],
            "reference_latents": span["reference_latents"],
            "pose_latents": self._pose(request, span["keypoints"], given),
            "text": self._text(request.caption, step),
            "person": _person(request.bucket, span),
        }
        if "image" in span:
            arrays["image"] = span["image"]
        if request.drop_reference:
            arrays |= {
                name: np.zeros_like(arrays[name]) for name in ("reference_latents", "image") if name in arrays
            }
        if self._config.hands:
            arrays["hand_latents"] = self._hands(request, given)
        return Item(request.key, request.clip.clip_id, arrays, replaced, time.perf_counter() - start)

    def _pose(self, request: Request, keypoints: np.ndarray, frames: np.ndarray | None) -> np.ndarray:
        """(4 + z, f, h, w) float32: the frame mask, then latents of the drawn poses and given frames."""
        bucket, config = request.bucket, self._config
        pictures = _black(bucket)
        if not request.drop_pose:
            poses = keypoints
            if request.augmented:
                random = random_of(config.seed, *request.key, "pose")
                poses = augment(poses, bucket[:2], config.augmentation, random)
            pictures = draw_poses(poses, bucket[:2], config.pose_oversampling)
        given = torch.zeros(1, bucket.frames, dtype=torch.bool)
        if frames is not None:
            _place(frames, request, pictures)
            given[:, : request.head] = given[:, bucket.frames - request.tail :] = True
        return pose_condition(self._spans.vae, pictures[None], given)[0].float().cpu().numpy()

    def _hands(self, request: Request, frames: np.ndarray | None) -> np.ndarray:
        """(z, f, h, w): latents of black, and of given frames, which the hand video holds as the pose video does."""
        bucket, video = request.bucket, _black(request.bucket)
        if frames is not None:
            _place(frames, request, video)
        elif bucket in self._no_hands:
            return self._no_hands[bucket]
        latents = encode_frames(self._spans.vae, video[None])[0].float().cpu().numpy()
        if frames is None:
            self._no_hands[bucket] = latents
        return latents


def collate(items: Sequence[Item]) -> Batch:
    """The batch of items of one bucket."""

    def stacked(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([item.arrays[name] for item in items]).astype(np.float32))

    def optional(name: str) -> torch.Tensor | None:
        return stacked(name) if name in items[0].arrays else None

    return Batch(
        keys=[item.key for item in items],
        clip_ids=[item.clip_id for item in items],
        replaced=[sentence for item in items for sentence in item.replaced],
        latents=stacked("latents"),
        reference_latents=stacked("reference_latents"),
        pose_latents=stacked("pose_latents"),
        hand_latents=optional("hand_latents"),
        text=stacked("text"),
        image=optional("image"),
        person=stacked("person"),
        encode_seconds=sum(item.seconds for item in items),
    )


def _black(bucket: Bucket) -> np.ndarray:
    return np.zeros((bucket.frames, bucket.height, bucket.width, 3), np.uint8)


def _place(given: np.ndarray, request: Request, video: np.ndarray) -> None:
    """Writes given frames (head + tail, H, W, 3) over the first and last ones of a video."""
    video[: request.head], video[len(video) - request.tail :] = given[: request.head], given[request.head :]


def _person(bucket: Bucket, span: Arrays) -> np.ndarray:
    """(1, f, h, w) bool: where the person is, whatever becomes of the drawn pose."""
    masks = np.stack([foreground_mask(pose, bucket[:2]) for pose in np.nan_to_num(span["keypoints"])])
    tokens = foreground_tokens(masks, patch_size=(1, 1, 1))
    return tokens.view(1, *span["latents"].shape[1:]).numpy()
