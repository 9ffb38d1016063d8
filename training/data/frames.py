"""Frames of a clip out of its row of `media/`, at the size of the bucket it is trained in."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from posegen.driving.alignment import fit
from posegen.video import VideoInfo, probe, read_frames, sample_indices
from training.data.items import Bucket

MEDIA_COLUMNS = ("clip_id", "media", "media_start", "seconds", "rate")


class ClipError(ValueError):
    """A clip cannot be trained on; the message says why."""


@contextmanager
def opened(media: Mapping[str, Any]) -> Iterator[VideoInfo]:
    """A row of `media/` as a video that can be read for as long as the block lasts."""
    with tempfile.NamedTemporaryFile(prefix="posegen-", suffix=".mp4") as file:
        file.write(media["media"])
        file.flush()
        yield probe(file.name)


def read_clip(info: VideoInfo, media: Mapping[str, Any], frames: np.ndarray, bucket: Bucket) -> np.ndarray:
    """The clip's frames of these numbers, in any order, as (n, H, W, 3) uint8 of the bucket's size, cut to fill it."""
    if media["media_start"] >= info.duration:
        raise ClipError(f"its video ends at {info.duration:.3f} s, before the clip begins")
    stop = min(media["media_start"] + media["seconds"], info.duration)
    shown = sample_indices(info, media["media_start"], stop, media["rate"])
    if frames.max() >= len(shown):
        raise ClipError(f"its video has {len(shown)} frames, but there are poses of frame {frames.max()}")
    distinct, place = np.unique(shown[frames], return_inverse=True)
    scale = fit((info.width, info.height), bucket[:2]).scale
    width, height = (max(1, round(side * scale)) for side in (info.width, info.height))
    left, top = (width - bucket.width) // 2, (height - bucket.height) // 2
    pictures = np.concatenate(list(read_frames(info, distinct, (width, height))))
    return pictures[place, top : top + bucket.height, left : left + bucket.width]
