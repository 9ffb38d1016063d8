"""What is encoded before a training and kept: spans of clips by the VAE and CLIP, captions by the text encoder.

Each class does one file's worth of work, reads what it needs by place and writes what it made, so it can run anywhere.
A clip that cannot be used is recorded as such; any other failure is raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from posegen.dataset import content_id, unpack_keypoints
from posegen.driving.alignment import fit
from posegen.driving.skeleton import BODY, VISIBLE
from posegen.longvideo.conditions import encode_frames, encode_image, encode_text
from posegen.video import VideoError
from training.data.cache import SPANS, TEXTS, Place, Tables, pack
from training.data.frames import MEDIA_COLUMNS, ClipError, opened, read_clip
from training.data.items import DataConfig
from training.data.selection import Clip
from training.model import frozen

SEEN_JOINTS = 4  # of the body's 17 that make a frame one with a person in it


def latents_folder(config: DataConfig) -> str:
    """Where the spans of these settings are, below the cache folder."""
    parts = [part for part in ("vae", "image_encoder", "image_processor") if frozen.has(config.model, part)]
    settings = (config.sizes, config.frames, config.rate, config.spans, config.references)
    return f"latents/{content_id(frozen.fingerprint(config.model, *parts), repr(settings))[:16]}"


def text_folder(config: DataConfig) -> str:
    """Where this model's texts are, below the cache folder."""
    return f"text/{frozen.fingerprint(config.model, 'tokenizer', 'text_encoder')[:16]}"


class SpanEncoder:
    """Encodes the clips of one file of `media/` and writes them to the cache; holds the VAE and CLIP."""

    def __init__(self, config: DataConfig) -> None:
        self.config, self.source, self.target = (
            config,
            Tables(config.dataset, config.dataset_version),
            Tables(config.cache_folder),
        )
        self.folder = latents_folder(config)
        self.vae = frozen.load(config.model, "vae", config.device)
        self.clip_encoder = self.image_processor = None
        if frozen.has(config.model, "image_encoder"):
            self.clip_encoder = frozen.load(config.model, "image_encoder", config.device)
            self.image_processor = frozen.load(config.model, "image_processor")

    @torch.no_grad()
    def __call__(self, unit: Mapping[str, Any]) -> dict[str, int]:
        """Encodes `clips` (list of `Clip`) of `file`; counts those that are ready and those that cannot be used."""
        wanted = {clip.clip_id: clip for clip in unit["clips"]}
        keypoints = self._keypoints(unit["clips"])
        rows, failed = [], 0
        for group in range(self.source.groups(unit["file"])):
            place = Place(unit["file"], group)
            for media in self.source.group(place, MEDIA_COLUMNS):
                if media["clip_id"] not in wanted:
                    continue
                try:
                    poses = self._poses(wanted[media["clip_id"]], keypoints[media["clip_id"]])
                    rows += self._spans(wanted[media["clip_id"]], poses, media, place)
                except (VideoError, ClipError) as error:
                    rows.append(failed_clip(wanted[media["clip_id"]], error))
                    failed += 1
        name = content_id(unit["file"], *wanted)
        self.target.write(f"{self.folder}/part-{name}.parquet", rows, SPANS)
        return {"ready": len(wanted) - failed, "failed": failed}

    def _keypoints(self, clips: Sequence[Clip]) -> dict[str, dict[str, Any]]:
        """The rows that hold the clips' keypoints, and those of their neighbours."""
        columns = ("clip_id", "keypoints", "keypoints_shape")
        groups = {clip.place for clip in clips}
        return {row["clip_id"]: row for place in sorted(groups) for row in self.source.group(place, columns)}

    def _poses(self, clip: Clip, row: Mapping[str, Any]) -> np.ndarray:
        """The clip's poses (N, 133, 3) at the model's rate, in pixels of the bucket's size."""
        if len(row["keypoints"] or b"") != 4 * clip.length * 133 * 3:
            raise ClipError(f"its keypoints are not of the shape ({clip.length}, 133, 3)")
        keypoints = unpack_keypoints(row)[clip.frames(self.config.rate)]
        return fit(clip.size, clip.bucket[:2]).keypoints(keypoints)

    def _spans(
        self, clip: Clip, poses: np.ndarray, media: Mapping[str, Any], place: Place
    ) -> list[dict[str, Any]]:
        bucket, frames = clip.bucket, clip.frames(self.config.rate)
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
                        "version": clip.version,
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
        columns = pack("latents", encode_frames(self.vae, video[None])[0].cpu().numpy())
        columns |= pack("reference_latents", encode_frames(self.vae, references[:, None]).cpu().numpy())
        if self.clip_encoder is not None:
            image = encode_image(self.image_processor, self.clip_encoder, references)
            columns |= pack("image", image.float().cpu().numpy())
        return columns


def failed_clip(clip: Clip, error: Exception) -> dict[str, Any]:
    """The row of a clip that cannot be trained on."""
    failure = {"error_type": type(error).__name__, "error_message": str(error)}
    return {"clip_id": clip.clip_id, "version": clip.version, **failure}


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


class TextEncoder:
    """Encodes captions and writes them to the cache; holds tokenizer and text encoder."""

    def __init__(self, config: DataConfig) -> None:
        self.target, self.folder = Tables(config.cache_folder), text_folder(config)
        self.tokenizer = frozen.load(config.model, "tokenizer")
        self.text_encoder = frozen.load(config.model, "text_encoder", config.device)

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
