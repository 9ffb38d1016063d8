"""Boxes of people: suppression of duplicates, and the ways between a frame and what a network sees of it.

Boxes are x0, y0, x1, y1 in pixels; a window keeps the picture's proportions by growing the box to the network's aspect
ratio, never by squeezing what is in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from posegen.driving.poses.regions import overlap

LETTERBOX_GREY = 114
PADDING = 1.25  # how much top-down networks see of a box, as in their training


def suppress(boxes: np.ndarray, scores: np.ndarray, limit: float) -> np.ndarray:
    """Indices of the boxes (N, 4) that no better one overlaps by an IoU above `limit`, best first."""
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        kept.append(left[0])
        left = left[1:][overlap(boxes[left[0]], boxes[left[1:]]) <= limit]
    return np.array(kept, dtype=np.intp)


def letterbox(frame: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """The frame (H, W, 3) uint8 in the top left corner of a grey (height, width, 3), as large as fits.

    size: (width, height). Returns the picture and its scale: picture pixels a frame pixel.
    """
    scale = min(size[0] / frame.shape[1], size[1] / frame.shape[0])
    width, height = max(1, int(frame.shape[1] * scale)), max(1, int(frame.shape[0] * scale))
    picture = np.full((size[1], size[0], 3), LETTERBOX_GREY, np.uint8)
    picture[:height, :width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    return picture, scale


@dataclass(frozen=True)
class Window:
    """An upright part of a frame, seen at `size` (width, height) pixels.

    origin: (2,) the frame position of the window's pixel (0, 0). scale: (2,) window pixels a frame pixel.
    """

    origin: np.ndarray
    scale: np.ndarray
    size: tuple[int, int]

    @classmethod
    def around(cls, box: np.ndarray, size: tuple[int, int], unbiased: bool = False) -> Window:
        """The window on a box (4,), grown by 1.25 and to the aspect ratio of `size`, with the same centre.

        unbiased: lengths are counted between the first and the last pixel's centres (size - 1), as in UDP
        (Huang et al. 2020, arXiv 1911.07524), instead of in pixels (size).
        """
        width, height = size
        extent = (box[2:] - box[:2]).astype(np.float64) * PADDING
        extent = np.maximum(extent, [extent[1] * width / height, extent[0] * height / width])
        span = np.array(size, np.float64) - unbiased
        return cls((box[:2] + box[2:]) / 2 - extent / 2, span / np.maximum(extent, 1e-6), size)

    def crop(self, frame: np.ndarray) -> np.ndarray:
        """The window's picture (height, width, 3) of a frame (H, W, 3) uint8; black beyond the frame."""
        shift = -self.origin * self.scale
        matrix = np.array([[self.scale[0], 0, shift[0]], [0, self.scale[1], shift[1]]])
        return cv2.warpAffine(frame, matrix, self.size, flags=cv2.INTER_LINEAR)

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) in pixels of the window, in pixels of the frame."""
        return self.origin + points / self.scale
