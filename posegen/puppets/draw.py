"""Draws a puppet in given poses: parts as filled polygons, ordered by depth, on a canvas larger than the picture.

Choices made: what is drawn follows from the puppet and the keypoints' places alone, so pose and identity are exact. A
part's outline is computed for all frames at once (T, P, 2), then filled frame by frame at a multiple of the picture's
size and averaged down, which is the anti-aliasing. Depth is read off the pose: which way shoulders and nose point says
which side is near. Trunk and head are round: what is on them (patterns, hair) turns with the body.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from posegen.puppets.people import Colour, Puppet
from posegen.skeleton import FACE, KEYPOINT_INDEX, LEFT_HAND, RIGHT_HAND, standing_height

SHIFT = 3  # fractional bits of coordinates
EDGE = 0.006  # width of the darker rim of a part, in heights
QUARTER = np.pi / 2
SIDES = ("left", "right")


@dataclass
class Figure:
    """What is drawn together and lies at one depth: polygons (T, P, 2) in pixels with their colours, in order."""

    polygons: list[np.ndarray] = field(default_factory=list)
    colours: list[Colour] = field(default_factory=list)

    def add(self, polygon: np.ndarray, colour: Colour) -> None:
        self.polygons.append(polygon)
        self.colours.append(colour)


@dataclass
class Body:
    """The poses (T, 133, 2) and what is measured on them."""

    points: np.ndarray
    height: np.ndarray  # (T,) standing height in pixels
    yaw: np.ndarray  # (T,) where the trunk points: 0 to the camera, pi/2 to the picture's right
    head_yaw: np.ndarray  # (T,)

    def __getitem__(self, name: str) -> np.ndarray:
        """The places (T, 2) of a joint."""
        return self.points[:, KEYPOINT_INDEX[name]]

    def between(self, first: str, second: str, share: float = 0.5) -> np.ndarray:
        return (1 - share) * self[first] + share * self[second]


def draw(puppet: Puppet, keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The puppet alone (T, H, W, 4) uint8: colours times opacity, and opacity 0..255.

    keypoints: (T, 133, 3), all places finite; size: (width, height) of the picture whose pixels they count.
    """
    factor = max(2, round(384 / max(size)))
    body = measure(keypoints)
    figures = _figures(puppet, body)
    order = _depth_order(body)
    flat = [
        (((polygon + 0.5) * factor - 0.5) * 2**SHIFT).round().astype(np.int32, order="C")
        for figure in figures.values()
        for polygon in figure.polygons
    ]
    spans, start = {}, 0
    for name, figure in figures.items():
        spans[name] = [(flat[start + i], (*colour, 255)) for i, colour in enumerate(figure.colours)]
        start += len(figure.colours)
    pictures = np.empty((len(keypoints), size[1], size[0], 4), np.uint8)
    canvas = np.empty((size[1] * factor, size[0] * factor, 4), np.uint8)
    for frame, names in enumerate(order):
        canvas[:] = 0
        for name in names:
            for polygon, colour in spans[name]:
                cv2.fillPoly(canvas, [polygon[frame]], colour, cv2.LINE_8, SHIFT)
        cv2.resize(canvas, size, pictures[frame], interpolation=cv2.INTER_AREA)
    return pictures


def measure(keypoints: np.ndarray) -> Body:
    """The measures of poses (T, 133, 3) that drawing needs."""
    points = keypoints[..., :2].astype(np.float64)
    heights = np.array([standing_height(pose, threshold=-1.0) for pose in keypoints])
    height = _smoothed(heights, 8)
    at = {name: points[:, index] for name, index in KEYPOINT_INDEX.items() if index < 23}
    across = (at["left_shoulder"] - at["right_shoulder"])[:, 0] / (0.23 * height)
    toes = sum(at[f"{side}_big_toe"] - at[f"{side}_heel"] for side in SIDES)[:, 0] / (0.29 * height)
    ears = (at["left_ear"] + at["right_ear"]) / 2
    nose = (at["nose"] - ears)[:, 0] / (0.083 * height)
    ear_span = (at["left_ear"] - at["right_ear"])[:, 0] / (0.11 * height)
    return Body(
        points,
        height,
        np.arctan2(np.clip(0.5 * (toes + nose), -1, 1), np.clip(across, -1, 1)),
        np.arctan2(np.clip(nose, -1, 1), np.clip(ear_span, -1, 1)),
    )


def _smoothed(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean over `reach` frames to either side, fewer at the ends."""
    weights = np.ones(2 * reach + 1)
    count = np.convolve(np.ones(len(values)), weights)[reach : reach + len(values)]
    return np.convolve(values, weights)[reach : reach + len(values)] / count


def _depth_order(body: Body) -> list[list[str]]:
    """The figures of each frame from far to near."""
    lower = body["left_ankle"][:, 1] > body["right_ankle"][:, 1]
    orders = []
    for yaw, left_lower in zip(body.yaw, lower, strict=True):
        near, far = ("right", "left") if yaw > 0 else ("left", "right")
        legs = [f"{far}_leg", f"{near}_leg"]
        if not 0.8 < abs(yaw) < 2.3:
            legs = ["right_leg", "left_leg"] if left_lower else ["left_leg", "right_leg"]
        arms = [f"{far}_arm", f"{near}_arm"]
        if abs(yaw) > 2.2:
            orders.append([*arms, *legs, "torso", "head", "long_hair"])
        elif abs(yaw) < 1.0:
            orders.append(["long_hair", *legs, "torso", "head", *arms])
        else:
            orders.append([arms[0], *legs, "torso", "long_hair", "head", arms[1]])
    return orders


def _figures(puppet: Puppet, body: Body) -> dict[str, Figure]:
    figures = {f"{side}_arm": _arm(puppet, body, side) for side in SIDES}
    figures |= {f"{side}_leg": _leg(puppet, body, side) for side in SIDES}
    figures["torso"] = _torso(puppet, body)
    figures["head"] = _head(puppet, body)
    figures["long_hair"] = _long_hair(puppet, body)
    return figures


# Outlines


def capsule(
    start: np.ndarray, stop: np.ndarray, radius: np.ndarray, last: np.ndarray | None = None
) -> np.ndarray:
    """Outlines (T, 16, 2) of limbs from start to stop (T, 2), round at both ends, of radius (T,) there."""
    last = radius if last is None else last
    heading = np.arctan2(*(stop - start).T[::-1])[:, None]
    turn = np.linspace(QUARTER, 3 * QUARTER, 8)
    around = np.concatenate([heading + turn, heading + turn + np.pi], axis=1)  # (T, 16)
    reach = np.repeat(np.stack([radius, last], axis=1), 8, axis=1)[..., None]
    ends = np.repeat(np.stack([start, stop], axis=1), 8, axis=1)
    return ends + reach * np.stack([np.cos(around), np.sin(around)], axis=-1)


def disc(
    centre: np.ndarray, across: np.ndarray, down: np.ndarray | None = None, count: int = 14
) -> np.ndarray:
    """Outlines (T, count, 2) of ellipses with upright axes of half lengths (T,)."""
    down = across if down is None else down
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    reach = np.stack([across, down], axis=1)[:, None]
    return centre[:, None] + reach * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def visible_arc(middle: np.ndarray, half: float) -> tuple[np.ndarray, np.ndarray]:
    """How far across (-1..1) a round body what lies at angles middle - half .. middle + half is seen; empty behind."""
    middle = (middle + np.pi) % (2 * np.pi) - np.pi
    return tuple(np.sin(np.clip(middle + edge, -QUARTER, QUARTER)) for edge in (-half, half))  # type: ignore[return-value]


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (below 1) or lighter (above)."""
    red, green, blue = (min(255, round(factor * value)) for value in colour)
    return red, green, blue


# Limbs


def _limb(
    figure: Figure,
    start: np.ndarray,
    stop: np.ndarray,
    radius: np.ndarray,
    last: np.ndarray,
    colour: Colour,
    height: np.ndarray,
) -> None:
    figure.add(capsule(start, stop, radius, last), shade(colour, 0.68))
    rim = EDGE * height
    figure.add(capsule(start, stop, radius - rim, last - rim), colour)


def _arm(puppet: Puppet, body: Body, side: str) -> Figure:
    figure, height = Figure(), body.height
    shoulder, elbow, wrist = (body[f"{side}_{joint}"] for joint in ("shoulder", "elbow", "wrist"))
    thick, middle, thin = (puppet.width * r * height for r in (0.033, 0.026, 0.02))
    _hand(figure, puppet, body, side)
    lower = puppet.shirt if puppet.sleeves > 0.9 else puppet.skin
    _limb(figure, elbow, wrist, middle, thin, lower, height)
    _limb(
        figure, shoulder, elbow, thick, middle, puppet.skin if puppet.sleeves < 0.5 else puppet.shirt, height
    )
    if 0 < puppet.sleeves < 0.5:
        end = shoulder + 0.6 * (elbow - shoulder)
        _limb(figure, shoulder, end, thick * 1.15, thick * 1.15, puppet.shirt, height)
    if puppet.sleeves > 0:
        _sleeve_pattern(figure, puppet, shoulder, elbow, wrist, thick, middle)
    return figure


def _sleeve_pattern(
    figure: Figure,
    puppet: Puppet,
    shoulder: np.ndarray,
    elbow: np.ndarray,
    wrist: np.ndarray,
    thick: np.ndarray,
    thin: np.ndarray,
) -> None:
    """Bands around the sleeve of a striped or checked shirt; the second colour for a two-coloured one."""
    if puppet.pattern not in ("striped", "checked", "two-coloured"):
        return
    spots = {0.3: [0.15, 0.42], 0.55: [0.15, 0.45, 0.75], 1.0: [0.15, 0.45, 0.75, 1.05, 1.35, 1.65]}[
        puppet.sleeves
    ]
    if puppet.pattern == "two-coloured":
        spots = spots[-1:]
    for spot in spots:
        start, stop = (shoulder, elbow) if spot < 1 else (elbow, wrist)
        first, last = (start + share * (stop - start) for share in (spot % 1, spot % 1 + 0.13))
        along = stop - start
        across = np.stack([-along[:, 1], along[:, 0]], axis=1)
        across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
        wide = (0.9 * (thick if spot < 1 else thin))[:, None] * across
        figure.add(
            np.stack([first - wide, first + wide, last + wide, last - wide], axis=1), puppet.shirt_second
        )


def _hand(figure: Figure, puppet: Puppet, body: Body, side: str) -> None:
    """Palm and five fingers through the hand's points."""
    hand = body.points[:, LEFT_HAND if side == "left" else RIGHT_HAND]
    radius, rim = 0.0095 * body.height, shade(puppet.skin, 0.75)
    palm = hand[:, [0, 1, 5, 9, 13, 17]]
    figure.add(capsule(hand[:, 0], hand[:, 9], 0.019 * body.height), rim)
    for finger in range(5):
        base, middle, tip = (hand[:, 4 * finger + joint] for joint in (1, 2, 4))
        figure.add(capsule(base, middle, radius), puppet.skin)
        figure.add(capsule(middle, tip, radius, 0.8 * radius), puppet.skin)
    figure.add(palm, puppet.skin)
    figure.add(capsule(hand[:, 0], hand[:, 9], 0.015 * body.height), puppet.skin)


def _leg(puppet: Puppet, body: Body, side: str) -> Figure:
    figure, height = Figure(), body.height
    hip, knee, ankle = (body[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle"))
    thick, middle, thin = (puppet.width * r * height for r in (0.052, 0.037, 0.026))
    long, covered = puppet.legwear == "trousers", puppet.legwear in ("trousers", "shorts")
    _foot(figure, puppet, body, side)
    _limb(
        figure,
        knee,
        ankle,
        middle * (1 if long else 0.9),
        thin * (1.15 if long else 0.9),
        puppet.legs if long else puppet.skin,
        height,
    )
    _limb(figure, hip, knee, thick, middle, puppet.legs if covered else puppet.skin, height)
    if puppet.legwear == "shorts":
        figure.add(capsule(knee, knee + 0.08 * (ankle - knee), middle * 0.88), puppet.skin)
    return figure


def _foot(figure: Figure, puppet: Puppet, body: Body, side: str) -> None:
    ankle, heel = body[f"{side}_ankle"], body[f"{side}_heel"]
    toe = body.between(f"{side}_big_toe", f"{side}_small_toe")
    radius = 0.019 * body.height
    up = np.array([0, -0.008]) * body.height[:, None]
    figure.add(capsule(heel + up, toe + up, radius, 0.9 * radius), shade(puppet.shoes, 0.6))
    figure.add(capsule(ankle, heel + up, radius, radius), puppet.shoes)
    figure.add(capsule(heel + 1.6 * up, toe + 1.6 * up, 0.85 * radius, 0.75 * radius), puppet.shoes)


# Trunk


class _Trunk:
    """The trunk's outline and places on its round surface."""

    LEVELS = np.array([-0.08, 0.02, 0.2, 0.42, 0.62, 0.85, 1.0, 1.12])  # 0 shoulders, 1 hips
    WIDE = np.array([0.45, 0.92, 1.0, 0.9, 0.84, 0.98, 1.06, 0.8])

    def __init__(self, puppet: Puppet, body: Body) -> None:
        height = body.height[:, None]
        left, right = body["left_shoulder"], body["right_shoulder"]
        top, bottom = (left + right) / 2, body.between("left_hip", "right_hip")
        self.axis = bottom - top
        along = self.axis / np.maximum(np.linalg.norm(self.axis, axis=1, keepdims=True), 1e-6)
        self.right = np.stack(
            [along[:, 1], -along[:, 0]], axis=1
        )  # to the picture's right of an upright trunk
        depth = 0.052 * puppet.width
        halves = []
        for first, second, pad in (
            ("left_shoulder", "right_shoulder", 0.012),
            ("left_hip", "right_hip", 0.036),
        ):
            span = ((body[first] - body[second]) * self.right).sum(axis=1) / 2
            halves.append(np.hypot(span, depth * body.height) + pad * puppet.width * body.height)
        shoulder_half, hip_half = halves
        lean = ((left - right) * along).sum(axis=1) / 2 * np.sign(((left - right) * self.right).sum(axis=1))
        self.tilt = np.clip(lean, -0.06 * body.height, 0.06 * body.height)
        self.top, self.height, self.along = top, height, along
        self.shoulder_half, self.hip_half = shoulder_half, hip_half

    def at(self, level: float, across: np.ndarray | float) -> np.ndarray:
        """Places (T, 2): across -1 is the left rim in the picture, 1 the right, at a level 0 shoulders .. 1 hips."""
        share = np.clip(level, 0, 1)
        wide = np.interp(level, self.LEVELS, self.WIDE)
        half = wide * ((1 - share) * self.shoulder_half + share * self.hip_half)
        slant = self.tilt * (1 - share) * across
        return (
            self.top + level * self.axis + (across * half)[:, None] * self.right + slant[:, None] * self.along
        )

    def outline(self, shrink: float, levels: np.ndarray) -> np.ndarray:
        rims = [self.at(level, -shrink) for level in levels] + [
            self.at(level, shrink) for level in levels[::-1]
        ]
        return np.stack(rims, axis=1)

    def patch(self, top: float, bottom: float, middle: np.ndarray, half: float) -> np.ndarray:
        """The seen part of what lies between two levels and at angles around the trunk, as quadrilaterals."""
        low, high = visible_arc(middle, half)
        reach = 0.96
        corners = [
            self.at(top, reach * low),
            self.at(top, reach * high),
            self.at(bottom, reach * high),
            self.at(bottom, reach * low),
        ]
        return np.stack(corners, axis=1)


def _torso(puppet: Puppet, body: Body) -> Figure:
    figure, trunk = Figure(), _Trunk(puppet, body)
    if puppet.legwear in ("skirt", "dress"):
        _skirt(figure, puppet, body, trunk)
    else:
        figure.add(trunk.outline(0.97, np.array([0.85, 1.0, 1.12])), puppet.legs)
    neck = puppet.width * 0.027 * body.height
    head = body.between("left_ear", "right_ear")
    _limb(
        figure,
        trunk.top,
        trunk.top + 0.6 * (head - trunk.top),
        neck * 1.1,
        neck,
        shade(puppet.skin, 0.9),
        body.height,
    )
    levels = np.array([-0.08, 0.02, 0.2, 0.42, 0.62, 0.85, 0.98])
    figure.add(trunk.outline(1.0, levels), shade(puppet.shirt, 0.68))
    figure.add(trunk.outline(0.95, levels), puppet.shirt)
    _shirt_pattern(figure, puppet, body, trunk)
    low, high = visible_arc(body.yaw, 0.5)
    collar = [trunk.at(-0.09, 0.75 * low), trunk.at(-0.09, 0.75 * high), trunk.at(0.06, 0.5 * (low + high))]
    figure.add(np.stack(collar, axis=1), puppet.skin)
    return figure


def _skirt(figure: Figure, puppet: Puppet, body: Body, trunk: _Trunk) -> None:
    """A skirt to above the knees, as wide as the legs need."""
    hem = []
    for side in SIDES:
        hip, knee = body[f"{side}_hip"], body[f"{side}_knee"]
        hem.append(hip + 0.85 * (knee - hip))
    wide = 0.07 * puppet.width * trunk.height * trunk.right
    flip = ((hem[0] - hem[1]) * trunk.right).sum(axis=1, keepdims=True) < 0
    first, last = np.where(flip, hem[0], hem[1]), np.where(flip, hem[1], hem[0])
    down = 0.03 * trunk.height * trunk.along
    for rim, colour in ((1.0, shade(puppet.legs, 0.68)), (0.92, puppet.legs)):
        points = [
            trunk.at(0.75, -0.95 * rim),
            trunk.at(1.02, -1.0 * rim),
            first - rim * wide + down * rim,
            last + rim * wide + down * rim,
        ]
        points += [trunk.at(1.02, 1.0 * rim), trunk.at(0.75, 0.95 * rim)]
        figure.add(np.stack(points, axis=1), colour)


def _shirt_pattern(figure: Figure, puppet: Puppet, body: Body, trunk: _Trunk) -> None:
    second, yaw = puppet.shirt_second, body.yaw
    if puppet.pattern == "striped":
        for level in (0.12, 0.34, 0.56, 0.78):
            band = [
                trunk.at(level, -0.96),
                trunk.at(level, 0.96),
                trunk.at(level + 0.11, 0.96),
                trunk.at(level + 0.11, -0.96),
            ]
            figure.add(np.stack(band, axis=1), second)
    elif puppet.pattern == "pinstriped":
        for angle in np.arange(10) * 2 * np.pi / 10:
            figure.add(trunk.patch(0.06, 0.97, angle + yaw, 0.13), second)
    elif puppet.pattern == "checked":
        for row, level in enumerate((0.1, 0.32, 0.54, 0.76)):
            for angle in (np.arange(6) + 0.5 * (row % 2)) * 2 * np.pi / 6:
                figure.add(trunk.patch(level, level + 0.22, angle + yaw, np.pi / 12), second)
    elif puppet.pattern == "dotted":
        for row, level in enumerate((0.2, 0.45, 0.7, 0.92)):
            for angle in (np.arange(6) + 0.5 * (row % 2)) * 2 * np.pi / 6:
                low, high = visible_arc(angle + yaw, 0.24)
                centre = trunk.at(level, 0.92 * (low + high) / 2)
                size = 0.02 * body.height
                figure.add(
                    disc(centre, size * np.clip((high - low) / 0.475, 0, 1), size * (high > low), 8), second
                )
    elif puppet.pattern == "two-coloured":
        levels = np.array([0.45, 0.62, 0.85, 0.98])
        figure.add(trunk.outline(0.95, levels), second)


# Head


class _Skull:
    """The head's place, axes and half width, from ears, eyes and nose; lengths in heights of the body."""

    LEVELS = np.array([-0.092, -0.085, -0.06, -0.03, 0.0, 0.03, 0.055, 0.07, 0.078])
    WIDE = np.array([0.008, 0.03, 0.052, 0.06, 0.06, 0.055, 0.042, 0.026, 0.008])

    def __init__(self, body: Body) -> None:
        self.scale = body.height
        self.centre = body.between("left_ear", "right_ear")
        neck = body.between("left_shoulder", "right_shoulder")
        down = neck - self.centre
        down /= np.maximum(np.linalg.norm(down, axis=1, keepdims=True), 1e-6)
        self.down = down
        self.right = np.stack([down[:, 1], -down[:, 0]], axis=1)
        self.yaw = body.head_yaw

    def at(self, level: float, across: np.ndarray | float, wide: float = 1.0) -> np.ndarray:
        """Places (T, 2): level in heights below the ears, across -1..1 from the left rim to the right."""
        half = np.interp(level, self.LEVELS, self.WIDE) * wide
        offset = np.broadcast_to(half * np.asarray(across), self.scale.shape) * self.scale
        return self.centre + (level * self.scale)[:, None] * self.down + offset[:, None] * self.right

    def outline(self, levels: np.ndarray, wide: float = 1.0) -> np.ndarray:
        rims = [self.at(level, -1, wide) for level in levels] + [
            self.at(level, 1, wide) for level in levels[::-1]
        ]
        return np.stack(rims, axis=1)

    def patch(
        self, levels: np.ndarray, middle: np.ndarray, half: np.ndarray, wide: float = 1.0
    ) -> np.ndarray:
        """The seen part of the surface between levels, at angles middle +- half (one for each level)."""
        middle = (middle + np.pi) % (2 * np.pi) - np.pi
        arcs = [[np.sin(np.clip(middle + sign * h, -QUARTER, QUARTER)) for sign in (-1, 1)] for h in half]
        rims = [self.at(level, low, wide) for level, (low, _) in zip(levels, arcs, strict=True)]
        rims += [
            self.at(level, high, wide) for level, (_, high) in list(zip(levels, arcs, strict=True))[::-1]
        ]
        return np.stack(rims, axis=1)


def _head(puppet: Puppet, body: Body) -> Figure:
    figure, skull = Figure(), _Skull(body)
    figure.add(skull.outline(skull.LEVELS, 1.06), shade(puppet.skin, 0.72))
    figure.add(skull.outline(skull.LEVELS * 0.97, 0.98), puppet.skin)
    _ears(figure, puppet, body)
    if puppet.beard:
        levels = np.array([0.02, 0.045, 0.06, 0.072])
        figure.add(skull.patch(levels, skull.yaw, np.array([1.4, 1.35, 1.3, 1.2]), 1.03), puppet.hair)
    _features(figure, puppet, body)
    _hair(figure, puppet, skull)
    if puppet.hat is not None:
        _hat(figure, puppet, skull)
    return figure


def _ears(figure: Figure, puppet: Puppet, body: Body) -> None:
    for sign, side in ((1, "left"), (-1, "right")):
        shown = np.cos(body.head_yaw + sign * QUARTER * 0.75) > -0.3
        size = 0.013 * body.height * shown
        figure.add(disc(body[f"{side}_ear"], 0.7 * size, size, 8), shade(puppet.skin, 0.85))


def _hair(figure: Figure, puppet: Puppet, skull: _Skull) -> None:
    """A cap above the forehead, and the sides and back down to the nape, which a face turned away leaves to see."""
    if puppet.hair_style == "no":
        return
    swell = 1.28 if puppet.hair_style == "curly" else 1.12
    rise = 1.2 if puppet.hair_style == "curly" else 1.08
    line = -0.055 + 0.022 * puppet.fringe
    cap = np.array([-0.092, -0.088, -0.075, line]) * np.array([rise, rise, rise, 1])
    rims = [
        skull.at(level / rise if level < line else level, -1, swell)
        + ((level - level / rise) * skull.scale)[:, None] * skull.down
        for level in cap
    ]
    rims += [
        skull.at(level / rise if level < line else level, 1, swell)
        + ((level - level / rise) * skull.scale)[:, None] * skull.down
        for level in cap[::-1]
    ]
    figure.add(np.stack(rims, axis=1), puppet.hair)
    nape = 0.03 if puppet.hair_style == "short" else 0.05
    levels = np.array([line - 0.005, -0.02, 0.005, nape])
    half = np.array([2.0, 1.75, 1.6, 1.35])
    behind = (skull.yaw + 2 * np.pi) % (2 * np.pi) - np.pi  # where the back of the head points
    for turn in (0.0, -2 * np.pi, 2 * np.pi):
        middle = behind + turn
        arcs = [[np.sin(np.clip(middle + sign * h, -QUARTER, QUARTER)) for sign in (-1, 1)] for h in half]
        sides = [skull.at(level, low, swell) for level, (low, _) in zip(levels, arcs, strict=True)]
        sides += [
            skull.at(level, high, swell) for level, (_, high) in list(zip(levels, arcs, strict=True))[::-1]
        ]
        figure.add(np.stack(sides, axis=1), puppet.hair)


def _long_hair(puppet: Puppet, body: Body) -> Figure:
    """What hangs down behind: long hair or a tail."""
    figure, skull = Figure(), _Skull(body)
    back = (-np.sin(skull.yaw) * 0.035 * skull.scale)[:, None] * skull.right
    if puppet.hair_style == "long":
        root, end = skull.centre + 0.4 * back, skull.at(0.15, 0) + 1.2 * back
        for rim, colour in ((1.0, shade(puppet.hair, 0.75)), (0.9, puppet.hair)):
            figure.add(capsule(root, end, 0.07 * rim * skull.scale, 0.062 * rim * skull.scale), colour)
    elif puppet.hair_style == "tied":
        figure.add(
            capsule(
                skull.at(-0.05, 0) + 1.8 * back,
                skull.at(0.09, 0) + 2.6 * back,
                0.022 * skull.scale,
                0.03 * skull.scale,
            ),
            puppet.hair,
        )
    return figure


def _hat(figure: Figure, puppet: Puppet, skull: _Skull) -> None:
    assert puppet.hat is not None
    figure.add(skull.outline(np.array([-0.092, -0.085, -0.06, -0.045]), 1.25), puppet.hat)
    low, high = visible_arc(skull.yaw, 1.0)
    brim = [
        skull.at(-0.05, 1.25 * low),
        skull.at(-0.05, 1.25 * high),
        skull.at(-0.035, 1.5 * high),
        skull.at(-0.035, 1.5 * low),
    ]
    figure.add(np.stack(brim, axis=1), shade(puppet.hat, 0.7))


def _features(figure: Figure, puppet: Puppet, body: Body) -> None:
    """Eyes, brows, nose and mouth at their points, on the side of the head that is seen."""
    face, height = body.points[:, FACE], body.height
    brow = shade(puppet.hair, 0.8) if puppet.hair_style != "no" else shade(puppet.skin, 0.5)
    for sign, side, rim, brows in (
        (1, "left", slice(42, 48), (22, 24, 26)),
        (-1, "right", slice(36, 42), (17, 19, 21)),
    ):
        shown = (np.cos(body.head_yaw + sign * 0.4) > 0.08).astype(float)
        eye = body[f"{side}_eye"]
        size = 0.0088 * height * shown
        narrow = np.clip(np.cos(body.head_yaw + sign * 0.4), 0.3, 1)
        figure.add(disc(eye, 1.25 * size * narrow, 0.75 * size, 10), (250, 250, 248))
        figure.add(disc(eye, 0.75 * size * narrow, 0.75 * size, 8), puppet.eyes)
        figure.add(disc(eye, 0.38 * size * narrow, 0.38 * size, 6), (16, 14, 14))
        inner, middle, outer = (face[:, point] for point in brows)
        for first, last in ((inner, middle), (middle, outer)):
            figure.add(capsule(first, last, 0.0028 * height * shown), brow)
        if puppet.glasses:
            figure.add(disc(eye, 1.9 * size * narrow, 1.6 * size), (30, 30, 34))
            figure.add(disc(eye, 1.6 * size * narrow, 1.3 * size), (206, 220, 230))
            figure.add(disc(eye, 0.6 * size * narrow, 0.6 * size, 6), puppet.eyes)
    shown = (np.cos(body.head_yaw) > -0.2).astype(float)
    figure.add(
        capsule(face[:, 28], face[:, 30], 0.003 * height * shown, 0.0065 * height * shown),
        shade(puppet.skin, 0.8),
    )
    seen = (np.cos(body.head_yaw) > 0.0)[:, None, None]
    middle = face[:, 48:60].mean(axis=1, keepdims=True)
    lips = np.where(seen, middle + 1.1 * (face[:, 48:60] - middle), middle)
    figure.add(
        lips,
        (int(0.55 * puppet.skin[0] + 70), int(0.45 * puppet.skin[1] + 12), int(0.45 * puppet.skin[2] + 20)),
    )
    figure.add(np.where(seen, face[:, 60:68], middle), (96, 34, 38))
