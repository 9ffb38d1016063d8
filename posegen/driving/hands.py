"""The hand video of a driving video: surface normals of the hands on black, where their person's poses are laid.

Frames are looked at no larger than Sapiens' networks see them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from posegen.driving.alignment import Placed, fit
from posegen.driving.driving_video import VideoFrames
from posegen.video import probe

MOST_SIDE = 1024  # pixels of a side of the frames that are looked at
CHUNK = 4  # frames looked at together

Hands = Callable[[np.ndarray], np.ndarray]
"""Frames (N, H, W, 3) uint8 RGB -> their hands' normals on black, likewise."""


def hands_on_picture(
    video: str | Path, rate: float, placed: Sequence[Placed], size: tuple[int, int], hands: Hands
) -> Iterator[np.ndarray]:
    """The hands in a video of `size` (width, height) at `rate` frames/s, a few frames (n, H, W, 3) uint8 at a time.

    placed: where the driving video's frames land, one span after the other, see `placements_on_picture`. Raises
    VideoError where the video cannot be read.
    """
    info = probe(video)
    smaller = min(1.0, MOST_SIDE / max(info.width, info.height))
    looked_at = max(1, round(info.width * smaller)), max(1, round(info.height * smaller))
    frames, whole = VideoFrames(video, rate, looked_at), fit(looked_at, (info.width, info.height))
    for span in placed:
        where = span.where.after(whole)
        for start in range(span.start, span.stop, CHUNK):
            yield where.pictures(hands(frames[np.arange(start, min(start + CHUNK, span.stop))]), size)
