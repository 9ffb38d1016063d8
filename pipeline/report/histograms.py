"""How each score is distributed over kept and rejected clips, as bars that are ready to be drawn.

There are about 15 to 30 bins of equal width, with round edges. The axis spans the middle 99 % of the values and the
rule's bounds; values further out are counted in the outermost bars, and the caption says so. What a rule rejects is
counted from the stored reasons, not judged again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.verdict import Rule, Thresholds
from posegen.dataset import KEPT, OPTIONAL_SCORES, REJECTED, SCORES

MOST_BINS, MOST_TICKS = 30, 5
WIDTH, HEIGHT = 320.0, 84.0
"""Of the area that bars are drawn in, in the picture's own units."""


@dataclass(frozen=True)
class Bar:
    """One bin: its place and heights in units of the drawing, and what it says."""

    x: float
    width: float
    kept_height: float
    rejected_height: float
    says: str


@dataclass(frozen=True)
class Histogram:
    """One score's picture. Positions are x in units of the drawing; pairs of them go with a label or a width."""

    name: str
    description: str
    bounds: str
    values: int
    missing: int
    rejects: int
    rejects_alone: int
    beyond: str
    bars: list[Bar]
    ticks: list[tuple[float, str]]
    lines: list[tuple[float, str]]
    refused: list[tuple[float, float]]


def histograms(
    clips: pa.Table, thresholds: Thresholds, reasons: Mapping[str, tuple[int, int]]
) -> list[Histogram]:
    """One for each score that `clips` has, over its kept and rejected rows.

    reasons: for a rule's name, how many clips it rejects and how many of them no other rule does.
    """
    scores = {name: says for name, says in (SCORES | OPTIONAL_SCORES).items() if name in clips.column_names}
    judged = clips.select(["status", *scores]).filter(pc.is_in(clips["status"], pa.array([KEPT, REJECTED])))
    kept = pc.equal(judged["status"], KEPT).to_numpy()
    rules = {rule.score: rule for rule in thresholds.rules}
    return [
        _histogram(score, judged[score].to_numpy().astype(np.float64), kept, rules.get(score), reasons)
        for score in scores
    ]


def _histogram(
    score: str,
    values: np.ndarray,  # (clips,) NaN where there is none
    kept: np.ndarray,  # (clips,) bool
    rule: Rule | None,
    reasons: Mapping[str, tuple[int, int]],
) -> Histogram:
    measured = ~np.isnan(values)
    limits = [bound for bound in (rule.min, rule.max) if math.isfinite(bound)] if rule else []
    edges = bin_edges(values[np.isfinite(values)], limits)
    inside = np.clip(values, edges[0], edges[-1])
    counts = np.array([np.histogram(inside[measured & which], edges)[0] for which in (kept, ~kept)])
    rejects, alone = reasons.get(score, (0, 0))

    def x(value: float) -> float:
        return round(WIDTH * (value - edges[0]) / (edges[-1] - edges[0]), 1)

    return Histogram(
        name=score,
        description=(SCORES | OPTIONAL_SCORES)[score],
        bounds=bounds_text(rule) if rule else "no rule",
        values=int(measured.sum()),
        missing=int((~measured).sum()),
        rejects=rejects,
        rejects_alone=alone,
        beyond=_beyond(values, edges),
        bars=_bars(edges, counts),
        ticks=[(x(tick), f"{tick:g}") for tick in _ticks(edges)],
        lines=[(x(limit), f"{limit:g}") for limit in limits],
        refused=_refused(rule, x) if rule else [],
    )


def bin_edges(values: np.ndarray, limits: list[float]) -> np.ndarray:
    """Round, evenly spaced edges for finite values and a rule's limits; some edges even where there are neither."""
    outer = [*np.percentile(values, [0.5, 99.5]), *limits] if len(values) else limits or [0.0, 1.0]
    low, high = float(min(outer)), float(max(outer))
    all_alike = high - low <= 1e-3 * max(abs(low), abs(high))
    if all_alike or 0 < low < high / 2:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        high = 1.0
    rim = (high - low) / MOST_BINS  # so that values beyond a limit have a bar on its far side
    low = max(
        min(low, 0.0), min([low, *(limit - rim for limit in limits)])
    )  # but the axis does not go below 0 for it
    high = max([high, *(limit + rim for limit in limits)])
    step = round_step((high - low) / MOST_BINS)
    return _multiples(step, math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9))


def _multiples(step: float, first: int, last: int) -> np.ndarray:
    """The multiples of a round step from the first to the last, without the noise of binary fractions."""
    return np.round(np.arange(first, last + 1) * step, 2 - math.floor(math.log10(step)))


def round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least this."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= least * (1 - 1e-9))


def _ticks(edges: np.ndarray) -> np.ndarray:
    step = round_step((edges[-1] - edges[0]) / MOST_TICKS)
    return _multiples(step, math.ceil(edges[0] / step - 1e-9), math.floor(edges[-1] / step + 1e-9))


def _bars(edges: np.ndarray, counts: np.ndarray) -> list[Bar]:
    """The bins that hold a clip; counts: (2, bins) kept and rejected."""
    width = WIDTH / (len(edges) - 1)
    heights = np.round(counts * HEIGHT / max(counts.sum(0).max(), 1), 2)
    return [
        Bar(
            x=round(place * width, 2),
            width=round(width, 2),
            kept_height=float(heights[0, place]),
            rejected_height=float(heights[1, place]),
            says=f"{edges[place]:g} to {edges[place + 1]:g}: {kept:,} kept, {rejected:,} rejected",
        )
        for place, (kept, rejected) in enumerate(counts.T.tolist())
        if kept or rejected
    ]


def _beyond(values: np.ndarray, edges: np.ndarray) -> str:
    """Says how many values lie off the axis."""
    below, above = int((values < edges[0]).sum()), int((values > edges[-1]).sum())
    said = [f"{below:,} below {edges[0]:g}"] if below else []
    said += [f"{above:,} above {edges[-1]:g}"] if above else []
    return " and ".join(said)


def _refused(rule: Rule, x: Callable[[float], float]) -> list[tuple[float, float]]:
    """Stretches of the axis that the rule rejects, as (x, width)."""
    stretches = [(0.0, x(rule.min))] if math.isfinite(rule.min) else []
    if math.isfinite(rule.max):
        stretches.append((x(rule.max), round(WIDTH - x(rule.max), 1)))
    return stretches


def bounds_text(rule: Rule) -> str:
    """A rule's bounds in words."""
    if math.isinf(rule.max):
        return f"at least {rule.min:g}"
    if math.isinf(rule.min):
        return f"at most {rule.max:g}"
    return f"{rule.min:g} to {rule.max:g}"
