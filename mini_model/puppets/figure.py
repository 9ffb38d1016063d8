"""Outlines to fill: what a drawn body part is made of, and what the parts need to know of the poses.

An outline is computed for all frames at once, (T, P, 2) in pixels; the light comes from above on the
left, so a limb is a dark rim, its colour, and a lighter streak on the side towards the light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mini_model.puppets.people import Colour
from posegen.driving.skeleton import KEYPOINT_INDEX, standing_height

SIDES = ("left", "right")
RIM = 0.0055  # width of the dark rim of a part, in heights
DARK, LIGHT = 0.66, 1.13
QUARTER = np.pi / 2
_TO_LIGHT = np.array([-0.8, -0.6])

# Lengths as shares of standing height in body.py's mean build, by which views from the side are told.
_EAR_SPAN, _NOSE_REACH, _SHOULDER_SPAN, _FOOT_LENGTH = 0.115, 0.071, 0.23, 0.145
_SMOOTHED_FRAMES = 8


@dataclass
class Body:
    """The poses of a clip and what is measured on them."""

    points: np.ndarray  # (T, 133, 2) in pixels
    height: np.ndarray  # (T,) standing height in pixels
    yaw: np.ndarray  # (T,) where the trunk points: 0 to the camera, pi/2 to the picture's right
    head: np.ndarray  # (T,) size of the head, 1 in the mean build, times the height
    head_yaw: np.ndarray  # (T,)

    def __getitem__(self, name: str) -> np.ndarray:
        """The places (T, 2) of a point."""
        return self.points[:, KEYPOINT_INDEX[name]]

    def between(self, first: str, second: str, share: float = 0.5) -> np.ndarray:
        """The places (T, 2) on the way from one point to another."""
        return (1 - share) * self[first] + share * self[second]


def measure(points: np.ndarray) -> Body:
    """The measures of poses (T, 133, 2) that drawing needs; all places must be finite."""
    points = points.astype(np.float64)
    poses = np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)  # every place counts
    height = np.maximum(_smoothed(np.array([standing_height(pose) for pose in poses])), 1.0)
    body = Body(points, height, height, height, height)
    ear_span = (body["left_ear"] - body["right_ear"])[:, 0] / (_EAR_SPAN * height)
    nose = (body["nose"] - body.between("left_ear", "right_ear"))[:, 0] / (_NOSE_REACH * height)
    shoulders = (body["left_shoulder"] - body["right_shoulder"])[:, 0] / (_SHOULDER_SPAN * height)
    feet = (body["left_big_toe"] + body["right_big_toe"] - body["left_heel"] - body["right_heel"])[:, 0]
    sideways = np.clip(feet / (2 * _FOOT_LENGTH * height), -1, 1) + np.clip(nose, -1, 1)
    body.head = height * np.clip(np.median(np.hypot(ear_span, nose)), 0.75, 1.15)
    body.head_yaw = np.arctan2(nose, ear_span)
    body.yaw = np.arctan2(sideways / 2, np.clip(shoulders, -1, 1))
    return body


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The mean over some frames to either side, fewer at the ends."""
    reach = np.minimum(_SMOOTHED_FRAMES, np.minimum(np.arange(len(values)), np.arange(len(values))[::-1]))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


@dataclass
class Figure:
    """What is drawn together and lies at one depth: outlines (T, P, 2) in pixels with their colours, in order."""

    outlines: list[np.ndarray] = field(default_factory=list)
    colours: list[Colour] = field(default_factory=list)

    def add(self, outline: np.ndarray, colour: Colour) -> None:
        """Puts one more outline on top."""
        self.outlines.append(outline)
        self.colours.append(colour)

    def add_limbs(self, limbs: Sequence[Limb], height: np.ndarray) -> None:
        """Limbs that join without a seam: all rims, then all colours, then all streaks of light."""
        for limb in limbs:
            self.add(limb.outline(0), shade(limb.colour, DARK))
        for limb in limbs:
            self.add(limb.outline(RIM * height), limb.colour)
        for limb in limbs:
            self.add(limb.streak(), shade(limb.colour, LIGHT))


@dataclass(frozen=True)
class Limb:
    """A round limb from start to stop (T, 2), of radius first and last (T,)."""

    start: np.ndarray
    stop: np.ndarray
    first: np.ndarray
    last: np.ndarray
    colour: Colour

    def outline(self, inset: np.ndarray | float) -> np.ndarray:
        return capsule(self.start, self.stop, self.first - inset, self.last - inset)

    def streak(self) -> np.ndarray:
        """Where light falls: narrow, and the further off the middle the more the limb's side faces the light."""
        across = normal(self.stop - self.start)
        offset = (across @ _TO_LIGHT)[:, None] * across * 0.42
        start, stop = self.start + self.first[:, None] * offset, self.stop + self.last[:, None] * offset
        return capsule(start, stop, 0.38 * self.first, 0.38 * self.last)


def capsule(start: np.ndarray, stop: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Outlines (T, 16, 2) from start to stop (T, 2), round at both ends, of radius first and last (T,)."""
    heading = np.arctan2(*(stop - start).T[::-1])[:, None]
    turn = np.linspace(QUARTER, 3 * QUARTER, 8)
    around = np.concatenate([heading + turn, heading + turn + np.pi], axis=1)  # (T, 16)
    reach = np.repeat(np.stack([first, last], axis=1), 8, axis=1)[..., None]
    ends = np.repeat(np.stack([start, stop], axis=1), 8, axis=1)
    return ends + reach * np.stack([np.cos(around), np.sin(around)], axis=-1)


def disc(centre: np.ndarray, across: np.ndarray, down: np.ndarray, count: int = 14) -> np.ndarray:
    """Outlines (T, count, 2) of ellipses with upright axes of half lengths (T,)."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    reach = np.stack([across, down], axis=1)[:, None]
    return centre[:, None] + reach * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def visible_arc(middle: np.ndarray, half: float) -> tuple[np.ndarray, np.ndarray]:
    """How far across (-1..1) a round body the angles middle - half .. middle + half reach to the eye.

    Angle 0 faces the camera; what lies behind is pushed to the rim, where the arc has no width.
    """
    middle = (middle + np.pi) % (2 * np.pi) - np.pi
    low, high = (np.sin(np.clip(middle + edge, -QUARTER, QUARTER)) for edge in (-half, half))
    return low, high


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., n) of length 1; 0 stays 0."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def normal(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors (T, 2) at right angles; of one that points down, to the right."""
    return unit(np.stack([vectors[:, 1], -vectors[:, 0]], axis=1))


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (below 1) or lighter (above)."""
    red, green, blue = (min(255, round(factor * value)) for value in colour)
    return red, green, blue
