"""The pixels of one person: BlazePose's own segmentation, for evidence that a tracked body is one.

Choices made: this is the body network with its segmentation alone, run when asked, as it doubles the network's time;
on bodies in a scene it is sharper than MediaPipe's selfie segmentation, which is made for people close by.
"""

from __future__ import annotations

import cv2
import numpy as np

from posegen.poses.landmarks import BODY_LANDMARKS
from posegen.poses.regions import Region
from posegen.poses.runtime import TFLiteModel, sigmoid
from posegen.weights import fetch


class PersonSegmenter:
    """Tells a person's pixels from all others, other people's included."""

    def __init__(self) -> None:
        self._model = TFLiteModel(fetch(BODY_LANDMARKS), outputs=[2])

    def __call__(self, frame: np.ndarray, region: Region) -> np.ndarray:
        """(H, W) float32 probability, 0..1, of each pixel of a frame (H, W, 3) uint8 RGB; 0 outside the region.

        region: of the person, as in `TrackedPerson.region`.
        """
        side = self._model.size
        (logits,) = self._model(region.crop(frame, side))
        size = (frame.shape[1], frame.shape[0])
        return cv2.warpAffine(sigmoid(logits[..., 0]), region.matrix(side), size)
