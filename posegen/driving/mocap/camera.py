"""Where the points of a captured body are in a picture: a camera that goes along with the person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posegen.driving.mocap.body import Body
from posegen.driving.skeleton import KEYPOINT_INDEX

SEEN, HIDDEN = 0.95, 0.1
"""Confidences; a nose or an eye on the far side of the head is hidden."""
TALL = 0.66
"""The person's height as a share of the picture's: there is room for arms overhead, and jumps."""


@dataclass(frozen=True)
class Camera:
    """turn: radians around the person, to their left; at 0 it looks into the face of the first second. pitch: radians
    that it looks down. distance: in body heights, None without perspective. follow_s: seconds over which the person's
    way is smoothed into the camera's. size: (width, height) of its pictures in pixels."""

    turn: float = 0.0
    pitch: float = 0.1
    distance: float | None = 5.0
    follow_s: float = 1.0
    size: tuple[int, int] = (512, 768)

    def keypoints(self, body: Body, rate: float) -> np.ndarray:
        """The poses (T, 133, 3) float32 of a body at `rate` frames/s, in pixels."""
        hips = [KEYPOINT_INDEX[f"{side}_hip"] for side in ("left", "right")]
        centre = _smoothed(body.points[:, hips].mean(axis=1), self.follow_s * rate)
        centre[:, 1] = body.ground + 0.5
        axes = self._axes()
        places = (body.points - centre[:, None]) @ axes.T
        toward = body.outward @ axes[2]
        near: np.ndarray | float = 1.0
        if self.distance is not None:
            near = self.distance / np.maximum(self.distance - places[..., 2:], 0.2)
        width, height = self.size
        pixels = places[..., :2] * near * [1, -1] * TALL * height + [width / 2, height / 2]
        confidence = np.broadcast_to(np.where(body.seen, SEEN, 0.0), pixels.shape[:2]).copy()
        confidence[:, :5] = np.where(toward > -0.1, SEEN, HIDDEN)
        return np.concatenate([pixels, confidence[..., None]], axis=-1).astype(np.float32)

    def _axes(self) -> np.ndarray:
        """To the picture's right, up, and towards the camera, as rows (3, 3)."""
        turn, pitch = self.turn, self.pitch
        around = np.array([[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]])
        down = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        return down @ around


def _smoothed(path: np.ndarray, frames: float) -> np.ndarray:
    """A path (T, 3) averaged with a Gaussian of that standard deviation in frames; it stays where it ends."""
    reach = int(3 * frames)
    if reach < 1 or len(path) < 2:
        return path.copy()
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / frames) ** 2)
    padded = np.pad(path, ((reach, reach), (0, 0)), mode="edge")
    return np.stack([np.convolve(axis, weights / weights.sum(), mode="valid") for axis in padded.T], axis=1)
