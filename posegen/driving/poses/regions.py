"""Square, turned regions of a frame: where a landmark network looks, and the way back to the frame.

The region rules are MediaPipe's (Apache-2.0; calculators and options of its holistic graph), so that the networks see
people the way they were trained to. Everything is in pixels of the frame; angles are in radians, 0 for an upright
region, growing clockwise as seen (y points down).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

WIDE = 3
"""Frame pixels a crop pixel from which it costs more to give pixels a fourth channel than it saves."""


@dataclass(frozen=True)
class Region:
    """A square with centre (x, y) and side `size`, turned by `angle`."""

    x: float
    y: float
    size: float
    angle: float = 0.0

    def matrix(self, side: int) -> np.ndarray:
        """(2, 3) affine map from a crop of side x side pixels to the frame."""
        step = self.size / side
        cos, sin = step * np.cos(self.angle), step * np.sin(self.angle)
        half = side / 2
        return np.array(
            [[cos, -sin, self.x - half * (cos - sin)], [sin, cos, self.y - half * (sin + cos)]], np.float64
        )

    def crop(self, frame: np.ndarray, side: int, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
        """The region of a frame (H, W, 3) as (side, side, 3); what lies off the frame repeats its edge."""
        matrix, flags = self.matrix(side), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        if self.size > WIDE * side:
            return cv2.warpAffine(frame, matrix, (side, side), flags=flags, borderMode=border)
        # OpenCV turns four channels in less than half of the time of three.
        part, origin = self._part(frame, matrix, side)
        matrix[:, 2] -= origin
        four = cv2.cvtColor(part, cv2.COLOR_RGB2RGBA)
        turned = cv2.warpAffine(four, matrix, (side, side), flags=flags, borderMode=border)
        return cv2.cvtColor(turned, cv2.COLOR_RGBA2RGB)

    @staticmethod
    def _part(frame: np.ndarray, matrix: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """The upright part of a frame that a crop is made of, and its origin (2,) x, y; never empty."""
        corners = matrix @ np.array([[0, side, 0, side], [0, 0, side, side], [1, 1, 1, 1]])
        last = np.array(frame.shape[1::-1]) - 1
        low = np.clip(corners.min(1) - 1, 0, last).astype(int)
        high = np.clip(corners.max(1) + 2, 0, last).astype(int)
        return frame[low[1] : high[1] + 1, low[0] : high[0] + 1], low

    def to_frame(self, points: np.ndarray, side: int) -> np.ndarray:
        """Points (N, 2) in pixels of a crop of this side, in pixels of the frame."""
        matrix = self.matrix(side)
        return points @ matrix[:, :2].T + matrix[:, 2]

    def scaled(self, factor: float, shift: float = 0.0) -> Region:
        """Grown by `factor`, after its centre moved down (along its own axis) by `shift` of its old size."""
        step = self.size * shift
        x, y = self.x - step * np.sin(self.angle), self.y + step * np.cos(self.angle)
        return Region(x, y, self.size * factor, self.angle)

    def agrees(self, other: Region, shift: float, growth: float, turn: float) -> bool:
        """Whether the other differs in centre and size by these shares of this size, and in angle by `turn`."""
        moved = np.hypot(self.x - other.x, self.y - other.y) <= shift * self.size
        grown = abs(self.size - other.size) <= growth * self.size
        return bool(moved and grown and abs(_wrapped(self.angle - other.angle)) <= turn)


def circle(centre: np.ndarray, rim: np.ndarray, upright: float = np.pi / 2) -> Region:
    """The square around the circle with this centre through `rim`, turned so that `rim` lies at angle `upright`.

    upright: pi/2 where the rim should be above the centre, -pi/2 below.
    """
    dx, dy = rim - centre
    return Region(centre[0], centre[1], 2 * float(np.hypot(dx, dy)), _wrapped(upright - np.arctan2(-dy, dx)))


def bounding(points: np.ndarray, angle: float = 0.0) -> Region:
    """The smallest square of this angle around points (N, 2), sharing the centre of their tight rectangle."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])  # turned axes -> frame
    turned = points @ turn
    low, high = turned.min(0), turned.max(0)
    x, y = turn @ ((low + high) / 2)
    return Region(float(x), float(y), float((high - low).max()), angle)


def level(start: np.ndarray, end: np.ndarray) -> float:
    """The angle of a region in which the line from start to end runs to the right."""
    dx, dy = end - start
    return float(np.arctan2(dy, dx))


def letterbox(width: int, height: int) -> Region:
    """The square that holds a whole frame."""
    return Region(width / 2, height / 2, max(width, height))


def tiles(width: int, height: int, side: int) -> list[Region]:
    """Upright squares that cover a frame, row by row, neighbours overlapping by a quarter of the side or more."""
    rows, columns = _centres(height, side), _centres(width, side)
    return [Region(x, y, side) for y in rows for x in columns]


def _centres(length: int, side: int) -> list[float]:
    """Middles of the fewest stretches of this length that cover 0..length with overlaps of a quarter."""
    if length <= side:
        return [length / 2]
    count = 1 + int(np.ceil((length - side) / (0.75 * side)))
    return np.linspace(side / 2, length - side / 2, count).tolist()


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box (4,) with boxes (N, 4), all x0, y0, x1, y1: (N,)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.clip(sides, 0, None).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return shared / np.maximum((box[2:] - box[:2]).prod() + areas - shared, 1e-9)


def _wrapped(angle: float) -> float:
    """The angle in -pi..pi."""
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
