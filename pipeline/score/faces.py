"""Faces of a whole frame, near and far: MediaPipe's full-range detector, as evidence of how many people there are.

The detector sees 192 x 192 pixels, so small faces of a large frame are searched in overlapping squares; a face that
several squares see is returned once.
"""

from __future__ import annotations

import numpy as np

from posegen.common.weights import fetch, mediapipe_model
from posegen.driving.poses.detection import Detection, Detector, merge
from posegen.driving.poses.regions import Region, letterbox
from posegen.driving.poses.runtime import TFLiteModel

FULL_RANGE = mediapipe_model(
    "face_detection/face_detection_full_range_sparse.tflite",
    "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
)


class FaceDetector:
    """Finds faces: boxes, scores, and six points (right eye, left eye, nose, mouth, right ear, left ear).

    threshold: least score, 0..1.
    """

    def __init__(self, threshold: float = 0.6) -> None:
        self._detector = Detector(TFLiteModel(fetch(FULL_RANGE)), strides=[4], cells=[1], threshold=threshold)

    def __call__(self, frame: np.ndarray, regions: list[Region] | None = None) -> list[Detection]:
        """Faces in a frame (H, W, 3) uint8 RGB, best first; in the whole of it, or in these regions."""
        regions = regions or [letterbox(frame.shape[1], frame.shape[0])]
        found = [face for region in regions for face in self._detector(frame, region)]
        if len(regions) == 1 or not found:
            return found
        boxes, points = np.stack([face.box for face in found]), np.stack([face.points for face in found])
        return merge(boxes, points, np.array([face.score for face in found]))
