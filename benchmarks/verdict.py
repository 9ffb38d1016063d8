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
GOAL = 1.1
FEWEST = 3
"""Videos from which on an interval says something."""
Row = tuple[str, Measured, dict[str, Any]]
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

    def videos(self, seconds: float) -> list[dict[str, tuple[Measured, dict[str, Any]]]]:
        """Of each video of a length, what each way came to."""
        paths = sorted(self.folder.glob(f"{seconds:g}-*.pickle"))
        return [
            {name: (found, cost) for name, found, cost in pickle.loads(path.read_bytes())} for path in paths
        ]


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
    print(f"{'':38}" + "".join(f"{head:>22}" for head in COLUMNS.values()) + f"{'passes':>8}{'in a row':>9}")
    figures: dict[str, dict[str, Any]] = {}
    for way in videos[0]:
        found = {name: bootstrap([figure(video[way][0], name) for video in videos]) for name in COLUMNS}
        cost = videos[0][way][1]
        cells = "".join(f"{said(interval):>22}" for interval in found.values())
        print(f"{way:38}{cells}{cost.get('passes', ''):>8}{cost.get('critical_path', ''):>9}", flush=True)
        figures[way] = {name: list(interval) for name, interval in found.items()} | cost
    return figures


def said(interval: Interval) -> str:
    """An interval as text, empty where there was nothing to measure."""
    return "" if np.isnan(interval.mean) else str(interval)


def print_strata(table: Table) -> None:
    """Prints how errors of ours depend on how far driving poses are from the training's, in thirds of all seconds."""
    seconds = [
        (measured.curves["novelty"], measured.curves["identity_truth"], measured.curves["silhouette_iou"])
        for length in table.lengths()
        for video in table.videos(length)
        for measured, _ in [video[OURS]]
    ]
    novelty, identity, iou = (np.concatenate(column) for column in zip(*seconds, strict=True))
    edges = np.quantile(novelty, [0, 1 / 3, 2 / 3, 1])
    print("\nSeconds of ours by distance of the driving poses to the nearest of 400 training poses")
    for low, high in pairwise(edges):
        here = (novelty >= low) & (novelty <= high)
        print(
            f"{low:.3f} to {high:.3f}: identity error {bootstrap(identity[here])} Lab, "
            f"silhouette IoU {bootstrap(iou[here])}"
        )


def print_goals(table: Table) -> dict[str, Any]:
    """Prints which goals hold; returns them with their figures."""
    goals: dict[str, tuple[Interval, str]] = {}
    for length in (60.0, 180.0, *(length for length in table.lengths() if length not in (60.0, 180.0))):
        if length not in table.lengths() or length < 20:
            continue
        for name in ("identity_truth", "background_truth"):
            values = [figure(video[OURS][0], f"{name}_last_over_first") for video in table.videos(length)]
            goals[f"{name} in the last 10 s of {length:g} s over the first"] = (bootstrap(values), "at most")
    videos = [video for length in table.lengths() for video in table.videos(length)]
    for kind in ("difference", "warp", "colour"):
        at, inside = zip(*(seam_means(video[OURS][0], kind) for video in videos), strict=True)
        goals[f"seams over inside segments, {FIGURES[kind]}"] = (bootstrap_ratio(at, inside), "at most")
    for name, way, kind in (
        ("sharing: disagreement of the unseen background", UNSHARED, "unseen_background"),
        ("sharing: background error", UNSHARED, "background_truth"),
        ("bridges: flow-warp error at seams over inside", CROSSFADE, "seam_warp"),
        ("bridges: ghosting at seams more than inside", CROSSFADE, "seam_ghosting"),
    ):
        apart = [figure(video[OURS][0], kind) - figure(video[way][0], kind) for video in videos]
        goals[f"{name}, ours less without"] = (bootstrap(apart), "below 0")
    if len(videos) < FEWEST:
        print(f"\nThe goals are judged from {FEWEST} videos on.")
        return {}
    print("\nGoals, over all videos measured")
    found = {}
    for name, (interval, wanted) in goals.items():
        holds = interval.high <= GOAL if wanted == "at most" else interval.high < 0
        print(f"{'holds    ' if holds else 'does not '} {name}: {interval}")
        found[name] = {"interval": list(interval), "holds": bool(holds)}
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
