"""What the videos of an evaluation add up to: two tables and a summary with intervals over the videos."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluating.worker import ERRORS, FEATURES
from posegen.common.storage import Folder
from posegen.evaluation.fvd import WINDOW_FRAMES, frechet_distance
from posegen.evaluation.measure import MEASUREMENTS
from posegen.evaluation.statistics import bootstrap, last_over_first, slope_per_minute

MEASURED, FAILED = "measured", "failed"
VIDEOS = pa.schema(
    [("video", pa.string()), ("status", pa.string()), *((name, pa.string()) for name in ERRORS)]
)


def write_summary(folder: Folder, records: Iterable[pa.Table]) -> dict[str, int]:
    """Writes `measurements.parquet`, `videos.parquet` and `summary.md`; returns how many were measured and failed."""
    table = pa.concat_tables(records)
    failed = table.filter(pc.is_valid(table["error_stage"]))
    done = table.filter(pc.is_null(table["error_stage"]))
    names = dict.fromkeys(done["video"].unique().to_pylist(), MEASURED)
    rows = [{"video": name, "status": MEASURED} for name in names]
    rows += [{**row, "status": FAILED} for row in failed.select(["video", *ERRORS]).to_pylist()]
    rows.sort(key=lambda row: row["video"])
    folder.write_table("measurements.parquet", done.select(MEASUREMENTS.names))
    folder.write_table("videos.parquet", pa.Table.from_pylist(rows, VIDEOS))
    folder.write("summary.md", (summary(done) + video_distance(done)).encode())
    return {MEASURED: len(names), FAILED: failed.num_rows}


def summary(measurements: pa.Table) -> str:
    """A table in Markdown: of each figure the mean over videos, how it rises a minute, the last 10 s over the first,
    and of seams how much more they show than places inside segments, with 95 % intervals by bootstrap over videos."""
    lines = ["| figure | videos | mean | rises a minute | last 10 s over first | seams over inside |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for metric in sorted(measurements["metric"].unique().to_pylist()):
        rows = measurements.filter(pc.equal(measurements["metric"], metric))
        curves = [
            rows.filter(pc.equal(rows["video"], video)).sort_by("start")
            for video in rows["video"].unique().to_pylist()
        ]
        values = [_column(curve, "value") for curve in curves]
        cells = [metric, str(len(curves)), str(bootstrap([_mean(curve) for curve in values]))]
        if metric.startswith("seam_"):
            pairs = zip(values, curves, strict=True)
            ratios = [_ratio(_mean(curve), _mean(_column(table, "inside"))) for curve, table in pairs]
            cells += ["", "", str(bootstrap(ratios))]
        else:
            cells += [str(bootstrap([slope_per_minute(curve) for curve in values]))]
            cells += [str(bootstrap([last_over_first(curve) for curve in values])), ""]
        lines.append(f"| {' | '.join(cell.replace('nan [nan, nan]', '') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def video_distance(records: pa.Table) -> str:
    """A paragraph with the Fréchet video distance over all videos, empty where it was not asked for."""
    made, true = (_features(records, name) for name in FEATURES)
    if records[FEATURES[0]].null_count == len(records):
        return ""
    if len(made) < 2:
        return (
            f"\nThe Fréchet video distance was not measured: it needs two windows of {WINDOW_FRAMES} frames or more "
            "of videos that have a truth.\n"
        )
    return (
        f"\nFréchet video distance (I3D): {frechet_distance(made, true):.1f}, over {len(made):,} windows of "
        f"{WINDOW_FRAMES} frames and as many true ones; fewer windows than the {made.shape[1]} features make it "
        "larger.\n"
    )


def _features(records: pa.Table, name: str) -> np.ndarray:
    """All windows' features (N, D) of one column."""
    rows = records[name].drop_null().to_pylist()
    return np.array([window for windows in rows for window in windows], np.float32)


def _column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float64)


def _mean(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def _ratio(at: float, inside: float) -> float:
    """How much more shows at seams than inside segments; NaN where nothing shows inside."""
    return at / inside if inside > 0 else float("nan")
