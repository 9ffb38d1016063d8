"""Spans of clips, their reference pictures and captions as the frozen encoders see them: from the cache, or made now.

A clip that cannot be used raises `ClipError` or `VideoError`, which follows from its rows alone, so whoever tries meets
the same; any other error, such as storage that cannot be reached, is no property of the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from posegen.dataset import content_id, unpack_keypoints
from posegen.driving.skeleton import BODY, VISIBLE
from posegen.longvideo.conditions import encode_frames, encode_image, encode_text
from training.data.cache import Arrays, Cache
from training.data.frames import MEDIA_COLUMNS, ClipError, Window, opened, person_window, read_clip
from training.data.index import source
from training.data.items import DataConfig
from training.data.plan import Request
from training.model import frozen

SEEN_JOINTS = 4  # of the body's 17 that make a frame one with a person in it
WINDOW_VERSION = 2
"""Of how a bucket's picture is cut out of a frame, a part of the entries' names: 2 follows the person."""
PICTURE_PARTS = ("vae", "image_encoder", "image_processor")


class Names:
    """The names in the cache of what a request is made of, below it and without their ending."""

    def __init__(self, config: DataConfig) -> None:
        parts = [part for part in PICTURE_PARTS if frozen.has(config.model, part)]
        self._config = config
        self._latents = f"latents/{frozen.fingerprint(config.model, *parts)[:16]}"
        self._text = f"text/{frozen.fingerprint(config.model, 'tokenizer', 'text_encoder')[:16]}"

    def span(self, request: Request) -> str:
        return self._picture(request)

    def reference(self, request: Request) -> str:
        return self._picture(request, "reference", request.reference, self._config.references)

    def text(self, caption: str) -> str:
        return f"{self._text}/{content_id(caption)}"

    def all(self, request: Request) -> tuple[str, str, str]:
        return self.span(request), self.reference(request), self.text(request.caption)

    def _picture(self, request: Request, *more: object) -> str:
        clip = request.clip
        made_of = (
            clip.clip_id,
            clip.version,
            WINDOW_VERSION,
            *clip.bucket,
            self._config.rate,
            request.start,
            *more,
        )
        name = content_id(*made_of)
        return f"{self._latents}/{name[:2]}/{name}"


class SpanEncoder:
    """Gives a request's span and reference picture; loads the VAE and CLIP when they are first needed."""

    def __init__(self, config: DataConfig, cache: Cache) -> None:
        self._config, self._cache, self._names = config, cache, Names(config)
        self._tables = {dataset: source(config, dataset) for dataset in config.datasets}
        self._vae: Any = None
        self._clip_encoder: Any = None

    @property
    def vae(self) -> Any:
        if self._vae is None:
            self._vae = frozen.load(self._config.model, "vae", self._config.device)
        return self._vae

    def __call__(self, request: Request, step: int | None) -> Arrays:
        """The request's arrays: latents (z, f, h, w) and reference_latents (z, 1, h, w) float16; keypoints (F, 133, 3)
        float32 in pixels of the bucket; image (tokens, dim) float16 where the model reads one."""
        span_name, reference_name = self._names.span(request), self._names.reference(request)
        span, reference = self._cache.read(span_name), self._cache.read(reference_name)
        if span is None or reference is None:
            poses, seen = self._poses(request)
            shown = request.start + np.arange(request.bucket.frames)
            if not seen[shown].any():
                raise ClipError(f"its frames {shown[0]} to {shown[-1]} show no person")
            frame = reference_frame(seen, shown, request.reference, self._config.references)
            window = self._window(request, poses[shown])
            frames, windows = [frame], [self._window(request, poses[[frame]])]
            if span is None:
                frames, windows = [frame, *shown], windows + [window] * len(shown)
            pictures = self._pictures(request, np.array(frames), windows)
            if span is None:
                keypoints = window.keypoints(poses[shown]).astype("<f4")
                span = {"latents": self._latents(pictures[1:]), "keypoints": keypoints}
                self._cache.write(step, span_name, span)
            if reference is None:
                reference = self._reference(pictures[:1])
                self._cache.write(step, reference_name, reference)
        return span | reference

    def given(self, request: Request) -> np.ndarray | None:
        """The given frames (head + tail, height, width, 3) uint8, None where there are none."""
        if not request.head and not request.tail:
            return None
        frames = request.bucket.frames
        chosen = request.start + np.array([*range(request.head), *range(frames - request.tail, frames)])
        poses, _ = self._poses(request)
        window = self._window(request, poses[request.start : request.start + frames])
        return self._pictures(request, chosen, [window] * len(chosen))

    def _window(self, request: Request, poses: np.ndarray) -> Window:
        return person_window(poses, request.clip.size, request.bucket)

    def _poses(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """The clip's poses (N, 133, 3) at the model's rate, in its own pixels, and whether (N,) a person is seen."""
        clip = request.clip
        columns = ("clip_id", "keypoints", "keypoints_shape")
        row = self._tables[clip.dataset].row(clip.row, clip.clip_id, columns)
        if len(row["keypoints"] or b"") != 4 * clip.length * 133 * 3:
            raise ClipError(f"its keypoints are not of the shape ({clip.length}, 133, 3)")
        keypoints = unpack_keypoints(row)[clip.frames(self._config.rate)]
        return keypoints, (keypoints[:, BODY, 2] >= VISIBLE).sum(axis=1) >= SEEN_JOINTS

    def _pictures(self, request: Request, frames: np.ndarray, windows: Sequence[Window]) -> np.ndarray:
        """The clip's frames of these numbers at the model's rate, each cut by its window: (n, H, W, 3) uint8."""
        clip = request.clip
        media = self._tables[clip.dataset].row(clip.media, clip.clip_id, MEDIA_COLUMNS)
        with opened(media) as info:
            return read_clip(info, media, clip.frames(self._config.rate)[frames], windows)

    @torch.no_grad()
    def _latents(self, pictures: np.ndarray) -> np.ndarray:
        return encode_frames(self.vae, pictures[None])[0].cpu().numpy().astype("<f2")

    @torch.no_grad()
    def _reference(self, picture: np.ndarray) -> Arrays:
        arrays = {"reference_latents": self._latents(picture)}
        if frozen.has(self._config.model, "image_encoder"):
            if self._clip_encoder is None:
                self._clip_encoder = frozen.load(self._config.model, "image_encoder", self._config.device)
                self._processor = frozen.load(self._config.model, "image_processor")
            image = encode_image(self._processor, self._clip_encoder, picture)
            arrays["image"] = image[0].float().cpu().numpy().astype("<f2")
        return arrays


def reference_frame(seen: np.ndarray, shown: np.ndarray, choice: int, choices: int) -> int:
    """A frame that shows the person at another moment than the frames `shown`: outside them where there are any.

    seen: (N,) bool, which frames of the clip show the person. Of the choices, which all show other moments, more lie
    far away than near: pictures from long before or after show who, not how.
    """
    there = np.flatnonzero(seen)
    outside = there[(there < shown[0]) | (there > shown[-1])]
    candidates = outside if len(outside) else there
    apart = np.abs(candidates - (shown[0] + len(shown) // 2)) + 1.0
    order = np.argsort(apart, kind="stable")
    share = np.cumsum(apart[order]) / apart.sum()
    return int(candidates[order][np.searchsorted(share, (choice + 0.5) / choices)])


class TextEncoder:
    """Gives a caption's states; loads the text encoder when it is first needed."""

    def __init__(self, config: DataConfig, cache: Cache) -> None:
        self._config, self._cache, self._names = config, cache, Names(config)
        self._device = "cuda" if config.text_gpus > 0 else "cpu"
        self._encoder: Any = None

    @torch.no_grad()
    def __call__(self, caption: str, step: int | None) -> np.ndarray:
        """(tokens, text_dim) float16."""
        name = self._names.text(caption)
        arrays = self._cache.read(name)
        if arrays is None:
            if self._encoder is None:
                self._tokenizer = frozen.load(self._config.model, "tokenizer")
                self._encoder = frozen.load(self._config.model, "text_encoder", self._device)
            states = encode_text(self._tokenizer, self._encoder, [caption])[0].float().cpu().numpy()
            kept = int(np.flatnonzero(states.any(axis=1)).max(initial=-1)) + 1  # the rest are zeros
            arrays = {"states": states[:kept].astype("<f2"), "tokens": np.array([len(states)], np.int32)}
            self._cache.write(step, name, arrays)
        states = arrays["states"]
        return np.pad(states, ((0, int(arrays["tokens"][0]) - len(states)), (0, 0)))
