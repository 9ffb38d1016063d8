"""The landmark networks of MediaPipe, each looking at one region of a frame: body, hand, face.

Where a network looks next follows from what it found (MediaPipe's rules), so each comes with its regions. The body
network's segmentation is cut off, which spares it two fifths of its time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from posegen.common.weights import fetch, mediapipe_model
from posegen.driving.poses.detection import Detection, Detector
from posegen.driving.poses.regions import Region, bounding, circle, level
from posegen.driving.poses.runtime import TFLiteModel, sigmoid

BODY_DETECTOR = mediapipe_model(
    "pose_detection/pose_detection.tflite", "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c"
)
BODY_LANDMARKS = mediapipe_model(
    "pose_landmark/pose_landmark_full.tflite",
    "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
)
HAND_CROP = mediapipe_model(
    "holistic_landmark/hand_recrop.tflite", "67d996ce96f9d36fe17d2693022c6da93168026ab2f028f9e2365398d8ac7d5d"
)
HAND_LANDMARKS = mediapipe_model(
    "hand_landmark/hand_landmark_full.tflite",
    "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
)
FACE_DETECTOR = mediapipe_model(
    "face_detection/face_detection_short_range.tflite",
    "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
)
FACE_LANDMARKS = mediapipe_model(
    "face_landmark/face_landmark.tflite", "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814"
)

HEATMAP_REACH = 3
"""How far around a landmark, in heatmap cells, its heatmap is averaged (MediaPipe's kernel of 7)."""

SURE = 0.75
"""Least detection score in a part of a frame: animals and things score up to this, people mostly above 0.9."""

WRISTS, PINKIES, INDEXES = (15, 16), (17, 18), (19, 20)


@dataclass(frozen=True)
class Body:
    """A body in a frame.

    points: (39, 3) x, y, z in pixels of the frame (z from the hips, negative towards the camera): 33 body points,
    then the two that make the next region, then four unused. confidence: (39,) visibility times presence, 0..1,
    and 0 off the frame. presence: 0..1, that there is a body at all.
    """

    points: np.ndarray
    confidence: np.ndarray
    presence: float

    def region(self) -> Region:
        """Where to look for this body in the next frame."""
        return circle(self.points[33, :2], self.points[34, :2]).scaled(1.25)

    def hand_region(self, side: int) -> Region:
        """Around the left (0) or right (1) hand, as far as wrist, little and index finger tell."""
        wrist, pinky, index = (self.points[group[side], :2] for group in (WRISTS, PINKIES, INDEXES))
        return circle((2 * index + pinky) / 3, wrist, -np.pi / 2).scaled(2.7, shift=-0.1)

    def face_region(self) -> Region:
        """Around the face, generously."""
        face = self.points[:11, :2]
        return replace(bounding(face), angle=level(face[5], face[2])).scaled(3)


class BodyNetwork:
    """Finds bodies in a frame, and the points of one body in a region."""

    def __init__(self) -> None:
        model = TFLiteModel(fetch(BODY_DETECTOR))
        self._detector = Detector(model, strides=[8, 16, 32], cells=[2, 2, 6], threshold=0.5)
        self._landmarks = TFLiteModel(fetch(BODY_LANDMARKS), outputs=[0, 1, 3])

    def find(self, frame: np.ndarray, part: Region | None = None) -> list[Region]:
        """Where bodies may be in a frame (H, W, 3) or, seen more surely, in a part of it, best first."""
        found = [d for d in self._detector(frame, part) if part is None or d.score >= SURE]
        return [circle(d.points[0], d.points[1]).scaled(1.25) for d in found]

    def __call__(self, frame: np.ndarray, region: Region) -> Body:
        """The body in a region of a frame (H, W, 3)."""
        side = self._landmarks.size
        values, presence, heatmap = self._landmarks(region.crop(frame, side))
        values = values.reshape(39, 5)
        values[:, :2] = refined(values[:, :2] / side, heatmap) * side
        depth = values[:, 2] * (region.size / side)
        points = np.column_stack([region.to_frame(values[:, :2], side), depth])
        visible, present = sigmoid(values[:, 3:].T)
        inside = (points[:, :2] >= 0) & (points[:, :2] < frame.shape[1::-1])
        return Body(points, visible * present * inside.all(1), float(presence[0]))


class HandNetwork:
    """The 21 points of a hand."""

    def __init__(self) -> None:
        self._refine = TFLiteModel(fetch(HAND_CROP))
        self._landmarks = TFLiteModel(fetch(HAND_LANDMARKS), outputs=[0, 1])

    def find(self, frame: np.ndarray, near: Region) -> Region:
        """The region of the hand within a rough one."""
        side = self._refine.size
        ends = self._refine(near.crop(frame, side))[0].reshape(2, 2)
        centre, rim = near.to_frame(ends, side)
        return circle(centre, rim, -np.pi / 2).scaled(1, shift=-0.1)

    def __call__(self, frame: np.ndarray, region: Region) -> tuple[np.ndarray, float]:
        """Points (21, 2) in pixels of the frame, wrist first, and the presence of a hand, 0..1."""
        side = self._landmarks.size
        values, presence = self._landmarks(region.crop(frame, side))
        return region.to_frame(values.reshape(21, 3)[:, :2], side), float(presence[0])

    @staticmethod
    def region(points: np.ndarray) -> Region:
        """Where to look for this hand in the next frame: the palm, turned so that the fingers point up."""
        knuckles = (points[5] + points[13]) / 4 + points[9] / 2
        upright = circle(points[0], knuckles)
        return bounding(points[PALM], upright.angle).scaled(2, shift=-0.1)


PALM = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]
"""The hand points that stay put when the fingers bend."""


class FaceNetwork:
    """The 468 points of a face."""

    def __init__(self) -> None:
        model = TFLiteModel(fetch(FACE_DETECTOR))
        self._detector = Detector(model, strides=[8, 16], cells=[2, 6], threshold=0.5)
        self._landmarks = TFLiteModel(fetch(FACE_LANDMARKS))

    def find(self, frame: np.ndarray, near: Region) -> Region | None:
        """The region of the face within a rough one, None where none is seen."""
        found: list[Detection] = self._detector(frame, near)
        if not found:
            return None
        points = found[0].points
        return replace(bounding(points), angle=level(points[0], points[1])).scaled(2, shift=-0.1)

    def __call__(self, frame: np.ndarray, region: Region) -> tuple[np.ndarray, float]:
        """Points (468, 2) in pixels of the frame and the presence of a face, 0..1."""
        side = self._landmarks.size
        values, logit = self._landmarks(region.crop(frame, side))
        points = region.to_frame(values.reshape(468, 3)[:, :2], side)
        return points, float(sigmoid(logit).item())

    @staticmethod
    def region(points: np.ndarray) -> Region:
        """Where to look for this face in the next frame."""
        return replace(bounding(points), angle=level(points[33], points[263])).scaled(1.5)


def refined(points: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Points moved to the centre of mass of their heatmaps nearby, where these are sure (0.5 or more) of them.

    points: (K, 2) x, y in 0..1 of the region. logits: (H, W, K). As MediaPipe's RefineLandmarksFromHeatmap.
    """
    height, width, count = logits.shape
    cells = (points * [width, height]).astype(int)
    reach = np.arange(-HEATMAP_REACH, HEATMAP_REACH + 1)
    x, y = cells[:, :1] + reach, cells[:, 1:] + reach  # (K, 7) each
    inside = ((x >= 0) & (x < width))[:, None, :] & ((y >= 0) & (y < height))[:, :, None]
    rows, columns = np.clip(y, 0, height - 1)[:, :, None], np.clip(x, 0, width - 1)[:, None, :]
    weights = sigmoid(logits[rows, columns, np.arange(count)[:, None, None]]) * inside  # (K, 7, 7)
    total = np.maximum(weights.sum((1, 2)), 1e-9)
    centre = np.stack([(weights.sum(1) * x).sum(1) / width, (weights.sum(2) * y).sum(1) / height], 1)
    on_map = (cells >= 0).all(1) & (cells < [width, height]).all(1)
    sure = on_map & (weights.max((1, 2)) >= 0.5)
    return np.where(sure[:, None], centre / total[:, None], points)
