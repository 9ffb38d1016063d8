"""MediaPipe's landmarks (33 body, 468 face, 21 a hand) as the 133 points of COCO-WholeBody.

Points of the same name are taken as they are. COCO's small toe has no counterpart: it is placed beside BlazePose's foot
index, outwards at a right angle to foot and shin in space, as seen along the view.
"""

from __future__ import annotations

import numpy as np

BODY = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
"""BlazePose's point for each of the 17 COCO body points."""

KNEES, ANKLES, HEELS, TOES = (25, 26), (27, 28), (29, 30), (31, 32)

# fmt: off
FACE = [
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,  # jaw, from image left
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,  # brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer lips
    78, 82, 13, 312, 308, 317, 14, 87,  # inner lips
]
"""The face mesh's vertex nearest to each of the 68 iBUG face points (the table in common use for dlib's order)."""
# fmt: on

TOE_BREADTH, TOE_SETBACK = 0.1, 0.15
"""Where the small toe lies from the foot index: outwards in shin lengths, back in lengths heel to foot index."""

LEFT_HAND, RIGHT_HAND, FACE_68 = slice(91, 112), slice(112, 133), slice(23, 91)


def body_keypoints(points: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """The 17 body and 6 foot points (23, 3) of BlazePose's 33.

    points: (33, 3) x, y, z in pixels of the frame. confidence: (33,) 0..1.
    """
    rows = np.column_stack([points[:, :2], confidence])
    feet = []
    for side in (0, 1):
        toe, heel = TOES[side], HEELS[side]
        little = np.append(_small_toe(points, side), confidence[toe])
        feet += [rows[toe], little, rows[heel]]
    return np.concatenate([rows[BODY], feet])


def _small_toe(points: np.ndarray, side: int) -> np.ndarray:
    """The tip (2,) of the left (0) or right (1) foot's small toe in the frame."""
    foot = points[TOES[side]] - points[HEELS[side]]
    shin = points[KNEES[side]] - points[ANKLES[side]]
    outwards = np.cross(shin, foot) * (1 if side == 0 else -1)
    outwards *= np.linalg.norm(shin) / max(float(np.linalg.norm(outwards)), 1e-6)
    return (points[TOES[side]] + TOE_BREADTH * outwards - TOE_SETBACK * foot)[:2]
