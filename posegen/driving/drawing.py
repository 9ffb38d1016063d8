"""The pose picture that the network was trained with, and the pixels that a person covers.

The picture follows the authors' drawing to the pixel, truncations and all, as the network knows no other: body links,
then body and feet joints, then each hand's joints and lines; the face is not drawn. Sizes are (width, height) in
pixels, pictures (height, width, 3) uint8 RGB.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from posegen.driving.skeleton import (
    FACE,
    FEET,
    KEYPOINT_INDEX,
    LEFT_HAND,
    RIGHT_HAND,
    VISIBLE,
    standing_height,
    to_openpose,
)

HAND_VISIBLE = 0.7
LINK_HALF_WIDTH = JOINT_RADIUS = 4
HAND_WIDTH = 2

# Trap: the published palette is written as RGB, but the authors gave their pictures to a writer that takes
# BGR, so every training video has red and blue exchanged. The colours below are what the network saw, in RGB:
# the neck to right shoulder link, say, is pure red in the palette and pure blue here.
BODY_LINKS: dict[
    tuple[int, int], tuple[int, int, int]
] = {  # ends in OpenPose order -> colour, in drawing order
    (1, 2): (0, 0, 255),
    (1, 5): (0, 85, 255),
    (2, 3): (0, 170, 255),
    (3, 4): (0, 255, 255),
    (5, 6): (0, 255, 170),
    (6, 7): (0, 255, 85),
    (1, 8): (0, 255, 0),
    (8, 9): (85, 255, 0),
    (9, 10): (170, 255, 0),
    (1, 11): (225, 255, 0),
    (11, 12): (255, 170, 0),
    (12, 13): (255, 85, 0),
    (1, 0): (255, 0, 0),
    (0, 14): (170, 0, 255),
    (14, 16): (255, 0, 170),
    (0, 15): (255, 0, 255),
    (15, 17): (170, 0, 255),
    (13, 18): (0, 255, 0),
    (13, 19): (0, 255, 0),
    (13, 20): (0, 255, 0),
    (10, 21): (0, 128, 255),
    (10, 22): (0, 128, 255),
    (10, 23): (0, 128, 255),
}
JOINT_COLOURS: list[tuple[int, int, int]] = [  # of the first 24 points in OpenPose order
    (0, 0, 255),
    (0, 85, 255),
    (0, 170, 255),
    (0, 255, 255),
    (0, 255, 170),
    (0, 255, 85),
    (0, 255, 0),
    (85, 255, 0),
    (170, 255, 0),
    (255, 255, 0),
    (255, 170, 0),
    (255, 85, 0),
    (255, 0, 0),
    (255, 0, 85),
    (255, 0, 170),
    (255, 0, 255),
    (170, 0, 255),
    (85, 0, 255),
    *[(0, 128, 255)] * 6,
]
# The hands do not use the palette's colours but a wheel of 20 hues, from the thumb's root to the little
# finger's tip.
HAND_COLOURS: list[tuple[int, int, int]] = [
    (0, 0, 255),
    (0, 77, 255),
    (0, 153, 255),
    (0, 229, 255),
    (0, 255, 204),
    (0, 255, 128),
    (0, 255, 51),
    (25, 255, 0),
    (102, 255, 0),
    (179, 255, 0),
    (255, 255, 0),
    (255, 178, 0),
    (255, 102, 0),
    (255, 25, 0),
    (255, 0, 51),
    (255, 0, 128),
    (255, 0, 204),
    (230, 0, 255),
    (153, 0, 255),
    (77, 0, 255),
]
# Ends among a hand's 21 points: from the root along each of the five fingers.
HAND_LINKS = [
    (0 if joint == 0 else 4 * finger + joint, 4 * finger + joint + 1)
    for finger in range(5)
    for joint in range(4)
]


def draw(keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pose picture (height, width, 3) uint8 RGB of one person on black.

    keypoints: (133, 3) x, y in pixels of the picture and confidence; size: (width, height). A link is drawn
    where both ends have a confidence of at least 0.3 (body, feet) or 0.7 (hands).
    """
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    _paint(picture, keypoints)
    return picture


def draw_over(frame: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """A copy of the frame (H, W, 3) uint8 RGB with the skeleton (133, 3) drawn over it."""
    picture = frame.copy()
    _paint(picture, keypoints)
    return picture


def _paint(picture: np.ndarray, keypoints: np.ndarray) -> None:
    body = to_openpose(keypoints)[: len(JOINT_COLOURS)]
    joints = body[:, :2].astype(int).tolist()  # truncated, as the authors do
    seen = (body[:, 2] >= VISIBLE).tolist()
    for (start, end), colour in BODY_LINKS.items():
        if seen[start] and seen[end]:
            cv2.fillConvexPoly(picture, _spindle(joints[start], joints[end]), colour)
    for joint, shown, colour in zip(joints, seen, JOINT_COLOURS, strict=True):
        if shown:
            cv2.circle(picture, joint, JOINT_RADIUS, colour, cv2.FILLED)
    _paint_hand(picture, keypoints[LEFT_HAND])
    _paint_hand(picture, keypoints[RIGHT_HAND])


def _spindle(start: list[int], end: list[int]) -> np.ndarray:
    """The ellipse along a link, as a polygon of one point a degree."""
    across, down = start[0] - end[0], start[1] - end[1]
    centre = int((start[0] + end[0]) / 2), int((start[1] + end[1]) / 2)
    angle = int(math.degrees(math.atan2(down, across)))
    axes = int(math.hypot(across, down) / 2), LINK_HALF_WIDTH
    return np.asarray(cv2.ellipse2Poly(centre, axes, angle, 0, 360, 1), np.int32)


def _paint_hand(picture: np.ndarray, hand: np.ndarray) -> None:
    """Joints of the links that are shown, then the links; hand: (21, 3)."""
    joints = hand[:, :2].astype(int).tolist()
    seen = (hand[:, 2] >= HAND_VISIBLE).tolist()
    shown = [seen[start] and seen[end] for start, end in HAND_LINKS]
    for joint in sorted(
        {end for link, visible in zip(HAND_LINKS, shown, strict=True) if visible for end in link}
    ):
        cv2.circle(picture, joints[joint], JOINT_RADIUS, (255, 255, 255), cv2.FILLED)
    for (start, end), visible, colour in zip(HAND_LINKS, shown, HAND_COLOURS, strict=True):
        if visible:
            cv2.line(picture, joints[start], joints[end], colour, HAND_WIDTH)


# Widths of the parts of a clothed body as shares of its standing height, chosen by eye on real people to
# cover them with little background: a mask is for telling person from background, so a rim too many is better
# than a cut arm.
_LIMBS = [
    (KEYPOINT_INDEX[f"{side}_{start}"], KEYPOINT_INDEX[f"{side}_{end}"], width)
    for start, end, width in (
        ("shoulder", "elbow", 0.085),
        ("elbow", "wrist", 0.065),
        ("hip", "knee", 0.11),
        ("knee", "ankle", 0.08),
    )
    for side in ("left", "right")
]
_TORSO = [KEYPOINT_INDEX[f"{side}_{name}"] for side in ("left", "right") for name in ("shoulder", "hip")]
_HEAD = [*range(5), *range(FACE.start, FACE.stop)]
_LEFT_FOOT = [KEYPOINT_INDEX["left_ankle"], *range(FEET.start, FEET.start + 3)]
_RIGHT_FOOT = [KEYPOINT_INDEX["right_ankle"], *range(FEET.start + 3, FEET.stop)]
_HULLS: list[tuple[list[int], float]] = [  # points, and the width of the rim around their hull
    (_TORSO, 0.07),
    (_HEAD, 0.05),
    ([*range(LEFT_HAND.start, LEFT_HAND.stop)], 0.025),
    ([*range(RIGHT_HAND.start, RIGHT_HAND.stop)], 0.025),
    (_LEFT_FOOT, 0.045),
    (_RIGHT_FOOT, 0.045),
]
_SKULL_RADIUS = 0.085  # from the middle between eyes and ears; with hair
_NECK_WIDTH = 0.11


def foreground_mask(keypoints: np.ndarray, size: tuple[int, int], threshold: float = VISIBLE) -> np.ndarray:
    """Where the person (133, 3) is in a picture of size (width, height): (height, width) bool.

    Limbs as thick lines, torso, head, hands and feet as grown hulls, their widths in proportion to the
    person. Points under the threshold count for nothing; nobody visible gives an empty mask.
    """
    mask = np.zeros((size[1], size[0]), np.uint8)
    height = standing_height(keypoints, threshold)
    points = np.round(keypoints[:, :2]).astype(np.int32)
    seen = keypoints[:, 2] >= threshold
    for start, end, width in _LIMBS:
        if seen[start] and seen[end]:
            cv2.line(mask, points[start].tolist(), points[end].tolist(), 1, _pixels(width * height))
    for part, rim in _HULLS:
        visible = [index for index in part if seen[index]]
        if visible:
            hull = cv2.convexHull(points[visible])
            cv2.fillConvexPoly(mask, hull, 1)
            cv2.polylines(mask, [hull], True, 1, _pixels(2 * rim * height))
    _fill_skull(mask, points, seen, height)
    return mask.astype(bool)


def _fill_skull(mask: np.ndarray, points: np.ndarray, seen: np.ndarray, height: float) -> None:
    """The head's upper half, which no keypoint marks, and the neck."""
    head = [index for index in range(1, 5) if seen[index]]  # eyes and ears
    if not head:
        return
    middle = points[head].mean(axis=0).astype(int)
    cv2.circle(mask, middle.tolist(), _pixels(_SKULL_RADIUS * height), 1, cv2.FILLED)
    shoulders = [index for index in _TORSO[::2] if seen[index]]
    if shoulders:
        neck = points[shoulders].mean(axis=0).astype(int)
        cv2.line(mask, middle.tolist(), neck.tolist(), 1, _pixels(_NECK_WIDTH * height))


def _pixels(width: float) -> int:
    return max(1, round(width))
