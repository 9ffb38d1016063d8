"""Arms with hands and legs with feet, in sleeves, trousers and shoes. Radii are shares of standing height."""

from __future__ import annotations

import numpy as np

from mini_model.puppets.figure import SIDES, Body, Figure, Limb, capsule, normal, shade
from mini_model.puppets.people import Puppet
from posegen.driving.skeleton import LEFT_HAND, RIGHT_HAND

SHOULDER, ELBOW, WRIST = 0.031, 0.026, 0.0195
THIGH, KNEE, ANKLE = 0.052, 0.037, 0.025
FINGER, PALM, FOOT = 0.0088, 0.0165, 0.019


def limbs(puppet: Puppet, body: Body) -> dict[str, Figure]:
    """The figures left_arm, right_arm, left_leg and right_leg."""
    arms = {f"{side}_arm": _arm(puppet, body, side) for side in SIDES}
    return arms | {f"{side}_leg": _leg(puppet, body, side) for side in SIDES}


def _arm(puppet: Puppet, body: Body, side: str) -> Figure:
    figure, height = Figure(), body.height
    shoulder, elbow, wrist = (body[f"{side}_{joint}"] for joint in ("shoulder", "elbow", "wrist"))
    thick, middle, thin = (puppet.width * radius * height for radius in (SHOULDER, ELBOW, WRIST))
    _hand(figure, puppet, body, side)
    colour = puppet.shirt if puppet.sleeves > 1 else puppet.skin
    lower, upper = Limb(elbow, wrist, middle, thin, colour), Limb(shoulder, elbow, thick, middle, colour)
    figure.add_limbs([lower, upper], height)
    if 0 < puppet.sleeves <= 1:
        end = shoulder + puppet.sleeves * (elbow - shoulder)
        figure.add_limbs([Limb(shoulder, end, 1.08 * thick, 1.08 * thick, puppet.shirt)], height)
    if puppet.sleeves > 0:
        _sleeve_pattern(figure, puppet, (shoulder, elbow, wrist), (thick, middle))
        _join_to_trunk(figure, puppet, body, side, thick)
    return figure


def _join_to_trunk(figure: Figure, puppet: Puppet, body: Body, side: str, thick: np.ndarray) -> None:
    """Covers the rim between sleeve and trunk, so that a shirt is of one piece."""
    middle = body.between("left_shoulder", "right_shoulder")
    inward = body[f"{side}_shoulder"] + 0.3 * (middle - body[f"{side}_shoulder"])
    radius = 0.8 * thick
    figure.add(capsule(body[f"{side}_shoulder"], inward, radius, 0.9 * radius), puppet.shirt)


def _sleeve_pattern(
    figure: Figure, puppet: Puppet, joints: tuple[np.ndarray, ...], radii: tuple[np.ndarray, ...]
) -> None:
    """Bands around the sleeve of a striped or checked shirt; a cuff for a two-coloured one."""
    if puppet.pattern not in ("striped", "checked", "two-coloured"):
        return
    spots = [spot for spot in (0.2, 0.5, 0.8, 1.1, 1.4, 1.7) if spot + 0.13 <= puppet.sleeves + 0.1]
    for spot in spots[-1:] if puppet.pattern == "two-coloured" else spots:
        limb, share = int(spot), spot % 1
        start, stop = joints[limb], joints[limb + 1]
        first, last = (start + part * (stop - start) for part in (share, share + 0.13))
        wide = (0.88 * radii[limb])[:, None] * normal(stop - start)
        corners = [first - wide, first + wide, last + wide, last - wide]
        figure.add(np.stack(corners, axis=1), puppet.shirt_second)


def _hand(figure: Figure, puppet: Puppet, body: Body, side: str) -> None:
    """Palm and five fingers through the hand's points."""
    hand, height = body.points[:, LEFT_HAND if side == "left" else RIGHT_HAND], body.height
    rim = shade(puppet.skin, 0.72)
    figure.add(capsule(hand[:, 0], hand[:, 9], 1.3 * PALM * height, 1.3 * PALM * height), rim)
    bones = [
        (4 * finger + first, 4 * finger + last) for finger in range(5) for first, last in ((1, 2), (2, 4))
    ]
    for grow, colour in ((1.4, rim), (1.0, puppet.skin)):
        for first, last in bones:
            radius = grow * FINGER * height
            figure.add(capsule(hand[:, first], hand[:, last], radius, radius), colour)
    figure.add(hand[:, [0, 1, 5, 9, 13, 17]], puppet.skin)
    figure.add(capsule(hand[:, 0], hand[:, 9], PALM * height, PALM * height), puppet.skin)


def _leg(puppet: Puppet, body: Body, side: str) -> Figure:
    figure, height = Figure(), body.height
    hip, knee, ankle = (body[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle"))
    thick, middle, thin = (puppet.width * radius * height for radius in (THIGH, KNEE, ANKLE))
    _foot(figure, puppet, body, side)
    if puppet.legwear == "trousers":
        shank = Limb(knee, ankle, middle, 1.2 * thin, puppet.legs)
        figure.add_limbs([shank, Limb(hip, knee, thick, middle, puppet.legs)], height)
        return figure
    shank = Limb(knee, ankle, 0.85 * middle, 0.85 * thin, puppet.skin)
    figure.add_limbs([shank, Limb(hip, knee, 0.9 * thick, 0.88 * middle, puppet.skin)], height)
    if puppet.legwear == "shorts":
        hem = hip + 0.75 * (knee - hip)
        figure.add_limbs([Limb(hip, hem, thick, 1.12 * middle, puppet.legs)], height)
    return figure


def _foot(figure: Figure, puppet: Puppet, body: Body, side: str) -> None:
    radius = FOOT * body.height
    up = np.array([0, -0.008]) * body.height[:, None]
    ankle, heel = body[f"{side}_ankle"], body[f"{side}_heel"] + up
    toe = body.between(f"{side}_big_toe", f"{side}_small_toe") + up
    sole = Limb(heel, toe, radius, 0.9 * radius, puppet.shoes)
    figure.add_limbs([Limb(ankle, heel, radius, radius, puppet.shoes), sole], body.height)
