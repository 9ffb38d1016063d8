"""Long motions from short ones: clips of one skeleton after another, or one over and over, without a jump.

One clip is left for the next where pose and velocity agree best (Kovar et al., Motion Graphs, 2002), wherever the
person stands and whichever way they face; the next is turned and moved to go on from there, and both are mixed for
half a second. Joints' distances are weighed alike, velocities by a quarter of a second.
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
WINDOW = 0.45
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
    for clip in cycle([*clips[1:], clips[0]]):
        if made + len(current) - start >= frames:
            break
        leave, enter = _seam(current, max(start, round((1 - WINDOW) * len(current))), clip, fade, up)
        clip = _carried(clip, enter, current, leave, up)
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


def _carried(clip: Motion, enter: int, current: Motion, leave: int, up: int) -> Motion:
    """The clip turned about the up axis and moved over the ground to be, at a frame, where the current one is."""
    theirs, ours = _features(clip, up)[0][enter], _features(current, up)[0][leave]
    angle = np.angle((theirs.conj() * ours).sum())
    turn, (one, other) = np.eye(3), ((up + 1) % 3, (up + 2) % 3)
    turn[[one, other, other, one], [one, other, one, other]] = (
        np.cos(angle),
        np.cos(angle),
        np.sin(angle),
        -np.sin(angle),
    )
    rotations, places = clip.rotations.copy(), clip.places.copy()
    rotations[:, 0] = turn @ rotations[:, 0]
    places[:, 0] = places[:, 0] @ turn.T
    shift = (current.places[leave, 0] - places[enter, 0]) * (np.arange(3) != up)
    places[:, 0] += shift
    return replace(clip, rotations=rotations, places=places)
