"""Curves over seconds as an SVG picture that stands in an HTML page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

import numpy as np

WIDTH, HEIGHT = 640, 180
LEFT, TOP, BOTTOM = 52, 10, 24
COLOURS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#dc2626")
TICKS = 4
Scale = Callable[[float], float]


def curve_plot(curves: Mapping[str, np.ndarray]) -> str:
    """Lines of values (S,) of seconds, one for each name, on one axis; NaN and infinity leave a gap.

    Where there is nothing to draw the picture says so.
    """
    finite = np.concatenate([values[np.isfinite(values)] for values in curves.values()])
    seconds = max(len(values) for values in curves.values())
    if not len(finite):
        return f'<svg viewBox="0 0 {WIDTH} 30"><text x="4" y="20">nothing to draw</text></svg>'
    low, high = min(0.0, float(finite.min())), float(finite.max())
    high = high if high > low else low + 1

    def x(second: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * second / max(1, seconds)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    parts = [_grid(low, high, seconds, x, y)]
    for colour, (name, values) in zip(_cycle(len(curves)), curves.items(), strict=True):
        parts += [
            f'<polyline points="{_points(run, x, y)}" fill="none" stroke="{colour}" stroke-width="1.6">'
            f"<title>{escape(name)}</title></polyline>"
            for run in _runs(values)
        ]
    legend = "".join(
        f'<span style="color:{colour}">&#9644; {escape(name)}</span> '
        for colour, name in zip(_cycle(len(curves)), curves, strict=True)
    )
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
    return svg + (f'<div class="legend">{legend}</div>' if len(curves) > 1 else "")


def _cycle(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _runs(values: np.ndarray) -> list[list[tuple[float, float]]]:
    """Stretches of finite values as points (middle of the second, value)."""
    there = np.isfinite(values)
    edges = np.flatnonzero(np.diff(there, prepend=False, append=False))
    return [
        [(at + 0.5, float(values[at])) for at in range(start, stop)]
        for start, stop in edges.reshape(-1, 2).tolist()
    ]


def _points(run: list[tuple[float, float]], x: Scale, y: Scale) -> str:
    if len(run) == 1:  # a line needs two ends
        run = [(run[0][0] - 0.3, run[0][1]), (run[0][0] + 0.3, run[0][1])]
    return " ".join(f"{x(second):.1f},{y(value):.1f}" for second, value in run)


def _grid(low: float, high: float, seconds: int, x: Scale, y: Scale) -> str:
    lines = []
    for value in np.linspace(low, high, TICKS):
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        lines.append(f'<text x="{LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for second in sorted({round(at) for at in np.linspace(0, seconds, TICKS + 1)}):
        lines.append(f'<text x="{x(second):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{second} s</text>')
    return f'<g class="grid">{"".join(lines)}</g>'
