"""The report of an evaluated video: one HTML page that needs nothing beside it, a table of every measurement, and the
summary as a table in Markdown.

Videos are embedded while they are small together, and laid beside the page where they are not.
"""

from __future__ import annotations

import base64
import math
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posegen.evaluation.measure import METRICS, UNSEEN, Measured
from posegen.evaluation.plot import curve_plot
from posegen.evaluation.seams import FIGURES

MOST_EMBEDDED = 40_000_000
"""Bytes of all videos and pictures of a page together."""
MIME = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #1f2937 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em } h3 { font-size: 1em; margin-bottom: 0 }
table { border-collapse: collapse } td, th { padding: 2px 12px 2px 0; text-align: right }
td:first-child, th:first-child { text-align: left } tr { border-bottom: 1px solid #e5e7eb }
.media { display: flex; gap: 12px; flex-wrap: wrap } figure { margin: 0 } figcaption { color: #6b7280 }
.media video, .media img { height: 300px; background: #eee }
svg { width: 100%; max-width: 720px } .grid line { stroke: #e5e7eb } svg text { font-size: 11px; fill: #6b7280 }
.legend { font-size: 13px } .absent { color: #6b7280 }
"""
SCRIPT = """
const videos = [...document.querySelectorAll('video')];
document.querySelector('#play')?.addEventListener('click', () => {
  const paused = videos[0].paused;
  for (const video of videos) { video.currentTime = videos[0].currentTime; paused ? video.play() : video.pause(); }
});
"""


def write_report(
    folder: Path, measured: Measured, driver: Measured | None, media: Mapping[str, Path], settings: str
) -> None:
    """Writes `report.html`, `measurements.parquet` and `summary.md` into a folder.

    driver: the driving video's own curves, which are drawn beside. media: pictures and videos to show, by caption.
    settings: a sentence on how it was measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = [measured.table(), *([driver.table()] if driver else [])]
    pq.write_table(pa.concat_tables(tables), folder / "measurements.parquet", compression="zstd")
    (folder / "summary.md").write_text(markdown([measured]))
    (folder / "report.html").write_text(page(measured, driver, _sources(folder, media), settings))


def page(
    measured: Measured, driver: Measured | None, sources: Mapping[str, tuple[str, str]], settings: str
) -> str:
    """The HTML; sources: (MIME type, address) of each picture or video by caption."""
    shown = "".join(_figure(caption, *source) for caption, source in sources.items())
    players = sum(kind.startswith("video") for kind, _ in sources.values())
    button = '<button id="play">Play all, pause all</button>' if players > 1 else ""
    parts = [
        f"<h1>{escape(measured.name)}</h1>",
        f"<p>{measured.frames} frames, {measured.frames / measured.rate:.1f} s. {escape(settings)}</p>",
        f'<div class="media">{shown}</div>{button}',
        f"<h2>Figures</h2>{_summary_table(measured)}",
        f"<h2>Seams</h2>{_seam_table(measured)}",
        f"<h2>Over time</h2>{_plots(measured, driver)}",
    ]
    if measured.absent:
        rows = "".join(f"<li>{escape(line)}</li>" for line in measured.absent)
        parts.append(f'<h2>Not measured</h2><ul class="absent">{rows}</ul>')
    head = f'<meta charset="utf-8"><title>{escape(measured.name)}: evaluation</title><style>{STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}<script>{SCRIPT}</script></body></html>\n"


def markdown(videos: Sequence[Measured]) -> str:
    """The summaries of some videos side by side, as a table for a README; a figure that none has is left out."""
    summaries = [video.summary() for video in videos]
    names = [*METRICS, UNSEEN]
    rows = [["", *(video.name for video in videos)], ["---"] * (len(videos) + 1)]
    for name in names:
        if not all(math.isnan(summary.get(name, math.nan)) for summary in summaries):
            rows.append([_described(name), *(_number(summary.get(name, math.nan)) for summary in summaries)])
    for name in [f"seam_{figure}_{where}" for figure in FIGURES for where in ("begin", "middle", "end")]:
        if any(name in summary for summary in summaries):
            rows.append([_described(name), *(_number(summary.get(name, math.nan)) for summary in summaries)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _described(name: str) -> str:
    if name == UNSEEN:
        return "disagreement of segments behind the reference's person, Lab"
    if name.startswith("seam_"):
        _, figure, where = name.split("_")
        return f"seams, {where}: {FIGURES[figure].split(',')[0]} over that inside segments"
    return METRICS[name]


def _summary_table(measured: Measured) -> str:
    summary = measured.summary()
    rows = []
    for name in METRICS:
        if name in summary:
            values = (summary[name], summary[f"{name}_slope"], summary[f"{name}_last_over_first"])
            rows.append([_described(name), *map(_number, values)])
    if not math.isnan(measured.unseen):
        rows.append([_described(UNSEEN), _number(measured.unseen), "", ""])
    return _table(["", "mean", "rises a minute", "last 10 s over first"], rows)


def _seam_table(measured: Measured) -> str:
    if not measured.seams:
        return "<p>None.</p>"
    rows = []
    for seam in measured.seams:
        at, inside = seam.pairs.mean(axis=0)
        described = f"{seam.where}: {FIGURES[seam.name]}"
        rows.append([described, *map(_number, (at, inside, seam.ratio, seam.p)), str(len(seam.pairs))])
    said = (
        "<p>Each against places inside segments whose poses move as fast; p by a paired permutation test.</p>"
    )
    return said + _table(["overlaps", "at seams", "inside", "ratio", "p", "seams"], rows)


def _plots(measured: Measured, driver: Measured | None) -> str:
    parts = []
    for name, values in measured.curves.items():
        if not np.isfinite(values).any():
            continue
        curves = {measured.name: values}
        if driver is not None and name in ("identity", "face"):
            curves["the driving video itself"] = driver.curves.get(name, np.full(1, np.nan))
        parts.append(f"<h3>{escape(_described(name))}</h3>{curve_plot(curves)}")
    return "".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>{lines}</table>"


def _figure(caption: str, kind: str, address: str) -> str:
    shown = f'<img src="{address}">'
    if kind.startswith("video"):
        shown = f'<video src="{address}" controls muted loop playsinline></video>'
    return f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>"


def _sources(folder: Path, media: Mapping[str, Path]) -> dict[str, tuple[str, str]]:
    """Each medium's MIME type and address, embedded or copied beside the page."""
    embedded = sum(path.stat().st_size for path in media.values()) <= MOST_EMBEDDED
    found = {}
    for number, (caption, path) in enumerate(media.items()):
        kind = MIME.get(path.suffix.lower(), "video/mp4")
        if embedded:
            address = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        else:
            address = f"{number}{path.suffix.lower()}"
            shutil.copyfile(path, folder / address)
        found[caption] = (kind, address)
    return found


def _number(value: float) -> str:
    return f"{value:.3g}" if not math.isnan(value) else ""
