"""A video at another rate: frames are shown again or left out, so movement keeps its speed and sound stays in step.

Nothing is blended: every frame of the result is one of the video's own.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from posegen.video.encode import MAX_DENOMINATOR

LOWEST, HIGHEST = 1.0, 240.0
"""Frames/s."""


def check_rate(wanted: float | Fraction) -> None:
    """Raises ValueError for a rate, in frames/s, that no video is written at."""
    if not LOWEST <= wanted <= HIGHEST:
        raise ValueError(
            f"A video of {float(wanted):g} frames/s is not written; choose {LOWEST:g} to {HIGHEST:g}."
        )


class RateChange:
    """Which frames of a video at `rate` are on screen at `wanted` frames/s, asked for chunk by chunk from the start.

    Frame k of the result is the one on screen at k / wanted seconds, for all k before the video's end. Raises
    ValueError where `wanted` is not between 1 and 240.
    """

    def __init__(self, rate: float | Fraction, wanted: float | Fraction) -> None:
        check_rate(wanted)
        # Exact as `save_video` writes them, so that an hour of frames does not drift from the clock.
        exact = [Fraction(value).limit_denominator(MAX_DENOMINATOR) for value in (rate, wanted)]
        self._step = exact[0] / exact[1]
        self._read = 0

    def shown(self, count: int) -> np.ndarray:
        """Of the next `count` frames, the indices (n,) of those that are written, in order and repeated."""
        first, end = self._read, self._read + count
        self._read = end
        moments = range(-(-first // self._step), -(-end // self._step))
        return np.array([moment * self._step // 1 - first for moment in moments], np.intp)
