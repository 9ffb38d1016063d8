"""People who stand calmly: how a picture of somebody shows them, and how a clip can begin.

Who stands takes over the scale, the ground and the middle of the poses that they are to be seen beside.
"""

from __future__ import annotations

import numpy as np

from mini_model.puppets.figure import measure
from mini_model.puppets.motions import SIZE, standing
from posegen.driving.skeleton import FEET, KEYPOINT_INDEX, standing_height

TRUNK = [KEYPOINT_INDEX[f"{side}_{joint}"] for joint in ("shoulder", "hip") for side in ("left", "right")]
CALM_SHARE = 1 / 3
"""Of a clip's calm start: in the rest of it the person moves over into the motion."""


def standing_like(seed: int, poses: np.ndarray) -> np.ndarray:
    """The seed's calm pose (133, 3) in the scale of poses (133, 3) or (T, 133, 3), on their ground, where they are."""
    pose = standing(seed).astype(np.float64)
    poses = poses.reshape(-1, *pose.shape)
    scale = float(np.median(measure(poses[..., :2]).height) / standing_height(pose))
    ground = np.median(poses[:, FEET, 1].max(axis=1))
    pose[:, :2] = scale * pose[:, :2] + (np.median(poses[:, TRUNK, 0].mean(axis=1)), ground)
    return pose


def standing_in_the_middle(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The seed's calm pose (133, 3) in the middle of a picture of size (width, height), from head to foot."""
    width, height = size
    pose = standing(seed).astype(np.float64)
    pose[:, :2] = 0.88 * height / 1.06 * pose[:, :2] + (width / 2, 0.95 * height)
    return pose


def calm_start(poses: np.ndarray, frames: int, seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The poses (T, 133, 3) with another beginning: for so many frames the person first stands, then moves over.

    size: (width, height) of their picture; outside it the confidence is 0.
    """
    calm = standing_like(seed, poses)
    share = np.clip((np.arange(len(poses)) / max(frames, 1) - CALM_SHARE) / (1 - CALM_SHARE), 0, 1)
    share = (share * share * (3 - 2 * share))[:, None, None]  # starts and ends slowly
    begun = (1 - share) * calm + share * poses
    inside = ((begun[..., :2] >= 0) & (begun[..., :2] <= np.array(size) - 1)).all(axis=-1)
    begun[..., 2] *= inside
    return np.where(np.arange(len(poses))[:, None, None] < frames, begun, poses).astype(np.float32)
