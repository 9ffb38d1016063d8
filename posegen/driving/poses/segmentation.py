"""Which pixels are a human being: MediaPipe's selfie segmentation, run on a square around a person.

The body network has a segmentation of its own, but this one is to be a second opinion on that network.
"""

from __future__ import annotations

import numpy as np

from posegen.common.weights import fetch, mediapipe_model
from posegen.driving.poses.regions import Region
from posegen.driving.poses.runtime import TFLiteModel

SELFIE = mediapipe_model(
    "selfie_segmentation/selfie_segmentation.tflite",
    "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
)
MARGIN = 1.2
"""Side of the square over the longer side of the person's box."""


class PersonSegmenter:
    """The probability of a human being at points of a frame."""

    def __init__(self) -> None:
        self._model = TFLiteModel(fetch(SELFIE))

    def at(self, frame: np.ndarray, box: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Probabilities (K,) at points (K, 2) in pixels of a frame (H, W, 3) uint8 RGB, seen around a box (4,)."""
        x, y = (box[:2] + box[2:]) / 2
        region = Region(float(x), float(y), MARGIN * float(max(box[2:] - box[:2])))
        side = self._model.size
        human = self._model(region.crop(frame, side))[0][..., 0]  # (side, side)
        pixels = (points - (region.x, region.y)) * (side / region.size) + side / 2
        columns, rows = np.clip(pixels, 0, side - 1).astype(int).T
        return human[rows, columns]
