"""What the measurements of `evaluate.py` come to: a table for each length, strata, curves, and which goals hold."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posegen.evaluation.measure import Measured
from posegen.evaluation.plot import curve_plot
from posegen.evaluation.report import STYLE
from posegen.evaluation.seams import FIGURES
from posegen.evaluation.statistics import Interval, bootstrap, bootstrap_ratio

OURS, UNSHARED, CROSSFADE = "ours", "not shared", "cross-fade in place of bridges"
EVERYWHERE = "shared in all steps and blocks"
GOAL = 1.1
FEWEST = 3
"""Videos from which on an interval says something."""
Row = tuple[str, Measured, dict[str, Any]]
Video = dict[str, tuple[Measured, dict[str, Any]]]
COLUMNS = {
    "identity_truth": "identity, Lab",
    "identity_truth_slope": "a minute",
    "identity_truth_last_over_first": "last/first",
    "background_truth": "background, Lab",
    "background_truth_slope": "a minute",
    "background_truth_last_over_first": "last/first",
    "unseen_background": "unseen, Lab",
    "seam_warp": "seam warp",
    "seam_ghosting": "ghosting",
    "silhouette_iou": "IoU",
    "psnr": "PSNR, dB",
    "perceptual": "ST-LPIPS",
}
DRAWN = ("identity_truth", "background_truth", "silhouette_iou")


class Table:
    """The measurements of videos by length and seed, each kept in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, seconds: float, seed: int) -> Path:
        return self.folder / f"{seconds:g}-{seed}.pickle"

    def has(self, seconds: float, seed: int) -> bool:
        """Whether a video was measured."""
        return self._path(seconds, seed).exists()

    def add(self, seconds: float, seed: int, rows: list[Row]) -> None:
        """Keeps what was measured of a video, all ways."""
        part = self._path(seconds, seed).with_suffix(".part")
        part.write_bytes(pickle.dumps(rows))
        part.rename(self._path(seconds, seed))

    def lengths(self) -> list[float]:
        """Seconds that were measured."""
        return sorted({float(path.stem.rpartition("-")[0]) for path in self.folder.glob("*.pickle")})

    def videos(self, seconds: float | None = None, seed: int | None = None) -> list[Video]:
        """Of each video of a length, of a seed, or of all, what each way came to."""
        length = "*" if seconds is None else f"{seconds:g}"
        paths = sorted(self.folder.glob(f"{length}-{'*' if seed is None else seed}.pickle"))
        rows = [pickle.loads(path.read_bytes()) for path in paths]
        return [{name: (found, cost) for name, found, cost in row} for row in rows]

    def seeds(self) -> list[int]:
        """Those that were measured: a person, a place and a motion each, the same at all lengths."""
        return sorted({int(path.stem.rpartition("-")[2]) for path in self.folder.glob("*.pickle")})


def figure(measured: Measured, name: str) -> float:
    """A figure of a video: one of its summary, or a seam's, which is the mean of its three places' ratios."""
    if name.startswith("seam_"):
        kind = name.removeprefix("seam_")
        here = [seam.pairs.mean(axis=0) for seam in measured.seams if seam.name == kind]
        at, inside = np.mean(here, axis=0) if here else (np.nan, np.nan)
        return float(at - inside) if kind == "ghosting" else float(at / inside)
    return measured.summary().get(name, float("nan"))


def print_table(table: Table, seconds: float) -> dict[str, dict[str, Any]]:
    """Prints the table of a length; returns means and intervals by way and figure, and the costs."""
    videos = table.videos(seconds)
    print(f"\n{seconds:g} s, {len(videos)} videos")
    print(f"{'':38}" + "".join(f"{head:>30}" for head in COLUMNS.values()) + f"{'passes':>8}{'in a row':>9}")
    figures: dict[str, dict[str, Any]] = {}
    for way in videos[0]:
        found = {name: bootstrap([figure(video[way][0], name) for video in videos]) for name in COLUMNS}
        cost = videos[0][way][1]
        cells = "".join(f"{said(interval):>30}" for interval in found.values())
        print(f"{way:38}{cells}{cost.get('passes', ''):>8}{cost.get('critical_path', ''):>9}", flush=True)
        figures[way] = {name: list(interval) for name, interval in found.items()} | cost
    return figures


def said(interval: Interval) -> str:
    """An interval as text, empty where there was nothing to measure."""
    return "" if np.isnan(interval.mean) else str(interval)


def print_thirds(table: Table, name: str, title: str, form: str) -> None:
    """Prints how errors of ours depend on one of the curves, in thirds of all seconds; form: of its values.

    People differ, and a third can be mostly one person's: so also beside the other seconds of the same videos.
    """
    curves = [video[OURS][0].curves for video in table.videos()]
    print(f"\nOurs by {title}")
    if not all(name in curve for curve in curves):
        print(
            f"Not told: {table.folder} has videos of an earlier version; give another --output to measure anew."
        )
        return
    edges = np.quantile(np.concatenate([curve[name] for curve in curves]), [0, 1 / 3, 2 / 3, 1])
    for low, high in pairwise(edges):
        here = [(curve[name] >= low) & (curve[name] <= high) for curve in curves]
        (identity, identity_more), (overlap, overlap_more) = (
            _beside_others(curves, here, error) for error in ("identity_truth", "silhouette_iou")
        )
        found = f"identity error {identity} Lab, silhouette IoU {overlap}"
        print(f"{low:{form}} to {high:{form}}: {found}, in {sum(at.any() for at in here)} videos")
        if mixed := sum(at.any() and not at.all() for at in here):
            print(
                f"    less that of the same video's other seconds: {identity_more}, {overlap_more}, in {mixed}"
            )


def _beside_others(
    curves: list[dict[str, np.ndarray]], here: list[np.ndarray], error: str
) -> tuple[Interval, Interval]:
    """An error's mean in some seconds, and how much more that is than in the other seconds of the same videos."""
    pairs = [(curve[error], at) for curve, at in zip(curves, here, strict=True) if at.any()]
    more = [values[at].mean() - values[~at].mean() for values, at in pairs if not at.all()]
    return bootstrap([values[at].mean() for values, at in pairs]), bootstrap(more)


def print_strata(tables: dict[str, Table]) -> dict[str, Any]:
    """Prints the method's errors by what the pictures show, and what sharing and bridges change; returns them."""
    found = {}
    for name, table in tables.items():
        videos = table.videos()
        ours = {kind: bootstrap([figure(video[OURS][0], kind) for video in videos]) for kind in COLUMNS}
        print(f"\n{name}, {len(videos)} videos")
        print(
            "; ".join(f"{COLUMNS[kind]} {said(value)}" for kind, value in ours.items() if said(value)),
            flush=True,
        )
        found[name] = {kind: list(value) for kind, value in ours.items()} | {
            "effects": effects(table) if len(table.seeds()) >= FEWEST else {}
        }
    return found


def print_goals(table: Table) -> dict[str, Any]:
    """Prints which goals hold; returns them with their figures. Intervals are over seeds, as lengths share people."""
    if len(table.seeds()) < FEWEST:
        print(f"\nThe goals are judged from {FEWEST} seeds on.")
        return {}
    goals = over_time(table) | at_seams(table)
    print("\nGoals, with 95 % intervals over people")
    found = {}
    for name, (interval, most) in goals.items():
        holds = interval.high <= most
        print(f"{'holds    ' if holds else 'does not '} {name}: {interval}, wanted at most {most:g}")
        found[name] = {"interval": list(interval), "at_most": most, "holds": bool(holds)}
    return found | effects(table)


def over_time(table: Table) -> dict[str, tuple[Interval, float]]:
    """How errors of the last 10 s compare to those of the first, of each length that has both."""
    goals = {}
    for length in (length for length in table.lengths() if length >= 20):
        for name in ("identity_truth", "background_truth"):
            values = [figure(video[OURS][0], f"{name}_last_over_first") for video in table.videos(length)]
            goals[f"{name} in the last 10 s of {length:g} s over the first"] = (bootstrap(values), GOAL)
    return goals


def at_seams(table: Table) -> dict[str, tuple[Interval, float]]:
    """How much more shows at seams than inside segments."""
    goals = {}
    for kind in ("difference", "warp", "colour"):
        means = [
            np.nanmean([seam_means(video[OURS][0], kind) for video in table.videos(seed=seed)], axis=0)
            for seed in table.seeds()
        ]
        at, inside = np.transpose(means)
        goals[f"seams over inside segments, {FIGURES[kind]}"] = (bootstrap_ratio(at, inside), GOAL)
    return goals


def effects(table: Table) -> dict[str, Any]:
    """Prints what sharing and bridges change, person by person; below 0 is better, and 0 outside is an effect."""
    print("\nWith less without, person by person: below 0 is better")
    found = {}
    for name, made, without, kind in (
        ("sharing: disagreement of the unseen background", OURS, UNSHARED, "unseen_background"),
        ("sharing: background error", OURS, UNSHARED, "background_truth"),
        (
            "sharing everywhere: disagreement of the unseen background",
            EVERYWHERE,
            UNSHARED,
            "unseen_background",
        ),
        ("sharing everywhere: background error", EVERYWHERE, UNSHARED, "background_truth"),
        ("bridges: flow-warp error at seams over inside", OURS, CROSSFADE, "seam_warp"),
        ("bridges: ghosting at seams more than inside", OURS, CROSSFADE, "seam_ghosting"),
        ("bridges: identity error", OURS, CROSSFADE, "identity_truth"),
    ):
        apart = []
        for seed in table.seeds():
            videos = table.videos(seed=seed)
            lower = [figure(video[made][0], kind) - figure(video[without][0], kind) for video in videos]
            apart.append(float(np.nanmean(lower)) if np.isfinite(lower).any() else np.nan)
        interval = bootstrap(apart)
        verdict = "better" if interval.high < 0 else "worse" if interval.low > 0 else "no effect"
        print(f"{verdict:10}{name}: {interval}")
        found[name] = {"interval": list(interval), "effect": verdict}
    return found


def seam_means(measured: Measured, kind: str) -> tuple[float, float]:
    """Means of a figure at the places of a video's seams and at their matches; NaN where there is no seam."""
    here = [seam.pairs.mean(axis=0) for seam in measured.seams if seam.name == kind]
    at, inside = np.mean(here, axis=0) if here else (np.nan, np.nan)
    return float(at), float(inside)


def write_curves(table: Table, path: Path) -> None:
    """An HTML page of the mean curves over time of each length."""
    parts = []
    for length in table.lengths():
        videos = table.videos(length)
        parts.append(f"<h2>{length:g} s, mean of {len(videos)} videos</h2>")
        for name in DRAWN:
            ways = [way for way in videos[0] if length > 30 or not way.startswith(("guidance", "mask"))]
            curves = {way: np.mean([video[way][0].curves[name] for video in videos], axis=0) for way in ways}
            parts.append(f"<h3>{name}</h3>{curve_plot(curves)}")
    page = f'<!doctype html><meta charset="utf-8"><title>Curves over time</title><style>{STYLE}</style>'
    path.write_text(page + "".join(parts))


def write_measurements(table: Table, path: Path) -> None:
    """Every measurement as Parquet: those of `Measured.table` with the way and the length; `video` is the seed."""
    parts = []
    for length in table.lengths():
        for video in table.videos(length):
            for way, (measured, _) in video.items():
                rows = measured.table()
                rows = rows.append_column("way", pa.repeat(way, len(rows)))
                parts.append(rows.append_column("seconds", pa.repeat(length, len(rows))))
    pq.write_table(pa.concat_tables(parts), path, compression="zstd")
