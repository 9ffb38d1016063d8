"""Plans crops: windows of one size each that follow one person through part of a clip, and show nobody else.

It knows boxes and no pictures. A window keeps its size, so that nothing is scaled and the picture does not pump, and
moves as little as it can: not at all where one place does for the whole time, else along the smoothest path between
what the person and the others leave free.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

ASPECTS = ((9, 16), (16, 9))
"""Width to height of the training's pictures; 480 x 832 is within 3 % of the first, 832 x 480 of the second."""
MARGIN = 0.08
"""What people take beyond the box of their joints, over its height: hair, shoulders, fingers, shoes. Half a head."""
MOST_OF_OTHERS = 0.05
"""Largest share of another's box, margin included, that a crop may show: the outer twentieth of it is margin, so what
can be seen there is a sleeve at most."""
SHORTEST_S, FEWEST_FRAMES = 2.0, 81
"""As of any other clip."""
SHRINK = 0.88
"""From one size that is tried to the next."""
SMALLEST_SIDE = 240
"""Pixels; the smallest training pictures, of 480, would enlarge such a crop twice."""
GAP_S = 1.0
"""How long a person who is not seen is taken to be on the way from where they were seen to where they are next, and to
have been there before and after. Estimators look for new people once a second or more often."""
NEARLY = 0.9
"""A larger window is worth it while it lasts at least so much of the longest time."""
EASE_S = 1 / 6
"""Over three times as long the bounds of a window are eased, since boxes shake and jump."""
SMOOTH_S, ROUNDS = 1.0, 100
"""Seconds over which a window's path is averaged, and how often; together some three seconds."""


@dataclass(frozen=True)
class Crop:
    """A window on one person: frames `first` to `last` - 1 of the clip.

    size: (width, height) in pixels, even. corners: (last - first, 2) int32, x and y of its top left pixel.
    """

    first: int
    last: int
    size: tuple[int, int]
    corners: np.ndarray


def plan_crops(boxes: np.ndarray, size: tuple[int, int], rate: float) -> list[Crop | None]:
    """For each person the window that shows them alone and whole, None where there is none for long enough.

    boxes: (P, T, 4) in pixels of a picture of `size` (width, height), x0, y0, x1, y1 around the joints; NaN where a
    person is not seen. rate: frames a second.
    """
    reach = round(GAP_S * rate)
    whole = np.stack([_grown(_filled(track, reach), size) for track in boxes])
    held = np.stack([_held(track, reach) for track in whole])
    return [_best(whole[person], np.delete(held, person, axis=0), size, rate) for person in range(len(boxes))]


def _best(box: np.ndarray, others: np.ndarray, size: tuple[int, int], rate: float) -> Crop | None:
    """The largest window among those that last (nearly) longest. box: (T, 4). others: (P - 1, T, 4)."""
    least = max(FEWEST_FRAMES, int(np.ceil(SHORTEST_S * rate)))
    found = []
    for window in window_sizes(size):
        tubes = _tubes(box, others, window, size, rate)
        first, last = _longest(np.all(tubes[0] <= tubes[1], axis=1))
        if last - first >= least:
            found.append((first, last, window, tubes))
    if not found:
        return None
    longest = max(last - first for first, last, _, _ in found)
    long_enough = [one for one in found if one[1] - one[0] >= NEARLY * longest]
    first, last, window, (low, high) = max(long_enough, key=lambda one: one[2][0] * one[2][1])
    middle = (box[first:last, :2] + box[first:last, 2:] - window) / 2
    corners = [
        smooth_path(middle[:, axis], low[first:last, axis], high[first:last, axis], rate) for axis in (0, 1)
    ]
    return Crop(first, last, window, np.round(np.stack(corners, axis=1)).astype(np.int32))


def window_sizes(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Sizes of windows to try in a picture of (width, height), of each aspect from the largest on; sides are even."""
    for across, down in ASPECTS:
        height = min(float(size[1]), size[0] * down / across)
        while min(height, height * across / down) >= SMALLEST_SIDE:
            yield int(height * across / down) // 2 * 2, int(height) // 2 * 2
            height *= SHRINK


def _tubes(
    box: np.ndarray, others: np.ndarray, window: tuple[int, int], size: tuple[int, int], rate: float
) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest corner (T, 2) of a window that holds the box and not too much of the others, frame by frame.

    The least is above the greatest, or NaN, where there is none.
    """
    room = np.array(size) - window
    low, high = np.maximum(box[:, 2:] - window, 0), np.minimum(box[:, :2], room)
    # People stand beside each other far more often than above, so the height of the window is settled first.
    low[:, 1], high[:, 1] = eased(low[:, 1], high[:, 1], box[:, 1], rate)
    top = smooth_path((box[:, 1] + box[:, 3] - window[1]) / 2, low[:, 1], high[:, 1], rate)
    low[:, 1] = high[:, 1] = np.where(low[:, 1] <= high[:, 1], top, np.nan)
    for other in others:
        tall = np.maximum(other[:, 3] - other[:, 1], 1e-6)
        down = np.minimum(other[:, 3], top + window[1]) - np.maximum(other[:, 1], top)
        shown = np.maximum(down / tall, 1e-6)
        across = np.minimum(MOST_OF_OTHERS / shown, 1) * (other[:, 2] - other[:, 0])
        left = other[:, 0] + other[:, 2] < box[:, 0] + box[:, 2]
        # A comparison with NaN, of someone who is not there, is false.
        begin, end = other[:, 2] - across, other[:, 0] + across - window[0]
        low[:, 0] = np.where(left & (begin > low[:, 0]), begin, low[:, 0])
        high[:, 0] = np.where(~left & (end < high[:, 0]), end, high[:, 0])
    low[:, 0], high[:, 0] = eased(low[:, 0], high[:, 0], box[:, 0], rate)
    return low, high


def eased(
    low: np.ndarray, high: np.ndarray, person: np.ndarray, rate: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (T,) inside of the given ones that neither shake nor jump, so that a path along them does not.

    person: (T,) where the person is; they are eased as seen from there, so that moving on costs no room. Bounds without
    anything between them stay.
    """
    there = low <= high
    if not there.any():
        return low, high
    reach, number = max(1, round(EASE_S * rate)), np.arange(len(low))
    way = np.interp(number, number[there], person[there])
    for _ in range(2):
        way = _mean(way, round(SMOOTH_S * rate / 2))
    found = []
    for values, sign in ((low, 1), (high, -1)):
        bound = np.interp(number, number[there], sign * (values - way)[there])
        wide = np.pad(bound, 2 * reach, mode="edge")
        bound = np.lib.stride_tricks.sliding_window_view(wide, 4 * reach + 1).max(axis=1)
        # A mean of greatest values, each of which has seen this frame, is no less than its own.
        found.append(np.where(there, way + sign * _mean(_mean(bound, reach), reach), values))
    return found[0], found[1]


def _mean(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean of each value (T,) and those at most `reach` away; the ends go on as they are."""
    kernel = np.full(2 * reach + 1, 1 / (2 * reach + 1))
    return np.convolve(np.pad(values, reach, mode="edge"), kernel, mode="valid")


def _longest(there: np.ndarray) -> tuple[int, int]:
    """The first longest run of true values, half open."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], there.astype(np.int8), [0]]))).reshape(-1, 2)
    if not len(edges):
        return 0, 0
    first, last = edges[(edges[:, 1] - edges[:, 0]).argmax()].tolist()
    return first, last


def smooth_path(wanted: np.ndarray, low: np.ndarray, high: np.ndarray, rate: float) -> np.ndarray:
    """A path (T,) between `low` and `high` that stays near `wanted` and moves as evenly as it can.

    It stands still where one value lies between all. NaN among the bounds is passed over; what there is no way
    through is crossed at `low`.
    """
    there = low <= high
    if not there.any():
        return wanted
    floor, ceiling = low[there].max(), high[there].min()
    if floor <= ceiling:
        return np.full(len(wanted), np.clip(np.mean(wanted[there]), floor, ceiling))
    number = np.arange(len(wanted))
    low, high, path = (np.interp(number, number[there], values[there]) for values in (low, high, wanted))
    reach = max(1, round(SMOOTH_S * rate / 2))
    for _ in range(ROUNDS):
        path = np.clip(_mean(path, reach), low, high)
    return path


def _filled(track: np.ndarray, reach: int) -> np.ndarray:
    """The boxes (T, 4) with gaps of at most `reach` frames bridged in a straight line."""
    seen = np.flatnonzero(~np.isnan(track[:, 0]))
    filled = track.astype(np.float64)
    for before, after in zip(seen[:-1].tolist(), seen[1:].tolist(), strict=True):
        if 1 < after - before <= reach + 1:
            share = np.linspace(0, 1, after - before + 1)[1:-1, None]
            filled[before + 1 : after] = (1 - share) * track[before] + share * track[after]
    return filled


def _held(track: np.ndarray, reach: int) -> np.ndarray:
    """The boxes (T, 4) also up to `reach` frames before a person was found and after they were lost."""
    seen = np.flatnonzero(~np.isnan(track[:, 0]))
    if not len(seen):
        return track
    frames = np.arange(len(track))
    nearest = seen[np.abs(frames[:, None] - seen[None]).argmin(axis=1)]
    near = np.abs(frames - nearest) <= reach
    return np.where(near[:, None], track[nearest], np.nan)


def _grown(track: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The boxes (T, 4) with the margin around the joints, within the picture."""
    margin = MARGIN * (track[:, 3:] - track[:, 1:2])
    return np.clip(track + np.concatenate([-margin, -margin, margin, margin], axis=1), 0, [*size, *size])
