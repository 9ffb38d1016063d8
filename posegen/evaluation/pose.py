"""Whether the person moves as asked: joints found in the video against those that drove it.

A frame in which nobody is found counts as wrong in every joint, so a video that loses the person cannot score well on
what is left of them. Hands are counted apart, being small and hard.
"""

from __future__ import annotations

import numpy as np

from posegen.driving.skeleton import (
    BODY,
    FEET,
    KEYPOINT_INDEX,
    LEFT_HAND,
    RIGHT_HAND,
    VISIBLE,
    standing_height,
)

_HAND = [29, 22, 35, 37, 47, 26, 25, 24, 35, 18, 24, 22, 26, 17, 21, 21, 32, 20, 19, 22, 31]
# fmt: off
SIGMAS = np.array([
    26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89,  # body
    68, 66, 66, 92, 94, 94,  # feet
    42, 43, 44, 43, 40, 35, 31, 25, 20, 23, 29, 32, 37, 38, 43, 41, 45,  # jaw
    13, 12, 11, 11, 12, 12, 11, 11, 13, 15, 9, 7, 7, 7, 12, 9, 8, 16, 10, 17,  # brows, nose
    11, 9, 11, 9, 7, 13, 8, 11, 12, 10, 34, 8,  # eyes
    8, 9, 8, 8, 7, 10, 8, 9, 9, 9, 7, 7, 8, 11, 8, 8, 8, 10, 8,  # lips
    *_HAND, *_HAND,
]) / 1000
# fmt: on
"""Of the 133 points, from the evaluation code of COCO-WholeBody (Jin et al., ECCV 2020)."""

PARTS: dict[str, list[int]] = {
    "body": [*range(BODY.start, FEET.stop)],
    "hands": [*range(LEFT_HAND.start, LEFT_HAND.stop), *range(RIGHT_HAND.start, RIGHT_HAND.stop)],
}
AREA = 0.53 * 0.26
"""A person's area, as COCO means it, in squares of their standing height: mean area over box (COCO's evaluation takes
0.53 where it has boxes alone), and a box about a quarter as wide as high."""
NEAR = 0.2
"""Of the length of the torso, within which a joint counts as right (PCK at 0.2)."""
_TORSOS = [[KEYPOINT_INDEX[f"{side}_shoulder"], KEYPOINT_INDEX[f"{side}_hip"]] for side in ("left", "right")]


def oks(found: np.ndarray, asked: np.ndarray, area: float, part: slice | list[int]) -> float:
    """Object keypoint similarity 0..1 of one person's points (133, >= 2) to those asked for, as in COCO.

    Counted are the points of a part that `asked` (133, 3) has with a confidence above 0; one that is NaN counts as
    infinitely far. area: of the person in square pixels. NaN where none is counted.
    """
    labelled = asked[part, 2] > 0
    if not labelled.any():
        return float("nan")
    squared = ((found[part, :2] - asked[part, :2]) ** 2).sum(1)
    similarity = np.exp(-squared / (2 * area * (2 * SIGMAS[part]) ** 2))
    return float(np.nan_to_num(similarity)[labelled].mean())


def pose_figures(found: np.ndarray, asked: np.ndarray) -> dict[str, np.ndarray]:
    """For each figure its values (T,) of poses (T, 133, 3), NaN where the pose asked for shows nothing to count.

    found: what an estimator sees in the video, NaN in frames where it sees nobody. Figures are oks and pck of body and
    of hands, joint_error of the body (mean distance in shares of standing height, of frames with somebody) and missed
    (1 where somebody should be seen and is not).
    """
    rows = [_frame_figures(there, wanted) for there, wanted in zip(found, asked, strict=True)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _frame_figures(found: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    asked = np.where(asked[:, 2:] >= VISIBLE, asked, 0)
    height, torso = standing_height(asked), _torso(asked)
    distances = np.linalg.norm(found[:, :2] - asked[:, :2], axis=1)
    missed = bool(np.isnan(found).any())
    figures = {}
    for name, part in PARTS.items():
        counted = asked[part, 2] > 0
        whole = height > 0 and counted.any()
        figures[f"oks_{name}"] = oks(found, asked, AREA * height**2, part) if whole else np.nan
        right = np.nan_to_num(distances[part], nan=np.inf)[counted] <= NEAR * torso
        figures[f"pck_{name}"] = float(right.mean()) if whole and torso > 0 else np.nan
    body = PARTS["body"]
    shown = asked[body, 2] > 0
    figures["joint_error"] = (
        float(distances[body][shown].mean() / height) if height > 0 and not missed else np.nan
    )
    figures["missed"] = float(missed) if shown.any() else np.nan
    return figures


def _torso(pose: np.ndarray) -> float:
    """The longer of the shoulder-hip distances that are seen; where neither is, their share of standing height."""
    lengths = [
        np.linalg.norm(pose[start, :2] - pose[end, :2])
        for start, end in _TORSOS
        if min(pose[start, 2], pose[end, 2]) > 0
    ]
    return float(max(lengths)) if lengths else 0.288 * standing_height(pose)
