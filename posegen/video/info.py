"""One video file's facts, and which of its frames are on screen at an even rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

TOLERANCE = 0.0015  # seconds; Matroska and FLV round timestamps to 0.001, so their distances err by that much


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """What `probe` finds out about one file; picklable, so that it can travel to where the frames are read.

    width, height: displayed size in pixels: upright, with square pixels. Oblong pixels are made square by
        shrinking their longer side, never by enlarging the shorter one.
    frame_times: (N,) float64, seconds from the first frame, strictly increasing.
    duration: end of the last frame, seconds.
    rotation, mirrored: stored pictures are turned clockwise by 0, 90, 180 or 270 degrees, then flipped left
        to right if mirrored; `read_frames` does so.
    stamps: (N,) int64, what tells frames apart: timestamps, or, if `numbered`, packets' places in the file.
    key_frames: (K,) int64, the frames that decoding can start at; the first is 0.
    """

    path: str
    width: int
    height: int
    frame_times: np.ndarray
    duration: float
    rotation: int
    mirrored: bool
    codec: str
    stamps: np.ndarray
    numbered: bool
    key_frames: np.ndarray

    @property
    def rate(self) -> float:
        """Mean frames per second."""
        return len(self.frame_times) / self.duration


def repaired_times(shown: Sequence[int | None], unit: Fraction, period: float) -> np.ndarray:
    """Turns timestamps of N frames in display order into (N,) seconds from the first, strictly increasing.

    `unit` is a tick in seconds. The known timestamps are put in ascending order; missing and doubled ones are
    spread evenly between their neighbours; those before or after all known ones follow at their mean distance,
    or at `period` seconds if there is but one.
    """
    count = len(shown)
    ticks = np.array([np.nan if stamp is None else stamp for stamp in shown], np.float64)
    known = np.flatnonzero(~np.isnan(ticks))
    values = np.sort(ticks[known])
    distinct = np.diff(values, prepend=-np.inf) > 0
    known, values = known[distinct], values[distinct]
    if len(known) == 0:
        return np.arange(count) * period
    one_each = (values[-1] - values[0]) / max(1, known[-1] - known[0])
    step = one_each or period / float(unit)
    known_and_ends = [-1, *known, count]
    values_and_ends = [values[0] - step * (known[0] + 1), *values, values[-1] + step * (count - known[-1])]
    ticks = np.interp(np.arange(count), known_and_ends, values_and_ends)
    return (ticks - ticks[0]) * unit.numerator / unit.denominator


def sample_indices(info: VideoInfo, start: float, stop: float, rate: float) -> np.ndarray:
    """Returns the (K,) int64 indices of the frames on screen at start + k / rate, for all k before `stop`.

    `start` and `stop` in seconds, `rate` in frames/s. Moments closer than 1.5 ms count as one, since some
    containers round to milliseconds: so a Matroska file of 30 frames/s sampled at 30 gives each frame once.
    Raises ValueError unless 0 <= start < stop <= duration and rate > 0.
    """
    if not (0 <= start < stop <= info.duration + TOLERANCE and rate > 0):
        raise ValueError(
            f"{info.path}: cannot sample {start} to {stop} s at {rate} frames/s of {info.duration:.3f} s; "
            "give 0 <= start < stop <= duration and a positive rate."
        )
    count = max(1, int(np.ceil((stop - start - TOLERANCE) * rate)))
    moments = start + np.arange(count) / float(rate)
    return np.searchsorted(info.frame_times, moments + TOLERANCE, side="right") - 1
