"""When each frame is shown: timestamps that are missing, doubled, astray or started again are put right.

The decoder's order of the frames is trusted over their timestamps. A timestamp that disagrees with those of the
frames around it is dropped; one that disagrees together with all that follow it is believed, as a gap where it is
later, as a clock that was started again where it is earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

GAP_S, GAP_STEPS = 1.0, 10
"""A frame is far from the one before it if it is over a second later, and over ten times the usual step."""
EVEN, MOSTLY = 0.1, 0.95
"""A clock is even where so many of its steps are the usual one, but for so much of it."""
MISSING = 1.5
"""Usual steps of an even clock from which a picture is missing."""
MOST_ASTRAY = 16
"""Frames in a row whose timestamps are dropped; and the most places between a frame's in the file and its on screen."""
DECODING_ORDER = 0.1
"""Share of small steps back above which the timestamps are those of the order of decoding, as AVI stores them."""


class Clock(NamedTuple):
    """times: (N,) float64, seconds from the first frame, strictly increasing.
    restarts: the frames at which the stored clock starts again."""

    times: np.ndarray
    restarts: list[int]


def far(step: float) -> float:
    """The distance from which two frames in a row are far apart, in the unit (seconds) of the usual `step`."""
    return max(GAP_S, GAP_STEPS * step)


def usual_step(times: np.ndarray, period: float) -> float:
    """The middle one of the distances between `times` (N,) in seconds; `period` if there is but one."""
    return float(np.median(np.diff(times))) if len(times) > 1 else period


def missing_before(times: np.ndarray) -> np.ndarray:
    """The frames of an even clock (N,) before which at least one is missing; none where it is not even."""
    steps, usual = np.diff(times), usual_step(times, 0.0)
    if not len(steps) or np.mean(np.abs(steps - usual) <= EVEN * usual) < MOSTLY:
        return np.zeros(0, np.intp)
    return np.flatnonzero(steps > MISSING * usual) + 1


def repaired_clock(shown: Sequence[int | None], unit: Fraction, period: float) -> Clock:
    """The clock of N frames with these timestamps in display order.

    `unit` is a tick in seconds. Missing, doubled and stray timestamps are spread evenly between their neighbours; those
    before or after all known ones follow at the mean distance, or at `period` seconds if there is but one. A clock
    that starts again goes on a step after the frame before.
    """
    count = len(shown)
    ticks = np.array([np.nan if stamp is None else stamp for stamp in shown], np.float64)
    known = np.flatnonzero(~np.isnan(ticks))
    if len(known) == 0:
        return Clock(np.arange(count) * period, [])
    values = ticks[known]
    usual = _usual(values, known) or period / float(unit)
    steps = np.diff(values)
    if np.sum((steps < 0) & (steps >= -MOST_ASTRAY * usual)) > DECODING_ORDER * len(values):
        values = np.sort(values)
        usual = _usual(values, known) or usual
    limit = far(usual * float(unit)) / float(unit)
    kept, values, restarts = _believed(values, usual, limit)
    restarts = known[restarts].tolist()
    known = known[kept]
    steps, frames = np.diff(values), np.diff(known)
    near = steps <= limit * frames
    each = steps[near].sum() / frames[near].sum() if near.any() else period / float(unit)
    known_and_ends = [-1, *known, count]
    values_and_ends = [values[0] - each * (known[0] + 1), *values, values[-1] + each * (count - known[-1])]
    ticks = np.interp(np.arange(count), known_and_ends, values_and_ends)
    return Clock((ticks - ticks[0]) * unit.numerator / unit.denominator, restarts)


def _usual(values: np.ndarray, places: np.ndarray) -> float:
    """The middle one of the steps forward from frame to frame; 0 if there is none."""
    steps = np.diff(values) / np.diff(places)
    return float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0


def _believed(values: np.ndarray, usual: float, limit: float) -> tuple[list[int], np.ndarray, list[int]]:
    """Which of `values` (N,) are believed, those values put in ascending order, and where the clock starts again."""
    steps = np.diff(values)
    if np.all((steps > 0) & (steps <= limit)):
        return list(range(len(values))), values, []
    stored = values.tolist()
    kept, told, restarts, shift, place = [0], [stored[0]], [], 0.0, 1
    while place < len(stored):
        value = stored[place] + shift
        step = value - told[-1]
        if not 0 < step <= limit:
            following = stored[place + 1 : place + 1 + MOST_ASTRAY]
            ahead = _first_near([later + shift - told[-1] for later in following], limit)
            back = told[-2 : -2 - MOST_ASTRAY : -1] if step < 0 else []
            behind = _first_near([value - earlier for earlier in back], limit)
            if ahead and (not behind or ahead <= behind):
                place += ahead
                continue
            if behind:
                del kept[-behind:], told[-behind:]
            elif step == 0:
                place += 1
                continue
            elif step < 0:
                shift += usual - step
                value = told[-1] + usual
                restarts.append(place)
        kept.append(place)
        told.append(value)
        place += 1
    return kept, np.array(told), restarts


def _first_near(steps: list[float], limit: float) -> int:
    """The number, from 1, of the first step that goes forward and not far; 0 if none does."""
    return next((number for number, step in enumerate(steps, 1) if 0 < step <= limit), 0)
