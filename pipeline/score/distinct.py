"""How many different pictures a second a clip shows, whatever rate its file states.

A slideshow of two pictures a second that was encoded again at 30 frames/s has 30 different frames a second, as coding
noise changes each. But all of its change comes at once: with c the change from frame to frame, (sum c)^2 / sum c^2 is
the number of frames that share the change of a second equally, 2 there, and in film nearly its rate.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from pipeline.score.measures import People, thinned

WIDTH = 64
"""Columns of the pictures that are compared: averaging over so many pixels takes most coding noise away."""
LEAST_CHANGE = 0.02
"""Largest mean change of a second's frames, of 255, up to which the picture stands still."""


class DistinctPictures:
    """distinct_rate: different pictures a second, median of the clip's whole seconds in which anything moves; None
    where nothing does."""

    def __init__(self) -> None:
        self.last: np.ndarray | None = None
        self.changes: list[tuple[float, float]] = []  # second of the clip, mean change of 255

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        step = max(1, frames.shape[2] // (4 * WIDTH))
        size = (WIDTH, max(1, round(WIDTH * frames.shape[1] / frames.shape[2])))
        for frame, time in zip(frames, times.tolist(), strict=True):
            part = thinned(frame, step)
            grey = cv2.resize(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
            if self.last is not None:
                self.changes.append((time, float(cv2.absdiff(grey, self.last).mean())))
            self.last = grey

    def result(self) -> dict[str, Any]:
        times, changes = np.array(self.changes).reshape(-1, 2).T
        rates = [rate for second in _seconds(times) if (rate := _rate(changes[second])) is not None]
        return {"distinct_rate": float(np.median(rates)) if rates else None}


def _seconds(times: np.ndarray) -> list[np.ndarray]:
    """Masks (N,) of the changes in each whole second."""
    whole = int(times[-1] + 0.1) if len(times) else 0
    return [(times >= second) & (times < second + 1) for second in range(whole)]


def _rate(changes: np.ndarray) -> float | None:
    """Pictures that share the change of one second equally; None where there is none."""
    if not len(changes) or changes.max() < LEAST_CHANGE:
        return None
    return float(changes.sum() ** 2 / (changes**2).sum())
