"""Motions by formula: keypoints of people who walk, dance, wave, exercise or turn, placed in a picture.

Every motion is a sum of a few waves of joint angles, so it is smooth at any rate; kind, tempo, view,
limb lengths and framing follow from the seed alone. A point outside the picture keeps its place and has confidence 0,
as has no detector's: what is drawn needs the place, what is learnt from needs the confidence.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mini_model.puppets.body import Angles, Build, pose
from posegen.driving.skeleton import BODY

SIZE = (64, 96)
TURN = 2 * np.pi
FULL_BODY, KNEES_UP, HALF_BODY = 1.0, 0.72, 0.55
WHOLE_BODY = ("squat", "jumping_jack")  # would leave a picture that shows less
"""Framings, as the share of the body that the picture's height shows."""


def motion(
    seed: int, frames: int, rate: float = 12.0, size: tuple[int, int] = SIZE, framing: float | None = None
) -> np.ndarray:
    """Keypoints (T, 133, 3) float32 of a motion of a kind that follows from the seed; as `motion_of`."""
    return motion_of(kind_of(seed), seed, frames, rate, size, framing)


def kind_of(seed: int) -> str:
    """The kind of `motion(seed, ...)`, one of KINDS."""
    return str(_random(seed, 0).choice(list(KINDS)))


def motion_of(
    kind: str,
    seed: int,
    frames: int,
    rate: float = 12.0,
    size: tuple[int, int] = SIZE,
    framing: float | None = None,
) -> np.ndarray:
    """Keypoints (T, 133, 3) float32: x, y in pixels of a picture of size (width, height), confidence 0..1.

    rate: frames a second; framing: the share of the body that the picture shows, by default mostly all of it.
    Raises ValueError for a kind that is not in KINDS.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no motion {kind!r}; take one of {', '.join(KINDS)}")
    random = _random(seed, 1)
    times = np.arange(frames) / rate
    arms, legs, torso, shoulders, hips = random.normal(1, [0.04, 0.04, 0.03, 0.07, 0.08])
    build = Build(arms, legs, torso, shoulders, hips, head=random.uniform(1.08, 1.25))
    if framing is None and kind in WHOLE_BODY:
        framing = FULL_BODY
    elif framing is None:
        framing = float(random.choice([FULL_BODY, FULL_BODY, FULL_BODY, KNEES_UP, HALF_BODY]))
    angles = KINDS[kind](random, times)
    _sway(angles, random, times)
    return place(pose(angles, frames, build), size, framing, random)


def standing(seed: int) -> np.ndarray:
    """One calm pose (133, 3) of height 1, soles on y = 0 around x = 0: upright, arms down, facing the camera."""
    random = _random(seed, 2)
    angles = Angles(yaw=random.normal(0, 0.12), head_yaw=random.normal(0, 0.08))
    for arm in (angles.left_arm, angles.right_arm):
        arm.out, arm.elbow = random.uniform(0.12, 0.28), random.uniform(0.1, 0.3)
    for leg in (angles.left_leg, angles.right_leg):
        leg.out = random.uniform(0.03, 0.1)
    return pose(angles, 1, Build())[0]


def place(
    poses: np.ndarray, size: tuple[int, int], framing: float, random: np.random.Generator
) -> np.ndarray:
    """Poses (T, 133, 3) of height 1 as float32 keypoints in a picture; outside it the confidence is 0."""
    width, height = size
    placed = poses.astype(np.float64)
    top, bottom = placed[..., 1].min() - 0.09, placed[..., 1].max() + 0.02  # 0.09: hair above the eyes
    left, right = placed[..., 0].min() - 0.03, placed[..., 0].max() + 0.03
    if framing >= FULL_BODY:
        scale = min(random.uniform(0.84, 0.97) * height / (bottom - top), 1.08 * width / (right - left))
        room = max(height - scale * (bottom - top), 0)
        offset = height - random.uniform(0.15, 0.5) * room - scale * bottom
    else:
        scale = random.uniform(0.95, 1.08) * height / (1.05 * framing)
        offset = random.uniform(0.04, 0.1) * height - scale * top
    slack = max(width - scale * (right - left), 0.06 * width)
    middle = (left + right) / 2
    if framing < FULL_BODY:  # not all has room: between what moves and the person's own middle
        middle = (middle + np.median(placed[:, BODY, 0])) / 2
    placed[..., 0] = (placed[..., 0] - middle) * scale + width / 2 + random.uniform(-0.4, 0.4) * slack
    placed[..., 1] = placed[..., 1] * scale + offset
    inside = ((placed[..., :2] >= 0) & (placed[..., :2] <= np.array(size) - 1)).all(axis=-1)
    placed[..., 2] *= inside
    return placed.astype(np.float32)


def _random(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])


class _Waves:
    """Sums of sines that all keep one beat: `waves(mean, reach)` is another one each time."""

    def __init__(self, random: np.random.Generator, times: np.ndarray, beat: float) -> None:
        self.random, self.times, self.beat = random, times, beat

    def __call__(self, mean: float, reach: float) -> np.ndarray:
        value = np.full(self.times.shape, mean, dtype=float)
        for tempo, share in ((0.25, 0.5), (0.5, 0.5), (1.0, 0.45)):
            value += reach * share * np.sin(TURN * (self.beat * tempo * self.times + self.random.uniform()))
        return value


def _sway(angles: Angles, random: np.random.Generator, times: np.ndarray) -> None:
    """Small slow movements of head, trunk and mouth, as nobody keeps still."""
    slow = _Waves(random, times, random.uniform(0.5, 1.0))
    angles.head_yaw = angles.head_yaw + slow(0, 0.18)
    angles.head_pitch = angles.head_pitch + slow(0.02, 0.06)
    angles.roll = angles.roll + slow(0, 0.025)
    angles.lean = angles.lean + slow(0.02, 0.02)
    angles.mouth = np.clip(slow(0.15, 0.5), 0, 1)


def _view(random: np.random.Generator, widest: float = 0.5) -> float:
    return float(random.uniform(-widest, widest))


def _walk(random: np.random.Generator, times: np.ndarray) -> Angles:
    """A gait: thighs swing in opposition, knees bend in the forward swing, arms against the legs."""
    phase = TURN * (random.uniform(0.7, 1.05) * times + random.uniform())
    yaw = random.choice([0.0, 0.6, -0.6, 1.35, -1.35, np.pi]) + random.normal(0, 0.15)
    stride, reach = random.uniform(0.35, 0.5), random.uniform(0.25, 0.55)
    angles = Angles(yaw=yaw, lean=0.05, twist=0.12 * np.sin(phase))
    for sign, arm, leg in (
        (1, angles.left_arm, angles.left_leg),
        (-1, angles.right_arm, angles.right_leg),
    ):
        swing = sign * np.sin(phase)
        leg.swing = stride * swing + 0.08
        leg.knee = 0.12 + 0.85 * np.clip(sign * np.cos(phase + 0.25), 0, None) ** 1.5
        leg.foot = 0.25 * swing
        arm.swing = -reach * swing + 0.05
        arm.elbow = 0.3 + 0.25 * np.clip(-swing, 0, None)
    way = random.uniform(0, 0.12) * np.sin(yaw)
    middle = times - times.mean() if len(times) else times
    angles.across = np.clip(way * middle, -0.3, 0.3)
    return angles


def _dance(random: np.random.Generator, times: np.ndarray) -> Angles:
    """Every joint keeps the beat in its own way."""
    waves = _Waves(random, times, random.uniform(0.9, 1.5))
    angles = Angles(
        yaw=waves(_view(random), random.choice([0.35, 0.9])), lean=waves(0.08, 0.1), roll=waves(0, 0.16)
    )
    angles.twist, angles.across = waves(0, 0.25), waves(0, 0.05)
    angles.jump = np.abs(waves(0, 0.02))
    for arm, leg in ((angles.left_arm, angles.left_leg), (angles.right_arm, angles.right_leg)):
        arm.swing, arm.out = waves(random.uniform(0.3, 1.4), 0.7), np.abs(waves(0.75, 0.6))
        arm.elbow, arm.bend_up = np.abs(waves(1.1, 0.7)), random.uniform(0.2, 1)
        arm.bend_in, arm.curl = random.uniform(0, 0.6), np.clip(waves(0.3, 0.35), 0, 1)
        leg.swing, leg.out = waves(0.22, 0.24), np.abs(waves(0.12, 0.12))
        leg.knee, leg.foot = np.abs(waves(0.4, 0.35)), waves(0, 0.12)
    return angles


def _wave(random: np.random.Generator, times: np.ndarray) -> Angles:
    """One hand, or both, waved beside the head."""
    waves = _Waves(random, times, random.uniform(0.8, 1.4))
    angles = Angles(yaw=_view(random, 0.6), roll=waves(0, 0.04), twist=waves(0, 0.08))
    side = random.integers(3)
    for number, arm in enumerate((angles.left_arm, angles.right_arm)):
        arm.out, arm.elbow = waves(0.18, 0.06), np.abs(waves(0.3, 0.1))
        if side in (number, 2):
            tempo = TURN * random.uniform(1.0, 1.8)
            arm.out = waves(random.uniform(0.9, 1.7), 0.12)
            arm.swing, arm.bend_up, arm.curl = random.uniform(0.1, 0.4), 1.0, 0.05
            arm.elbow = np.pi / 2 + 0.35 + 0.45 * np.sin(tempo * times + random.uniform(0, TURN))
            arm.elbow = np.abs(arm.elbow - (arm.out - 0.9))
    return angles


def _squat(random: np.random.Generator, times: np.ndarray) -> Angles:
    """Down and up again with the arms held out."""
    depth = (0.5 - 0.5 * np.cos(TURN * (random.uniform(0.3, 0.55) * times + random.uniform()))) ** 1.2
    deep, open_legs = random.uniform(1.0, 1.5), random.uniform(0.1, 0.35)
    angles = Angles(yaw=random.choice([0, 0.7, -0.7, 1.3, -1.3]) + random.normal(0, 0.1), lean=0.6 * depth)
    forward, bent = random.uniform(1.0, 1.7), random.uniform(0.1, 1.6)
    for arm in (angles.left_arm, angles.right_arm):
        arm.swing, arm.elbow, arm.bend_in = 0.1 + forward * depth + 0.5 * depth, 0.1 + bent * depth, 0.4
    for leg in (angles.left_leg, angles.right_leg):
        leg.swing, leg.knee, leg.out = deep * depth, 0.05 + 1.75 * deep * depth, open_legs
        leg.foot = 0.0
    return angles


def _jumping_jack(random: np.random.Generator, times: np.ndarray) -> Angles:
    """Arms overhead and legs apart, then back."""
    phase = TURN * (random.uniform(0.55, 0.9) * times + random.uniform())
    up = 0.5 - 0.5 * np.cos(phase)
    angles = Angles(yaw=_view(random, 0.5), jump=0.05 * np.sin(phase) ** 2)
    highest, apart = random.uniform(2.2, 2.9), random.uniform(0.3, 0.45)
    for arm in (angles.left_arm, angles.right_arm):
        arm.out, arm.elbow, arm.bend_up, arm.curl = 0.15 + highest * up, 0.25, 0.5, 0.1
    for leg in (angles.left_leg, angles.right_leg):
        leg.out, leg.knee = 0.05 + apart * up, 0.1 + 0.4 * np.sin(phase) ** 2
        leg.swing = 0.18 * np.sin(phase) ** 2
    return angles


def _turn(random: np.random.Generator, times: np.ndarray) -> Angles:
    """Round and round, or there and back, on the spot."""
    waves = _Waves(random, times, random.uniform(0.6, 1.0))
    speed = random.choice([-1, 1]) * random.uniform(0.9, 2.2)
    yaw = random.uniform(-np.pi, np.pi) + speed * times
    if random.uniform() < 0.4:
        yaw = random.choice([0, np.pi]) + 1.4 * np.sin(speed * times + random.uniform(0, TURN))
    angles = Angles(yaw=yaw, twist=0.1 * np.sign(speed))
    step = np.sin(2.5 * abs(speed) * times)
    for sign, arm, leg in (
        (1, angles.left_arm, angles.left_leg),
        (-1, angles.right_arm, angles.right_leg),
    ):
        arm.out, arm.swing = waves(random.uniform(0.2, 0.9), 0.12), waves(0.1, 0.25)
        arm.elbow = np.abs(waves(0.5, 0.3))
        lift = np.clip(sign * step, 0, None)
        leg.swing, leg.knee, leg.out = 0.3 * lift, 0.05 + 0.6 * lift, 0.06
    return angles


def _gesture(random: np.random.Generator, times: np.ndarray) -> Angles:
    """Somebody talks with both hands."""
    waves = _Waves(random, times, random.uniform(0.8, 1.4))
    angles = Angles(yaw=_view(random, 0.7), twist=waves(0, 0.1), roll=waves(0, 0.05), across=waves(0, 0.015))
    for arm in (angles.left_arm, angles.right_arm):
        arm.swing, arm.out = waves(0.25, 0.3), np.abs(waves(0.3, 0.2))
        arm.elbow, arm.bend_up = np.abs(waves(1.4, 0.6)), random.uniform(0, 0.5)
        arm.bend_in, arm.curl = random.uniform(0, 0.7), np.clip(waves(0.3, 0.4), 0, 1)
    for leg in (angles.left_leg, angles.right_leg):
        leg.out = random.uniform(0.03, 0.12)
    return angles


def _box(random: np.random.Generator, times: np.ndarray) -> Angles:
    """Punches left and right with the knees bent."""
    phase = TURN * (random.uniform(0.6, 1.0) * times + random.uniform())
    waves = _Waves(random, times, 1.0)
    angles = Angles(yaw=_view(random, 1.2), lean=0.12, twist=0.35 * np.sin(phase), across=waves(0, 0.03))
    for sign, arm, leg in (
        (1, angles.left_arm, angles.left_leg),
        (-1, angles.right_arm, angles.right_leg),
    ):
        punch = np.clip(-sign * np.sin(phase), 0, None) ** 1.5
        arm.swing, arm.out, arm.curl = 0.5 + 0.95 * punch, 0.35 - 0.2 * punch, 0.95
        arm.elbow, arm.bend_up, arm.bend_in = 2.1 - 1.9 * punch, 0.75, 0.2
        leg.swing, leg.knee, leg.out = 0.25 + 0.15 * sign, 0.4 + 0.1 * np.sin(2 * phase), 0.15
    return angles


KINDS: dict[str, Callable[[np.random.Generator, np.ndarray], Angles]] = {
    "walk": _walk,
    "dance": _dance,
    "wave": _wave,
    "squat": _squat,
    "jumping_jack": _jumping_jack,
    "turn": _turn,
    "gesture": _gesture,
    "box": _box,
}
"""Every kind of motion."""

ACTIONS = {
    "walk": "walks",
    "dance": "dances",
    "wave": "waves",
    "squat": "squats",
    "jumping_jack": "jumps",
    "turn": "turns",
    "gesture": "talks",
    "box": "boxes",
}
"""The verb of a caption for each kind."""
