"""Draws a puppet in given poses: parts as filled outlines, ordered by depth, on a canvas larger than the picture.

What is drawn follows from the puppet and the keypoints' places alone, so pose and identity are exact.
Parts are filled frame by frame at a multiple of the picture's size and averaged down, which is the anti-aliasing.
Depth is read off the pose: which way shoulders, nose and feet point says which side is near, and of two legs seen from
the front the one that stands lower in the picture is.
"""

from __future__ import annotations

import cv2
import numpy as np

from mini_model.puppets.figure import Body, measure
from mini_model.puppets.head import hanging_hair, head
from mini_model.puppets.limbs import limbs
from mini_model.puppets.people import Puppet
from mini_model.puppets.trunk import torso

SHIFT = 3  # fractional bits of coordinates
CANVAS = (
    384  # pixels on the longer side that the canvas has at least, so that small pictures are averaged finely
)
LEAST_AREA = 0.3  # of an outline in pixels of the canvas; filling draws a line where it should draw nothing
FRONT, BACK = 1.0, 2.2  # yaw up to which somebody is seen from the front, and from which on from the back


def draw(puppet: Puppet, keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The puppet alone (T, H, W, 4) uint8: RGB times opacity, and opacity 0..255.

    keypoints: (T, 133, 3), all places finite; size: (width, height) of the picture whose pixels they count.
    """
    factor = max(2, round(CANVAS / max(size)))
    body = measure(keypoints[..., :2])
    figures = limbs(puppet, body) | {
        "torso": torso(puppet, body),
        "head": head(puppet, body),
        "hanging_hair": hanging_hair(puppet, body),
    }
    layers = {
        name: [
            (_to_canvas(outline, factor), _areas(outline * factor) > LEAST_AREA, (*colour, 255))
            for outline, colour in zip(figure.outlines, figure.colours, strict=True)
        ]
        for name, figure in figures.items()
    }
    pictures = np.empty((len(keypoints), size[1], size[0], 4), np.uint8)
    canvas = np.empty((size[1] * factor, size[0] * factor, 4), np.uint8)
    for frame, names in enumerate(_depth_order(body)):
        canvas[:] = 0
        for name in names:
            for outline, drawn, colour in layers[name]:
                if drawn[frame]:
                    cv2.fillPoly(canvas, [outline[frame]], colour, cv2.LINE_8, SHIFT)
        cv2.resize(canvas, size, pictures[frame], interpolation=cv2.INTER_AREA)
    return pictures


def _to_canvas(outline: np.ndarray, factor: int) -> np.ndarray:
    """Pixels of the picture, whose middles are whole numbers, as the canvas's fixed-point coordinates."""
    return np.round(((outline + 0.5) * factor - 0.5) * 2**SHIFT).astype(np.int32, order="C")


def _areas(outline: np.ndarray) -> np.ndarray:
    """The areas (T,) that outlines (T, P, 2) enclose."""
    x, y = outline[..., 0], outline[..., 1]
    return np.abs((x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1)) / 2


def _depth_order(body: Body) -> list[list[str]]:
    """The figures of each frame from far to near."""
    left_lower = body["left_ankle"][:, 1] > body["right_ankle"][:, 1]
    orders = []
    for yaw, lower in zip(body.yaw, left_lower, strict=True):
        far, near = ("left", "right") if yaw > 0 else ("right", "left")
        legs = [f"{far}_leg", f"{near}_leg"]
        if not FRONT < abs(yaw) < BACK:
            legs = ["right_leg", "left_leg"] if lower else ["left_leg", "right_leg"]
        arms = [f"{far}_arm", f"{near}_arm"]
        if abs(yaw) <= FRONT:
            orders.append(["hanging_hair", *legs, "torso", "head", *arms])
        elif abs(yaw) < BACK:
            orders.append([arms[0], *legs, "torso", "hanging_hair", "head", arms[1]])
        else:
            orders.append([*arms, *legs, "torso", "head", "hanging_hair"])
    return orders
