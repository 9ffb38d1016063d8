"""How much of a person a picture shows: one of close-up, half-body, full-body and distant.

A joint counts where it is seen in most poses, so one frame in which the feet leave the picture does not make another
framing. The boundaries are those of captions in film: ankles seen is a full body, no hip and no elbow a close-up; who
is smaller than about a third of the picture's height is distant.
"""

from __future__ import annotations

import numpy as np

from posegen.driving.skeleton import FACE, KEYPOINT_INDEX, VISIBLE


def framing_of(poses: np.ndarray, size: tuple[int, int]) -> str:
    """The framing of poses (n, 133, 3) in pixels of pictures of `size` (width, height); "distant" for no poses."""
    if not len(poses):
        return "distant"
    inside = np.all((poses[..., :2] >= 0) & (poses[..., :2] < size), axis=2)
    shown = ((poses[..., 2] >= VISIBLE) & inside).mean(axis=0) > 0.5  # (133,)
    height = float(np.median([_extent(pose) for pose in np.where(inside[..., None], poses, 0)])) / size[1]
    if _any(shown, "ankle"):
        return "full-body" if height > 0.35 else "distant"
    if _face_height(poses, shown) / size[1] > 0.25 or not (_any(shown, "hip") or _any(shown, "elbow")):
        return "close-up"
    return "half-body" if height > 0.3 else "distant"


def _face_height(poses: np.ndarray, shown: np.ndarray) -> float:
    """Median height of the face in pixels; 0 where it is not shown."""
    rows = poses[:, FACE, 1]
    return float(np.median(np.ptp(rows, axis=1))) if shown[FACE].any() else 0.0


def _extent(pose: np.ndarray) -> float:
    """Height in pixels of the visible points of one pose (133, 3)."""
    rows = pose[pose[:, 2] >= VISIBLE, 1]
    return float(np.ptp(rows)) if len(rows) else 0.0


def _any(shown: np.ndarray, joint: str) -> bool:
    return bool(shown[KEYPOINT_INDEX[f"left_{joint}"]] or shown[KEYPOINT_INDEX[f"right_{joint}"]])
