"""Trunk, neck, skirt and what is on the shirt. The trunk is round: a pattern turns with the body.

A place on it is a level, 0 at the shoulders and 1 at the hips, and how far across, -1 at the left rim in the picture
and 1 at the right. Lengths are shares of standing height.
"""

from __future__ import annotations

import numpy as np

from mini_model.puppets.figure import (
    DARK,
    LIGHT,
    SIDES,
    Body,
    Figure,
    Limb,
    disc,
    normal,
    shade,
    unit,
    visible_arc,
)
from mini_model.puppets.people import Puppet

DEPTH, SHOULDER_PAD, HIP_PAD, NECK = 0.054, 0.014, 0.036, 0.026
SHIRT = np.array([-0.16, -0.1, -0.03, 0.06, 0.2, 0.42, 0.62, 0.85, 1.0])  # levels of its outline
INSIDE = 0.955  # of the rim


class Trunk:
    """Its places, from shoulders and hips; from the side it is as wide as it is deep."""

    LEVELS = np.array([-0.16, -0.1, -0.03, 0.06, 0.2, 0.42, 0.62, 0.85, 1.0, 1.12])
    WIDTHS = np.array([0.3, 0.42, 0.82, 0.97, 1.0, 0.92, 0.87, 0.98, 1.06, 0.8])

    def __init__(self, puppet: Puppet, body: Body) -> None:
        left, right = body["left_shoulder"], body["right_shoulder"]
        self.height, self.top = body.height, (left + right) / 2
        self.axis = body.between("left_hip", "right_hip") - self.top
        self.along, self.right = unit(self.axis), normal(self.axis)
        depth = DEPTH * puppet.width * self.height
        self.halves = []
        for joint, pad in (("shoulder", SHOULDER_PAD), ("hip", HIP_PAD)):
            span = ((body[f"left_{joint}"] - body[f"right_{joint}"]) * self.right).sum(axis=1) / 2
            half = np.hypot(span, depth)
            self.halves.append(half + pad * puppet.width * self.height * (0.3 + 0.7 * np.abs(span) / half))
        turned = np.sign(((left - right) * self.right).sum(axis=1))
        slant = turned * ((left - right) * self.along).sum(axis=1) / 2
        self.slant = np.clip(slant, -0.06 * self.height, 0.06 * self.height)

    def at(self, level: float, across: np.ndarray | float) -> np.ndarray:
        """Places (T, 2) at a level, across (T,) or a number."""
        share = float(np.clip(level, 0, 1))
        half = (1 - share) * self.halves[0] + share * self.halves[1]
        offset = across * half * np.interp(level, self.LEVELS, self.WIDTHS)
        slant = self.slant * (1 - share) * across
        return self.top + level * self.axis + offset[:, None] * self.right + slant[:, None] * self.along

    def band(self, levels: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
        """The outline (T, 2 L, 2) of what lies between two places across, at these levels."""
        rims = [self.at(level, low) for level in levels] + [self.at(level, high) for level in levels[::-1]]
        return np.stack(rims, axis=1)

    def patch(self, top: float, bottom: float, middle: np.ndarray, half: float) -> np.ndarray:
        """What is seen (T, 4, 2) of what lies between two levels at the angles middle - half .. middle + half."""
        low, high = visible_arc(middle, half)
        return self.band(np.array([top, bottom]), INSIDE * low, INSIDE * high)


def torso(puppet: Puppet, body: Body) -> Figure:
    """The figure from the neck to hips or skirt."""
    figure, trunk = Figure(), Trunk(puppet, body)
    neck = puppet.width * NECK * body.height
    head = body.between("left_ear", "right_ear")
    throat = Limb(
        trunk.at(0.05, 0), trunk.top + 0.6 * (head - trunk.top), 1.2 * neck, neck, shade(puppet.skin, 0.88)
    )
    figure.add_limbs([throat], body.height)
    if puppet.legwear in ("skirt", "dress"):
        _skirt(figure, puppet, body, trunk)
    else:
        figure.add(trunk.band(np.array([0.85, 1.0, 1.14]), -0.93, 0.93), puppet.legs)
    figure.add(trunk.band(SHIRT, -1.0, 1.0), shade(puppet.shirt, DARK))
    figure.add(trunk.band(SHIRT, -INSIDE, INSIDE), puppet.shirt)
    figure.add(trunk.band(SHIRT[3:], 0.6, INSIDE), shade(puppet.shirt, 0.86))
    figure.add(trunk.band(SHIRT[3:], -0.8, -0.4), shade(puppet.shirt, LIGHT))
    _pattern(figure, puppet, body, trunk)
    low, high = visible_arc(body.yaw, 0.9)
    collar = [trunk.at(-0.17, 0.95 * low), trunk.at(-0.17, 0.95 * high), trunk.at(0.07, 0.5 * (low + high))]
    figure.add(np.stack(collar, axis=1), shade(puppet.skin, 0.94))
    return figure


def _pattern(figure: Figure, puppet: Puppet, body: Body, trunk: Trunk) -> None:
    """The shirt's second colour in bands, lines, checks, dots or below."""
    second, around = puppet.shirt_second, np.arange(6) * np.pi / 3
    if puppet.pattern == "striped":
        for level in (0.1, 0.33, 0.56, 0.79):
            figure.add(trunk.band(np.array([level, level + 0.115]), -INSIDE, INSIDE), second)
    elif puppet.pattern == "pinstriped":
        for angle in np.arange(10) * np.pi / 5:
            figure.add(trunk.patch(0.04, 0.98, angle + body.yaw, 0.13), second)
    elif puppet.pattern == "checked":
        for row, level in enumerate((0.1, 0.32, 0.54, 0.76)):
            for angle in around + row % 2 * np.pi / 6:
                figure.add(trunk.patch(level, level + 0.22, angle + body.yaw, np.pi / 12), second)
    elif puppet.pattern == "dotted":
        for row, level in enumerate((0.2, 0.44, 0.68, 0.9)):
            for angle in around + row % 2 * np.pi / 6:
                _dot(figure, puppet, trunk, level, angle + body.yaw)
    elif puppet.pattern == "two-coloured":
        figure.add(trunk.band(np.array([0.45, 0.62, 0.85, 1.0]), -INSIDE, INSIDE), second)


def _dot(figure: Figure, puppet: Puppet, trunk: Trunk, level: float, angle: np.ndarray) -> None:
    low, high = visible_arc(angle, 0.24)
    radius = 0.021 * trunk.height
    seen = np.clip((high - low) / (2 * np.sin(0.24)), 0, 1)  # narrower towards the rim
    centre = trunk.at(level, 0.88 * (low + high) / 2)
    figure.add(disc(centre, radius * seen, radius * (seen > 0)), puppet.shirt_second)


def _skirt(figure: Figure, puppet: Puppet, body: Body, trunk: Trunk) -> None:
    """A skirt to above the knees, as wide as the legs need."""
    hem = [body.between(f"{side}_hip", f"{side}_knee", 0.88) for side in SIDES]
    crossed = ((hem[0] - hem[1]) * trunk.right).sum(axis=1, keepdims=True) < 0
    left, right = np.where(crossed, hem[0], hem[1]), np.where(crossed, hem[1], hem[0])
    wide = 0.066 * puppet.width * trunk.height[:, None] * trunk.right
    down = 0.03 * trunk.height[:, None] * trunk.along
    for inset, colour in ((1.0, shade(puppet.legs, DARK)), (INSIDE - 0.03, puppet.legs)):
        points = [trunk.at(0.75, -inset), trunk.at(1.02, -inset), left - inset * wide + inset * down]
        points += [right + inset * wide + inset * down, trunk.at(1.02, inset), trunk.at(0.75, inset)]
        figure.add(np.stack(points, axis=1), colour)
    fold = [trunk.at(1.0, 0.3), right + 0.9 * wide + 0.9 * down, right + 0.1 * wide + 0.9 * down]
    figure.add(np.stack(fold, axis=1), shade(puppet.legs, 0.84))
