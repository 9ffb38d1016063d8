"""Frames of a clip out of its row of `media/`, cut around the person to the size of the bucket it is trained in.

The picture is scaled until it fills the bucket, and what sticks out is cut off. A window that stays where it is for all
frames of a span is laid so that the person is in it, and where they are taller than it, their head.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from posegen.driving.alignment import Similarity, fit
from posegen.driving.skeleton import VISIBLE
from posegen.video import VideoInfo, probe, read_frames, sample_indices
from training.data.items import Bucket

MEDIA_COLUMNS = ("clip_id", "media", "media_start", "seconds", "rate")
STRAY = 0.02
"""Share of joints on each side that a window is not laid by: an estimator's slips, and what is rarely stretched out."""
ABOVE = 0.08
"""Of the window's height, kept free above the highest joints: hair, which has none."""


class ClipError(ValueError):
    """A clip cannot be trained on; the message says why."""


@contextmanager
def opened(media: Mapping[str, Any]) -> Iterator[VideoInfo]:
    """A row of `media/` as a video that can be read for as long as the block lasts."""
    with tempfile.NamedTemporaryFile(prefix="posegen-", suffix=".mp4") as file:
        file.write(media["media"])
        file.flush()
        yield probe(file.name)


@dataclass(frozen=True)
class Window:
    """The part of the scaled picture that is seen in the bucket: from pixel (left, top) on; scale: the keypoints'."""

    scale: float
    left: int
    top: int
    bucket: Bucket

    def keypoints(self, keypoints: np.ndarray) -> np.ndarray:
        """Poses (..., 133, 3) of the unscaled picture in the bucket's pixels; joints outside of it are unseen."""
        # Pixel centres have whole coordinates, as in `fit`.
        shift = (self.scale - 1) / 2 - self.left, (self.scale - 1) / 2 - self.top
        moved = Similarity(self.scale, shift).keypoints(keypoints)
        x, y = moved[..., 0], moved[..., 1]
        inside = (x > -0.5) & (x < self.bucket.width - 0.5) & (y > -0.5) & (y < self.bucket.height - 0.5)
        moved[..., 2] = np.where(inside | np.isnan(x), moved[..., 2], 0)
        return moved

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """The window of the scaled picture (height, width, 3)."""
        return picture[self.top : self.top + self.bucket.height, self.left : self.left + self.bucket.width]


def person_window(poses: np.ndarray, size: tuple[int, int], bucket: Bucket) -> Window:
    """The one window for all frames with these poses (F, 133, 3), in pixels of pictures of size (width, height).

    Its middle is that of the joints which are seen, as far as the picture reaches. Where it is too low for the whole
    person, their head is in it. Without a joint it is the picture's middle.
    """
    scale = fit(size, bucket[:2]).scale
    room = [max(0, round(side * scale) - wanted) for side, wanted in zip(size, bucket[:2], strict=True)]
    left, top = room[0] / 2, room[1] / 2
    seen = poses[poses[..., 2] >= VISIBLE][:, :2] * scale
    if len(seen):
        (first, highest), (last, lowest) = np.quantile(seen, (STRAY, 1 - STRAY), axis=0)
        highest -= ABOVE * bucket.height
        left = (first + last - bucket.width) / 2
        top = min((highest + lowest - bucket.height) / 2, highest)
    left, top = (round(min(max(0.0, start), most)) for start, most in zip((left, top), room, strict=True))
    return Window(scale, left, top, bucket)


def read_clip(
    info: VideoInfo, media: Mapping[str, Any], frames: np.ndarray, windows: Sequence[Window]
) -> np.ndarray:
    """The clip's frames of these numbers, in any order, each cut by its window: (n, H, W, 3) uint8."""
    if media["media_start"] >= info.duration:
        raise ClipError(f"its video ends at {info.duration:.3f} s, before the clip begins")
    stop = min(media["media_start"] + media["seconds"], info.duration)
    shown = sample_indices(info, media["media_start"], stop, media["rate"])
    if frames.max() >= len(shown):
        raise ClipError(f"its video has {len(shown)} frames, but there are poses of frame {frames.max()}")
    distinct, place = np.unique(shown[frames], return_inverse=True)
    scale = fit((info.width, info.height), windows[0].bucket[:2]).scale
    scaled = max(1, round(info.width * scale)), max(1, round(info.height * scale))
    pictures = np.concatenate(list(read_frames(info, distinct, scaled)))
    return np.stack([window.cut(pictures[at]) for window, at in zip(windows, place, strict=True)])
