"""Whether the place stays the same, for a camera that stands still.

Most of it is in the reference picture, so the network can copy it. What stood behind the person there it has never seen
and must invent, and segments that were made apart invent it apart.
"""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np

from posegen.evaluation.colour import lab

RIM = 0.03
"""By how much of the picture's height a person's mask is grown where background is measured."""
LEAST_PIXELS = 8
"""Of the unseen area that two segments must both show to be compared."""
MOST_GROUPS = 40
"""Compared with one another; of more, so many that are spread evenly."""


def grown(masks: np.ndarray) -> np.ndarray:
    """Masks (..., H, W) bool of a person with a rim, so that what is left is background surely."""
    pixels = max(1, round(RIM * masks.shape[-2]))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    rows = masks.reshape(-1, *masks.shape[-2:]).astype(np.uint8)
    return np.stack([cv2.dilate(mask, kernel) for mask in rows]).reshape(masks.shape) > 0


def background_error(
    video: np.ndarray, person: np.ndarray, place: np.ndarray, hidden: np.ndarray | bool = False
) -> np.ndarray:
    """How far a video's background is from what it should be: (T,) mean Lab distance; NaN for a frame without any.

    video: (T, H, W, 3) uint8; person: (T, H, W) bool, generously where somebody is. place: (H, W, 3) or (T, H, W, 3)
    uint8, such as the reference picture, the first frame or the true background; hidden: (H, W) bool, where somebody
    stands before it.
    """
    seen = ~person & ~np.asarray(hidden)
    distances = np.linalg.norm(lab(video) - lab(place), axis=-1) * seen
    pixels = seen.sum(axis=(1, 2))
    return np.where(pixels > 0, distances.sum(axis=(1, 2)) / np.maximum(pixels, 1), np.nan)


class Backgrounds:
    """The mean background of each of some groups of frames, such as segments, gathered frame by frame."""

    def __init__(self) -> None:
        self._sums: dict[int, np.ndarray] = {}
        self._counts: dict[int, np.ndarray] = {}

    def add(self, group: int, video: np.ndarray, person: np.ndarray) -> None:
        """Frames (T, H, W, 3) uint8 of a group, and where somebody is in them, (T, H, W) bool."""
        colours = np.where(person[..., None], 0, lab(video)).sum(axis=0)
        self._sums[group] = self._sums.get(group, np.zeros(())) + colours
        self._counts[group] = self._counts.get(group, np.zeros(())) + (~person).sum(axis=0)

    def means(self, group: int) -> np.ndarray:
        """A group's mean background (H, W, 3) in Lab, NaN where somebody stood in all of its frames."""
        counts = self._counts[group][..., None]
        return np.where(counts > 0, self._sums[group] / np.maximum(counts, 1), np.nan)

    def disagreement(self, area: np.ndarray) -> float:
        """Mean Lab distance of the groups' backgrounds in an area (H, W) bool, over all pairs of groups.

        NaN where no pair shows enough of it.
        """
        groups = sorted(self._sums)
        chosen = np.linspace(0, len(groups) - 1, min(len(groups), MOST_GROUPS)).round().astype(int)
        means = [self.means(groups[number])[area] for number in chosen]  # (pixels, 3) each
        pairs = [np.linalg.norm(one - other, axis=-1) for one, other in combinations(means, 2)]
        enough = [np.nanmean(pair) for pair in pairs if np.isfinite(pair).sum() >= LEAST_PIXELS]
        return float(np.mean(enough)) if enough else float("nan")
