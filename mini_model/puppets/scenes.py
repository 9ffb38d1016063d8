"""Places for drawn people: rooms, streets, parks, gradients and textures, and the camera that looks at them.

A scene is painted once on a canvas larger than the picture, in shares of its size, so that it is the
same place at any resolution; a moving camera is one affine map a frame from picture to canvas, slow and smooth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

MARGIN = 0.2
"""How far the canvas reaches beyond each side of the picture, as a share of the picture's side."""
SHIFT = 4  # fractional bits of drawn coordinates


@dataclass(frozen=True)
class Scene:
    """A place; `kind` is one of room, street, park, studio and wall."""

    seed: int
    kind: str
    still: bool

    @classmethod
    def sample(cls, seed: int) -> Scene:
        """The scene of that seed, always the same."""
        random = np.random.default_rng([seed, 201])
        kind = str(random.choice(list(_PAINTERS), p=[0.4, 0.2, 0.15, 0.1, 0.15]))
        return cls(seed, kind, bool(random.uniform() < 0.7))

    @property
    def description(self) -> str:
        """Where it is, as in "in a room"."""
        return PLACES[self.kind]

    def canvas(self, size: tuple[int, int]) -> np.ndarray:
        """The place (H', W', 3) uint8 RGB for pictures of size (width, height), with its margin around."""
        width, height = (round(side * (1 + 2 * MARGIN)) for side in size)
        painter = _Painter(np.random.default_rng([self.seed, 202]), 2 * width, 2 * height)
        _PAINTERS[self.kind](painter)
        return cv2.resize(painter.finish(), (width, height), interpolation=cv2.INTER_AREA)

    def camera(self, frames: int, rate: float = 12.0) -> np.ndarray:
        """Affine maps (T, 2, 3) from picture to picture without camera motion, in shares of its sides 0..1.

        The identity throughout for a still camera; else it drifts by up to a seventh of the picture and zooms by up to
        a tenth, never past the canvas.
        """
        maps = np.tile(np.eye(2, 3), (frames, 1, 1))
        if self.still:
            return maps
        random = np.random.default_rng([self.seed, 203])
        times = np.arange(frames) / rate
        zoom, across, down = (
            reach * np.sin(random.uniform(0.25, 0.7) * times + random.uniform(0, 2 * np.pi))
            for reach in (0.08, random.uniform(0.05, 0.14), random.uniform(0, 0.06))
        )
        maps[:, 0, 0] = maps[:, 1, 1] = 1 + zoom
        maps[:, 0, 2] = across - zoom / 2
        maps[:, 1, 2] = down - zoom / 2
        return maps

    def backgrounds(self, frames: int, size: tuple[int, int], rate: float = 12.0) -> np.ndarray:
        """What the camera sees without anybody: (T, H, W, 3) uint8 RGB."""
        width, height = size
        canvas = self.canvas(size)
        pictures = np.empty((frames, height, width, 3), np.uint8)
        for number, view in enumerate(self.camera(1 if self.still else frames, rate)):
            matrix = view * np.array([[1, width / height, width], [height / width, 1, height]])
            matrix[:, 2] += MARGIN * np.array(size)
            cv2.warpAffine(
                canvas,
                matrix,
                size,
                pictures[number],
                cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
        if self.still:
            pictures[1:] = pictures[0]
        return pictures


PLACES = {
    "room": "in a room",
    "street": "in a street",
    "park": "in a park",
    "studio": "in a studio",
    "wall": "at a wall",
}


class _Painter:
    """A canvas whose coordinates are shares of its sides, and the dice."""

    def __init__(self, random: np.random.Generator, width: int, height: int) -> None:
        self.random, self.size = random, np.array([width, height])
        self.picture = np.zeros((height, width, 3), np.uint8)

    def colour(self, low: int = 60, high: int = 225, saturation: float = 0.5) -> np.ndarray:
        """A random colour (3,) of limited saturation."""
        grey = self.random.uniform(low, high)
        return np.clip(grey + saturation * self.random.uniform(-80, 80, 3), 0, 255)

    def polygon(self, points: list[tuple[float, float]], colour: np.ndarray) -> None:
        corners = np.round(np.array(points) * self.size * 2**SHIFT).astype(np.int32)
        cv2.fillPoly(self.picture, [corners], np.clip(colour, 0, 255).tolist(), cv2.LINE_AA, SHIFT)

    def box(self, left: float, top: float, right: float, bottom: float, colour: np.ndarray) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def disc(self, x: float, y: float, radius: float, colour: np.ndarray) -> None:
        """A disc of a radius in shares of the canvas's width."""
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        ratio = self.size[0] / self.size[1]
        self.polygon([(x + radius * np.cos(a), y + radius * ratio * np.sin(a)) for a in angles], colour)

    def slope(self, top: float, bottom: float, first: np.ndarray, last: np.ndarray) -> None:
        """A vertical gradient over the full width."""
        rows = slice(*np.round(np.array([top, bottom]) * self.size[1]).astype(int))
        count = self.picture[rows].shape[0]
        blend = np.linspace(0, 1, count)[:, None, None]
        self.picture[rows] = np.clip((1 - blend) * first + blend * last, 0, 255)

    def noise(self, top: float, bottom: float, grain: int, strength: float) -> None:
        """Smooth random light and dark over some rows, with `grain` spots across."""
        rows = slice(*np.round(np.array([top, bottom]) * self.size[1]).astype(int))
        part = self.picture[rows]
        cells = self.random.normal(0, strength, (max(2, grain * part.shape[0] // part.shape[1]), grain))
        light = cv2.resize(cells, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_CUBIC)
        part[:] = np.clip(part + light[..., None], 0, 255).astype(np.uint8)

    def finish(self) -> np.ndarray:
        """The picture, lit from one side."""
        first, last = self.random.permutation([0.88, 1.06])
        light = np.linspace(first, last, self.size[0])[None, :, None]
        return np.clip(self.picture * light, 0, 255).astype(np.uint8)


def _room(paint: _Painter) -> None:
    """A wall with paper, a floor in perspective, a window or pictures, furniture and a plant."""
    random = paint.random
    horizon = random.uniform(0.58, 0.72)
    wall, floor = paint.colour(110, 225), paint.colour(70, 180)
    paint.slope(0, horizon, wall * 1.05, wall * 0.92)
    _wallpaper(paint, wall, horizon)
    paint.slope(horizon, 1, floor * 0.85, floor * 1.1)
    _floorboards(paint, floor, horizon)
    paint.box(0, horizon - 0.02, 1, horizon, np.minimum(wall * 1.2, 245))
    if random.uniform() < 0.75:
        _window(paint, random.uniform(0.1, 0.6), random.uniform(0.12, 0.25))
    for _ in range(random.integers(1, 4)):
        _picture(paint, random.uniform(0.02, 0.85), random.uniform(0.12, 0.4))
    for _ in range(random.integers(1, 4)):
        _furniture(paint, random.uniform(-0.05, 0.85), horizon)
    if random.uniform() < 0.5:
        _plant(paint, random.choice([random.uniform(0.05, 0.25), random.uniform(0.75, 0.95)]), horizon + 0.05)


def _wallpaper(paint: _Painter, wall: np.ndarray, horizon: float) -> None:
    if paint.random.uniform() < 0.45:
        step = paint.random.uniform(0.06, 0.14)
        for left in np.arange(0, 1, step):
            paint.box(left, 0, left + step / 2, horizon, wall * 0.93)


def _floorboards(paint: _Painter, floor: np.ndarray, horizon: float) -> None:
    kind = paint.random.integers(3)
    if kind == 0:  # boards towards the vanishing point
        for x in np.linspace(-1.5, 2.5, 25):
            top = 0.5 + (x - 0.5) * 0.45
            paint.polygon([(top, horizon), (top + 0.004, horizon), (x + 0.015, 1), (x, 1)], floor * 0.75)
    elif kind == 1:  # chequered tiles
        rows = horizon + (1 - horizon) * np.linspace(0, 1, 6) ** 1.6
        for row, (top, bottom) in enumerate(pairwise(rows)):
            near, far = (0.45 + 0.55 * (y - horizon) / (1 - horizon) for y in (bottom, top))
            for column in range(-9 + row % 2, 10, 2):
                ends = [0.5 + (column + c) * 0.13 * w for w, c in ((far, 0), (far, 1), (near, 1), (near, 0))]
                heights = [top, top, bottom, bottom]
                paint.polygon(list(zip(ends, heights, strict=True)), floor * 0.8)
    else:  # a carpet
        colour = paint.colour(70, 200, 0.9)
        low = horizon + 0.25 * (1 - horizon)
        paint.polygon([(0.25, low), (0.75, low), (0.95, 0.95), (0.05, 0.95)], colour)
        paint.polygon([(0.3, low + 0.02), (0.7, low + 0.02), (0.86, 0.92), (0.14, 0.92)], colour * 0.85)


def _window(paint: _Painter, left: float, top: float) -> None:
    width, height = paint.random.uniform(0.2, 0.34), paint.random.uniform(0.18, 0.28)
    frame = np.array([238, 236, 230]) if paint.random.uniform() < 0.6 else np.array([110, 78, 52])
    paint.box(left - 0.015, top - 0.01, left + width + 0.015, top + height + 0.012, frame)
    paint.box(left, top, left + width, top + height, np.array([164, 204, 236]))
    paint.box(left, top + 0.7 * height, left + width, top + height, np.array([126, 168, 116]))
    paint.box(left + width / 2 - 0.006, top, left + width / 2 + 0.006, top + height, frame)
    paint.box(left, top + height / 2 - 0.004, left + width, top + height / 2 + 0.004, frame)
    if paint.random.uniform() < 0.5:
        curtain = paint.colour(90, 220, 0.9)
        for side in (left - 0.06, left + width - 0.02):
            paint.box(side, top - 0.03, side + 0.08, top + height + 0.06, curtain)
            paint.box(side + 0.03, top - 0.03, side + 0.045, top + height + 0.06, curtain * 0.85)


def _picture(paint: _Painter, left: float, top: float) -> None:
    width, height = paint.random.uniform(0.08, 0.16), paint.random.uniform(0.07, 0.14)
    paint.box(left - 0.012, top - 0.008, left + width + 0.012, top + height + 0.008, paint.colour(40, 120))
    paint.box(left, top, left + width, top + height, paint.colour(120, 230, 0.8))
    paint.disc(
        left + width * paint.random.uniform(0.3, 0.7), top + height / 2, width / 4, paint.colour(80, 220, 1)
    )


def _furniture(paint: _Painter, left: float, horizon: float) -> None:
    """A cupboard, a bookcase, a sofa or a lamp that stands on the floor."""
    random, colour = paint.random, paint.colour(60, 190, 0.6)
    ground = horizon + random.uniform(0.03, 0.08)
    kind = random.integers(4)
    if kind == 0:
        top, width = ground - random.uniform(0.15, 0.4), random.uniform(0.18, 0.3)
        paint.box(left, top, left + width, ground, colour)
        for share in (0.06, 0.53):
            paint.box(
                left + share * width, top + 0.015, left + (share + 0.4) * width, ground - 0.015, colour * 0.88
            )
    elif kind == 1:
        top, width = ground - random.uniform(0.3, 0.45), random.uniform(0.18, 0.28)
        paint.box(left, top, left + width, ground, colour * 0.7)
        shelves = np.linspace(top, ground, 5)
        for above, below in pairwise(shelves):
            books = np.linspace(left + 0.01, left + width - 0.01, 7)
            for start, stop in pairwise(books):
                low = random.uniform(0.02, 0.45) * (below - above)
                paint.box(start, above + 0.008 + low, stop - 0.003, below - 0.008, paint.colour(50, 210, 1))
    elif kind == 2:
        width = random.uniform(0.35, 0.5)
        paint.box(left, ground - 0.16, left + width, ground - 0.03, colour)
        paint.box(left - 0.03, ground - 0.1, left + width + 0.03, ground, colour * 0.85)
        paint.box(left + 0.02, ground - 0.1, left + width - 0.02, ground - 0.05, colour * 1.1)
    else:
        shade = paint.colour(170, 240, 0.5)
        paint.box(left + 0.045, ground - 0.36, left + 0.055, ground, colour * 0.5)
        paint.polygon(
            [
                (left + 0.02, ground - 0.46),
                (left + 0.08, ground - 0.46),
                (left + 0.11, ground - 0.36),
                (left - 0.01, ground - 0.36),
            ],
            shade,
        )


def _plant(paint: _Painter, x: float, ground: float) -> None:
    green = np.array([60, 120, 60]) + paint.random.uniform(-25, 25, 3)
    for _ in range(9):
        reach, rise = paint.random.uniform(-0.09, 0.09), paint.random.uniform(0.12, 0.24)
        tip = (x + reach, ground - rise)
        paint.polygon(
            [
                (x, ground - 0.06),
                (x + reach * 0.5 - 0.02, ground - rise * 0.7),
                tip,
                (x + reach * 0.5 + 0.02, ground - rise * 0.6),
            ],
            green * paint.random.uniform(0.7, 1.2),
        )
    pot = paint.colour(90, 190, 0.8)
    paint.polygon(
        [(x - 0.045, ground - 0.07), (x + 0.045, ground - 0.07), (x + 0.03, ground), (x - 0.03, ground)], pot
    )


def _street(paint: _Painter) -> None:
    """Houses under a sky, a pavement and a road."""
    random = paint.random
    horizon = random.uniform(0.58, 0.7)
    sky = np.array([150, 192, 232]) + random.uniform(-30, 20, 3)
    paint.slope(0, horizon, sky, np.minimum(sky * 1.15, 250))
    paint.noise(0, horizon, 5, 7)
    left = -0.05
    while left < 1:
        width, top = random.uniform(0.18, 0.36), random.uniform(0.05, 0.35)
        _house(paint, left, top, left + width, horizon)
        left += width
    pavement = paint.colour(130, 190, 0.15)
    paint.slope(horizon, 1, pavement * 0.92, pavement)
    for y in horizon + (1 - horizon) * np.array([0.12, 0.3, 0.55]):
        paint.box(0, y, 1, y + 0.004, pavement * 0.8)
    kerb = random.uniform(0.86, 0.93)
    paint.box(0, kerb, 1, kerb + 0.012, pavement * 1.15)
    paint.box(0, kerb + 0.012, 1, 1, np.array([78, 80, 86]))
    if random.uniform() < 0.6:
        _tree(paint, random.choice([random.uniform(0.02, 0.25), random.uniform(0.75, 0.98)]), horizon + 0.03)
    if random.uniform() < 0.4:
        post = random.uniform(0.05, 0.95)
        paint.box(post, 0.15, post + 0.012, horizon + 0.05, np.array([60, 62, 66]))
        paint.disc(post + 0.006, 0.15, 0.025, np.array([250, 236, 180]))


def _house(paint: _Painter, left: float, top: float, right: float, ground: float) -> None:
    random = paint.random
    wall = paint.colour(90, 215, 0.6)
    glass, frame = paint.colour(50, 130, 0.2), np.minimum(wall * 1.25, 245)
    paint.box(left, top, right, ground, wall)
    paint.box(left, top, right, top + 0.012, wall * 0.75)
    columns, rows = random.integers(2, 4), random.integers(3, 5)
    across, down = (right - left) / columns, (ground - top) / (rows + 0.5)
    for column in range(columns):
        for row in range(rows):
            x, y = left + (column + 0.25) * across, top + (row + 0.35) * down
            paint.box(x - 0.006, y - 0.004, x + 0.5 * across + 0.006, y + 0.55 * down + 0.004, frame)
            paint.box(x, y, x + 0.5 * across, y + 0.55 * down, glass * random.uniform(0.8, 1.3))
    door = left + random.uniform(0.2, 0.6) * (right - left)
    paint.box(door, ground - 0.11, door + 0.07, ground, paint.colour(50, 160, 1))


def _tree(paint: _Painter, x: float, ground: float) -> None:
    green = np.array([70, 126, 62]) + paint.random.uniform(-25, 25, 3)
    paint.box(x - 0.018, ground - 0.3, x + 0.018, ground, np.array([92, 70, 52]))
    for _ in range(8):
        dx, dy = paint.random.uniform(-0.1, 0.1), paint.random.uniform(0.27, 0.46)
        paint.disc(
            x + dx, ground - dy, paint.random.uniform(0.05, 0.1), green * paint.random.uniform(0.8, 1.15)
        )


def _park(paint: _Painter) -> None:
    """Hills, trees, grass and a path."""
    random = paint.random
    horizon = random.uniform(0.5, 0.64)
    sky = np.array([156, 202, 238]) + random.uniform(-35, 15, 3)
    paint.slope(0, horizon, sky, np.minimum(sky * 1.15, 250))
    for _ in range(3):
        paint.disc(
            random.uniform(0, 1),
            random.uniform(0.05, 0.25),
            random.uniform(0.04, 0.1),
            np.array([246, 248, 250]),
        )
    for _ in range(3):
        hill = np.array([104, 150, 112]) + random.uniform(-25, 25, 3)
        paint.disc(random.uniform(0, 1), horizon + 0.22, random.uniform(0.4, 0.6), hill)
    grass = np.array([112, 160, 74]) + random.uniform(-25, 25, 3)
    paint.slope(horizon, 1, grass * 0.85, grass * 1.1)
    paint.noise(horizon, 1, 24, 7)
    if random.uniform() < 0.7:
        bend = random.uniform(0.2, 0.8)
        path = np.array([206, 186, 150]) + random.uniform(-25, 20, 3)
        paint.polygon([(bend, horizon), (bend + 0.05, horizon), (0.85, 1), (0.15, 1)], path)
    for _ in range(random.integers(1, 4)):
        _tree(paint, random.choice([random.uniform(0, 0.32), random.uniform(0.68, 1)]), horizon + 0.06)
    if random.uniform() < 0.4:
        left, wood = random.uniform(0, 0.7), np.array([136, 96, 62])
        for y in (horizon + 0.0, horizon + 0.03, horizon + 0.07):
            paint.box(left, y, left + 0.28, y + 0.016, wood)
        for x in (left + 0.02, left + 0.24):
            paint.box(x, horizon, x + 0.015, horizon + 0.14, wood * 0.6)


def _studio(paint: _Painter) -> None:
    """A seamless gradient, with a spot of light or blurred colours."""
    paint.slope(0, 1, paint.colour(60, 230, 0.9), paint.colour(60, 230, 0.9))
    paint.noise(0, 1, int(paint.random.integers(3, 6)), 14)


def _wall(paint: _Painter) -> None:
    """A wall of bricks, planks, tiles or graffiti over a plain floor."""
    random = paint.random
    horizon = random.uniform(0.78, 0.9)
    colour, joint = paint.colour(80, 200, 0.7), paint.colour(100, 210, 0.2)
    kind = random.integers(4)
    paint.slope(0, horizon, joint, joint)
    height = [0.035, 0.9, 0.09, 0.2][kind]
    width = [0.11, 0.09, 0.13, 0.3][kind]
    for row, y in enumerate(np.arange(0, horizon, height)):
        for x in np.arange(-width * (0.5 if row % 2 and kind == 0 else 0), 1, width):
            shade = random.uniform(0.85, 1.1) if kind != 3 else 1.0
            block = colour * shade if kind != 3 else paint.colour(80, 220, 0.9)
            paint.box(x + 0.004, y + 0.003, x + width - 0.004, min(y + height - 0.003, horizon), block)
    floor = paint.colour(80, 190, 0.25)
    paint.slope(horizon, 1, floor * 0.85, floor)
    paint.noise(horizon, 1, 16, 5)


_PAINTERS: dict[str, Callable[[_Painter], None]] = {
    "room": _room,
    "street": _street,
    "park": _park,
    "studio": _studio,
    "wall": _wall,
}
