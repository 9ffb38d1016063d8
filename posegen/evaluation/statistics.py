"""What figures of clips, frames and pairs add up to: intervals, slopes, seconds, and whether a difference is chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
FLIPS = 10_000
"""Random sign flips of a permutation test."""
LEAST_SLOPED = 20
"""Seconds from which on a slope is told."""


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


def bootstrap(values: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """The mean of independent values, such as one for each clip, with its 95 % percentile bootstrap interval.

    Values that are not finite are left out; NaN where none is left.
    """
    samples = np.asarray(values, np.float64)
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return Interval(np.nan, np.nan, np.nan)
    draws = np.random.default_rng(seed).integers(len(samples), size=(RESAMPLES, len(samples)))
    low, high = np.quantile(samples[draws].mean(axis=1), [0.025, 0.975])
    return Interval(float(samples.mean()), float(low), float(high))


def bootstrap_ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Interval:
    """The ratio of the means of paired values, with its 95 % percentile bootstrap interval over the pairs."""
    pairs = np.array([above, below], np.float64)
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    if not pairs.size:
        return Interval(np.nan, np.nan, np.nan)
    draws = np.random.default_rng(seed).integers(pairs.shape[1], size=(RESAMPLES, pairs.shape[1]))
    means = pairs[:, draws].mean(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanquantile(means[0] / means[1], [0.025, 0.975])
        return Interval(float(pairs[0].mean() / pairs[1].mean()), float(low), float(high))


def per_second(values: np.ndarray, rate: float) -> np.ndarray:
    """The mean (S,) of values (T,) of frames over each second, NaN where it has none; rate: frames a second."""
    values = np.asarray(values, np.float64)
    seconds = np.floor(np.arange(len(values)) / rate + 1e-9).astype(int)
    there = np.isfinite(values)
    counts = np.bincount(seconds[there], minlength=seconds.max(initial=-1) + 1)
    sums = np.bincount(seconds[there], values[there], minlength=len(counts))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def slope_per_minute(values: np.ndarray) -> float:
    """How much values (T,), one a second, rise in a minute: least squares over the finite ones.

    NaN where fewer than two are, and for a video of under 20 s, whose slope is that of its motion.
    """
    values = np.asarray(values, np.float64)
    there = np.flatnonzero(np.isfinite(values))
    if len(values) < LEAST_SLOPED or len(there) < 2:
        return float("nan")
    return float(np.polyfit(there / 60, values[there], 1)[0])


def last_over_first(values: np.ndarray, seconds: int = 10) -> float:
    """The mean of the last so many seconds' values over that of the first; NaN for a video shorter than both."""
    if len(values) < 2 * seconds:
        return float("nan")
    first, last = np.nanmean(values[:seconds]), np.nanmean(values[-seconds:])
    return float(last / first) if first > 0 else float("nan")


def paired_permutation_test(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """How likely a mean difference at least as large is if nothing tells the two of a pair (N,) apart: p, two-sided.

    Signs of differences are flipped at random (all ways up to 12 pairs); NaN where there is no pair.
    """
    differences = np.asarray(first, np.float64) - second
    differences = differences[np.isfinite(differences)]
    count = len(differences)
    if not count:
        return float("nan")
    if exact := count <= 12:
        signs = 1 - 2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1, 1], size=(FLIPS, count))
    observed, flipped = abs(differences.mean()), np.abs((signs * differences).mean(axis=1))
    as_large = (flipped >= observed - 1e-12 * max(1.0, observed)).sum()
    return float(as_large / len(signs) if exact else (as_large + 1) / (len(signs) + 1))
