"""Who is where in each frame of a clip: boxes of people, followed from frame to frame.

A person goes on where the estimator says so, or where boxes of neighbouring frames overlap. One who was lost and found
again elsewhere is another person to the planner, which costs a crop at worst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.score.person import COUNTS_FROM, LONGEST_GAP_S, SAME_BOX
from posegen.driving.poses.regions import overlap

FLICKER_S = 0.5
"""Estimators see people for a moment who are none, or see one person twice; a track this short counts for nothing.
Where it was somebody, the rules for the finished crop find them."""

Seen = tuple[np.ndarray, int]
"""A box (4,) and the estimator's number of the person, -1 where it gives none."""
Find = Callable[[np.ndarray], list[list[Seen]]]
"""Frames (N, H, W, 3) uint8 RGB that continue a clip -> the people in each."""


@dataclass
class _Track:
    """A person's latest box, when it was seen, and under which number."""

    box: np.ndarray
    time: float
    number: int


def follow(seen: Iterable[list[Seen]], times: np.ndarray) -> np.ndarray:
    """Boxes (P, T, 4) of the people of T frames, in the order they were found; NaN where one is not seen.

    seen: of each frame. times: (T,) seconds, ascending.
    """
    tracks: list[_Track] = []
    found: list[dict[int, np.ndarray]] = []
    for people, time in zip(seen, times.tolist(), strict=True):
        free = [n for n, track in enumerate(tracks) if time - track.time <= LONGEST_GAP_S]
        here: dict[int, np.ndarray] = {}
        for box, number in people:
            index = _same(box, number, tracks, free)
            if index is None:
                tracks.append(_Track(box, time, number))
                index = len(tracks) - 1
            else:
                free.remove(index)
                tracks[index] = _Track(box, time, number)
            here[index] = box
        found.append(here)
    boxes = np.full((len(tracks), len(found), 4), np.nan, np.float32)
    for frame, here in enumerate(found):
        for index, box in here.items():
            boxes[index, frame] = box
    return boxes


def _same(box: np.ndarray, number: int, tracks: list[_Track], free: list[int]) -> int | None:
    """Which of the free tracks this person continues, if any."""
    for index in free:
        if number >= 0 and tracks[index].number == number:
            return index
    if not free:
        return None
    near = overlap(box, np.array([tracks[index].box for index in free]))
    best = int(near.argmax())
    return free[best] if near[best] >= SAME_BOX else None


def who_count(boxes: np.ndarray, rate: float) -> np.ndarray:
    """The tracks (P, T, 4), of so many frames/s, of people who count: seen for a while, and two fifths as tall as the
    tallest, as everywhere in curation."""
    boxes = boxes[(~np.isnan(boxes[:, :, 0])).sum(axis=1) >= FLICKER_S * rate]
    if not len(boxes):
        return boxes
    heights = np.nanmedian(boxes[:, :, 3] - boxes[:, :, 1], axis=1)
    return boxes[heights >= COUNTS_FROM * heights.max()]


def most_at_once(boxes: np.ndarray, share: float = 0.975) -> int:
    """How many people (P, T, 4) are in the picture at most, in that share of the frames."""
    counts = (~np.isnan(boxes[:, :, 0])).sum(axis=0)
    return int(np.quantile(counts, share, method="higher")) if counts.size else 0
