"""Head, hair, hat and face. The head is round: hair and brim turn with it; the features are at their own points.

A place on it is a level, in heights of the body below the ears (above is negative), and how far across, -1 at the left
rim in the picture and 1 at the right. Lengths are shares of standing height, of a head of mean size.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mini_model.puppets.figure import QUARTER, Body, Figure, capsule, disc, normal, shade, unit, visible_arc
from mini_model.puppets.people import Colour, Puppet
from posegen.driving.skeleton import FACE

_ANGLES = np.linspace(0, np.pi, 15)
_UPPER = np.cos(_ANGLES) > 0
LEVELS = -0.01 - np.where(_UPPER, 0.083, 0.09) * np.cos(_ANGLES)
HALF_WIDTHS = 0.061 * np.sin(_ANGLES) ** np.where(_UPPER, 0.85, 0.95)
IRIS_DARK, EYE_WHITE, LENS, FRAME = (16, 14, 14), (250, 250, 248), (206, 220, 230), (30, 30, 34)


class Skull:
    """The head's places: middle and tilt from ears and neck, view and size as measured."""

    def __init__(self, body: Body) -> None:
        self.scale, self.yaw = body.head, body.head_yaw
        self.deeper = np.hypot(np.cos(self.yaw), 1.07 * np.sin(self.yaw))  # than wide
        self.centre = body.between("left_ear", "right_ear")
        self.down = unit(body.between("left_shoulder", "right_shoulder") - self.centre)
        self.right = normal(self.down)

    def at(self, level: float, across: np.ndarray | float, grow: float = 1.0) -> np.ndarray:
        """Places (T, 2) at a level, across (T,) or a number, on a head grown by a factor."""
        half = grow * np.interp(level / grow, LEVELS, HALF_WIDTHS) * self.scale * self.deeper
        return self.centre + (level * self.scale)[:, None] * self.down + (half * across)[:, None] * self.right

    def outline(self, levels: np.ndarray, grow: float = 1.0) -> np.ndarray:
        """The outline (T, 2 L, 2) between the first and the last level."""
        rims = [self.at(level, -1, grow) for level in levels]
        return np.stack(rims + [self.at(level, 1, grow) for level in levels[::-1]], axis=1)

    def patch(
        self, levels: np.ndarray, middle: np.ndarray, halves: np.ndarray, grow: float = 1.0
    ) -> np.ndarray:
        """What is seen (T, 2 L, 2) of the angles middle - half .. middle + half, a half for each level."""
        low, high = (
            [
                self.at(level, np.sin(np.clip(middle + sign * half, -QUARTER, QUARTER)), grow)
                for level, half in zip(levels, halves, strict=True)
            ]
            for sign in (-1, 1)
        )
        return np.stack(low + high[::-1], axis=1)


def head(puppet: Puppet, body: Body) -> Figure:
    """The figure of head, face, hair and hat."""
    figure, skull = Figure(), Skull(body)
    _ears(figure, puppet, body)
    figure.add(skull.outline(1.05 * LEVELS, 1.05), shade(puppet.skin, 0.72))
    figure.add(skull.outline(0.97 * LEVELS, 0.97), puppet.skin)
    if puppet.beard:
        levels, halves = np.array([0.015, 0.045, 0.06, 0.074]), np.array([1.35, 1.3, 1.25, 1.2])
        figure.add(skull.patch(levels, skull.yaw, halves, 1.02), puppet.hair)
    _mouth_and_nose(figure, puppet, body)
    _eyes(figure, puppet, body)
    _hair(figure, puppet, skull)
    if puppet.hat is not None:
        _hat(figure, puppet.hat, skull)
    return figure


def hanging_hair(puppet: Puppet, body: Body) -> Figure:
    """The figure of what hangs down behind the head: long hair or a tail."""
    figure, skull = Figure(), Skull(body)
    back = -np.sin(skull.yaw) * skull.scale
    if puppet.hair_style == "long":
        root = skull.at(-0.01, 0) + 0.014 * back[:, None] * skull.right
        end = skull.at(0.15, 0) + 0.04 * back[:, None] * skull.right
        for inset, colour in ((0.0, shade(puppet.hair, 0.7)), (0.006, puppet.hair)):
            figure.add(
                capsule(root, end, (0.07 - inset) * skull.scale, (0.066 - inset) * skull.scale), colour
            )
    elif puppet.hair_style == "tied":
        root = skull.at(-0.06, 0) + 0.055 * back[:, None] * skull.right
        end = skull.at(0.09, 0) + 0.085 * back[:, None] * skull.right
        figure.add(capsule(root, end, 0.025 * skull.scale, 0.03 * skull.scale), puppet.hair)
    return figure


def _hair(figure: Figure, puppet: Puppet, skull: Skull) -> None:
    """A cap above the forehead, and sides and back down to the nape, which a face turned away leaves to see."""
    if puppet.hair_style == "no":
        return
    grow = 1.26 if puppet.hair_style == "curly" else 1.1
    line = -0.06 + 0.022 * puppet.fringe
    cap = np.append(grow * LEVELS[LEVELS < -0.05], line)
    nape = 0.042 if puppet.hair_style == "short" else 0.055
    levels, halves = np.array([line - 0.035, -0.02, 0.005, nape]), np.array([1.95, 1.7, 1.55, 1.35])
    behind = skull.yaw % (2 * np.pi) - np.pi  # where the back of the head points, -pi .. pi
    for turn in (0.0, -2 * np.pi, 2 * np.pi):  # what is behind shows at both rims
        figure.add(skull.patch(levels, behind + turn, halves, grow), puppet.hair)
    parting = skull.at(line - 0.024, visible_arc(skull.yaw - 0.45, 0.0)[0])[:, None]
    rim = skull.outline(cap, grow)
    figure.add(np.concatenate([rim[:, : len(cap)], parting, rim[:, len(cap) :]], axis=1), puppet.hair)
    low, high = -0.75, -0.25
    shine = [skull.at(-0.082 * grow, low, grow), skull.at(-0.087 * grow, high, grow)]
    shine += [skull.at(-0.062 * grow, high, grow), skull.at(-0.058 * grow, low, grow)]
    figure.add(np.stack(shine, axis=1), shade(puppet.hair, 1.22))


def _hat(figure: Figure, colour: Colour, skull: Skull) -> None:
    """A cap with a brim to the front."""
    figure.add(skull.outline(np.array([-0.112, -0.105, -0.08, -0.05]), 1.22), colour)
    low, high = visible_arc(skull.yaw, 1.1)
    rims = [skull.at(-0.055, 1.2 * low), skull.at(-0.055, 1.2 * high)]
    rims += [skull.at(-0.04, 1.5 * high), skull.at(-0.04, 1.5 * low)]
    figure.add(np.stack(rims, axis=1), shade(colour, 0.7))


def _ears(figure: Figure, puppet: Puppet, body: Body) -> None:
    for sign, side in ((1, "left"), (-1, "right")):
        size = 0.014 * body.head * (np.cos(body.head_yaw + sign * 1.2) > -0.3)
        figure.add(disc(body[f"{side}_ear"], 0.8 * size, size, 8), shade(puppet.skin, 0.82))


def _eyes(figure: Figure, puppet: Puppet, body: Body) -> None:
    """Eyes and brows at their points, as narrow as the turned head makes them."""
    face, scale = body.points[:, FACE], body.head
    brow = shade(puppet.hair, 0.8) if puppet.hair_style != "no" else shade(puppet.skin, 0.5)
    for sign, side, brows in ((1, "left", (22, 24, 26)), (-1, "right", (17, 19, 21))):
        facing = np.cos(body.head_yaw + sign * 0.4)
        size = 0.0095 * scale * (facing > 0.08)
        narrow, eye = size * np.clip(facing, 0.3, 1), body[f"{side}_eye"]
        if puppet.glasses:
            figure.add(disc(eye, 1.85 * narrow, 1.6 * size), FRAME)
            figure.add(disc(eye, 1.5 * narrow, 1.25 * size), LENS)
        else:
            figure.add(disc(eye, 1.3 * narrow, 0.95 * size, 10), shade(puppet.skin, 0.6))
            figure.add(disc(eye, 1.2 * narrow, 0.75 * size, 10), EYE_WHITE)
        figure.add(disc(eye, 0.72 * narrow, 0.72 * size, 8), puppet.eyes)
        figure.add(disc(eye, 0.36 * narrow, 0.36 * size, 6), IRIS_DARK)
        for first, last in pairwise(brows):
            radius = 0.3 * size
            figure.add(capsule(face[:, first], face[:, last], radius, radius), brow)


def _mouth_and_nose(figure: Figure, puppet: Puppet, body: Body) -> None:
    face, scale = body.points[:, FACE], body.head
    shown = np.cos(body.head_yaw) > -0.2
    nose = capsule(face[:, 28], face[:, 30], 0.003 * scale * shown, 0.0068 * scale * shown)
    figure.add(nose, shade(puppet.skin, 0.82))
    seen = (np.cos(body.head_yaw) > 0.0)[:, None, None]
    middle = face[:, 48:60].mean(axis=1, keepdims=True)
    red, green, blue = puppet.skin
    lips = round(0.6 * red + 58), round(0.48 * green + 8), round(0.48 * blue + 16)
    figure.add(np.where(seen, face[:, 48:60], middle), lips)
    figure.add(np.where(seen, face[:, 60:68], middle), (96, 34, 38))
