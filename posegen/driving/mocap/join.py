"""Long motions from short ones: clips of one skeleton after another, or one over and over, without a jump.

One clip is left for the next where pose and velocity agree best (Kovar et al., Motion Graphs, 2002), wherever the
person stands and whichever way they face; the next is turned and moved to go on from there, and both are mixed for
half a second. A clip in which the person turns would, over and over, soon show backs only, so one that is entered again
is turned back, little by little, to how it was first. Joints' distances are weighed alike, velocities by a quarter of a
second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np

from posegen.driving.mocap.motion import Motion, blended, resampled

FADE_S = 0.5
VELOCITY_S = 0.25
"""Seconds of movement that weigh as much as so much distance of the pose."""
MOST_SECONDS = 3600.0
WINDOW = 0.25
"""The share at the end of a clip in which it may be left, and at the start of the next in which that is entered."""


def joined(motions: Sequence[Motion], seconds: float, up: int = 1) -> Motion:
    """A motion of that length, at the first one's rate, that goes through the motions in turn and begins again.

    up: the index of the world's axis that points up or down. Raises ValueError where the skeletons differ or one is
    shorter than four fades.
    """
    if not 0 < seconds <= MOST_SECONDS:
        raise ValueError(f"A motion of {seconds:g} s is not made; ask for up to {MOST_SECONDS:g}.")
    first = motions[0]
    frames, fade = max(1, round(seconds * first.rate)), max(1, round(FADE_S * first.rate))
    clips = [motion if motion.rate == first.rate else resampled(motion, first.rate) for motion in motions]
    for clip in clips:
        if (clip.names, clip.parents) != (first.names, first.parents):
            raise ValueError("Motions of different skeletons cannot be joined; give those of one skeleton.")
        if len(clip) < 4 * fade and (len(clips) > 1 or len(clip) < frames):
            length = len(clip) / first.rate
            raise ValueError(f"A motion of {length:.2g} s is too short to go on from; give {4 * FADE_S:g} s.")
    parts, made = [], 0
    current, start = clips[0], 0  # the clip where it is now, and its first frame that is not yet in the parts
    facing = {0: 0.0}  # how far each clip is turned, as it is entered first
    for number in cycle([*range(1, len(clips)), 0]):
        if made + len(current) - start >= frames:
            break
        clip = clips[number]
        leave, enter = _seam(current, max(start, round((1 - WINDOW) * len(current))), clip, fade, up)
        angle = _angle(clip, enter, current, leave, up)
        clip = _carried(clip, enter, angle, facing.setdefault(number, angle), current.places[leave, 0], up)
        share = (np.arange(fade) + 1) / (fade + 1)
        steps = np.arange(fade)
        mixed = blended(current, leave + steps, clip, enter + steps, share * share * (3 - 2 * share))
        parts += [current[start:leave], mixed]
        made += leave - start + fade
        current, start = clip, enter + fade
    parts.append(current[start : start + frames - made])
    return replace(
        first,
        rotations=np.concatenate([part.rotations for part in parts])[:frames],
        places=np.concatenate([part.places for part in parts])[:frames],
    )


def _seam(current: Motion, first: int, clip: Motion, fade: int, up: int) -> tuple[int, int]:
    """The frame from which on the current clip is left, and that at which the next is entered."""
    leaving = np.arange(min(first, len(current) - fade - 1), len(current) - fade)
    entering = np.arange(1, max(2, min(round(WINDOW * len(clip)), len(clip) - fade)))
    one, other = (_features(motion, up) for motion in (current, clip))
    flat, high = (
        [part[frames] for part, frames in zip(pair, (leaving, entering), strict=True)]
        for pair in zip(one, other, strict=True)
    )
    turned = np.abs(flat[0].conj() @ flat[1].T)  # as near as turning about the up axis brings them
    apart = (np.abs(flat[0]) ** 2).sum(1)[:, None] + (np.abs(flat[1]) ** 2).sum(1) - 2 * turned
    apart = apart + (high[0] ** 2).sum(1)[:, None] + (high[1] ** 2).sum(1) - 2 * high[0] @ high[1].T
    leave, enter = np.unravel_index(apart.argmin(), apart.shape)
    return int(leaving[leave]), int(entering[enter])


def _features(motion: Motion, up: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each frame, joints about the root and velocities: across the ground as complex numbers (T, 2J), and up."""
    at, _ = motion.world()
    speed = np.gradient(at, axis=0) * motion.rate * VELOCITY_S if len(motion) > 1 else np.zeros_like(at)
    across = at - at[:, :1] * (np.arange(3) != up)
    both = np.concatenate([across, speed], axis=1)
    return both[..., (up + 1) % 3] + 1j * both[..., (up + 2) % 3], both[..., up]


def _angle(clip: Motion, enter: int, current: Motion, leave: int, up: int) -> float:
    """How far, in radians about the up axis, the clip is to be turned to face as the current one does."""
    theirs, ours = _features(clip, up)[0][enter], _features(current, up)[0][leave]
    return float(np.angle((theirs.conj() * ours).sum()))


def _carried(clip: Motion, enter: int, angle: float, home: float, place: np.ndarray, up: int) -> Motion:
    """The clip turned by an angle and moved over the ground to a place (3,), where it is at the frame `enter`; from
    there to its end it is turned on to the angle `home`, the shorter way."""
    share = np.clip((np.arange(len(clip)) - enter) / max(len(clip) - 1 - enter, 1), 0, 1)
    angles = angle + share * np.angle(np.exp(1j * (home - angle)))
    turns, (one, other) = np.tile(np.eye(3), (len(clip), 1, 1)), ((up + 1) % 3, (up + 2) % 3)
    turns[:, one, one] = turns[:, other, other] = np.cos(angles)
    turns[:, other, one], turns[:, one, other] = np.sin(angles), -np.sin(angles)
    rotations, places = clip.rotations.copy(), clip.places.copy()
    rotations[:, 0] = turns @ rotations[:, 0]
    steps = np.diff(places[:, 0], axis=0, prepend=places[:1, 0])
    path = places[0, 0] + np.einsum("tij,tj->ti", turns, steps).cumsum(axis=0)
    places[:, 0] = path + (place - path[enter]) * (np.arange(3) != up)
    return replace(clip, rotations=rotations, places=places)
