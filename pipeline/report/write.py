"""The report of a curation run: one HTML file that says what was kept, why the rest was not, and what it took.

It follows from the finished table `clips/`, read by column, and from the stages' times, so the same run gives the same
file. The file is complete in itself: no script, no network, and its pictures are inside. Where a clip was lost is read
from its stored reasons, never judged again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.report.contact_sheet import PICTURES, cells, spread, spread_over_groups
from pipeline.report.histograms import HEIGHT, WIDTH, bounds_text, histograms
from pipeline.verdict import Thresholds
from posegen.common.progress import Stage, duration
from posegen.common.storage import Folder
from posegen.dataset import CLIPS, FAILED, KEPT, OPTIONAL_SCORES, REJECTED, SCORES

REPORT = "report.html"
MOST_FAILURES = 200
"""Failed rows that are listed; the others are counted."""
DUPLICATE_FILE, NEAR_DUPLICATE, KEPT_WHOLE = "duplicate_file", "near_duplicate", "cropped_from"
SEMANTIC_DUPLICATE = "semantic_duplicate"
LENGTH_BANDS = (2, 5, 10, 15, 20)
"""Seconds at which a longer band of clips begins."""
COLUMNS = [
    *("path", "start", "stop", "rate", "status", "reasons", "framing", "motion", "subject", "scored_by"),
    *("error_stage", "error_type", "error_message", "cpu_seconds", "cropped_from"),
    *SCORES,
]


@dataclass(frozen=True)
class Step:
    """One bar of the funnel: how many things are left, of how many there were at first, and how many were lost."""

    name: str
    rule: str
    left: int
    lost: int
    whole: int


@dataclass(frozen=True)
class Reasons:
    """The names that reasons begin with, and which clips they hold for.

    names: (R,). first: (clips,) index of the clip's first reason, -1 where it has none. rejects, alone: (R,) clips
    that have the reason, and that have no other.
    """

    names: list[str]
    first: np.ndarray
    rejects: np.ndarray
    alone: np.ndarray


def write_report(output: Folder, thresholds: Thresholds, stages: list[Stage]) -> None:
    """Writes `report.html` into the folder, from its finished table `clips/`.

    thresholds: the rules that judged the table. stages: what was run, for the throughput.
    """
    clips = _read(output)
    order = [DUPLICATE_FILE, *(rule.score for rule in thresholds.rules), NEAR_DUPLICATE]
    if thresholds.semantic_duplicate_cosine is not None:
        order.append(SEMANTIC_DUPLICATE)
    reasons = read_reasons(clips, order)
    kept, rejected = chosen_rows(clips, reasons)
    sheet = cells(output, np.concatenate([kept, rejected]))
    page = _template().render(
        headline=headline(clips),
        thresholds=thresholds,
        funnels=[files_funnel(clips), clips_funnel(clips, thresholds, reasons)],
        kept=sheet[: len(kept)],
        rejected=sheet[len(kept) :],
        failures=failures(clips),
        histograms=histograms(clips, thresholds, _by_name(reasons)),
        plot={"width": WIDTH, "height": HEIGHT},
        composition=composition(clips),
        stages=stages,
        cpu=cpu_seconds(clips, reasons),
    )
    output.write(REPORT, page.encode())


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"duration": duration, "clock": clock, "count": "{:,}".format, "share": share}
    return environment.get_template(REPORT)


def _read(output: Folder) -> pa.Table:
    """The light columns of every row; what is heavy is read later, for the clips that are shown."""
    names = output.names("clips")
    if not names:
        return CLIPS.empty_table().select(COLUMNS)
    with output.open(f"clips/{names[0]}") as stream:
        there = pq.read_schema(stream).names
    columns = [*COLUMNS, *(score for score in OPTIONAL_SCORES if score in there)]
    return pa.concat_tables([output.read_table(f"clips/{name}", columns) for name in names])


def read_reasons(clips: pa.Table, order: list[str]) -> Reasons:
    """What the column `reasons` says; names come in the order given, then others by name."""
    column = clips["reasons"].combine_chunks()
    rows = pc.list_parent_indices(column).to_numpy()
    found = pc.replace_substring_regex(pc.list_flatten(column), pattern="(?s):.*", replacement="")
    names = [*order, *sorted(set(pc.unique(found).to_pylist()) - set(order))]
    codes = pc.index_in(found, pa.array(names, pa.string())).to_numpy()
    first = np.full(clips.num_rows, -1)
    with_reason, begins = np.unique(rows, return_index=True)
    first[with_reason] = codes[begins]
    only = np.bincount(rows, minlength=clips.num_rows)[rows] == 1
    rejects, alone = (np.bincount(some, minlength=len(names)) for some in (codes, codes[only]))
    return Reasons(names, first, rejects, alone)


def _by_name(reasons: Reasons) -> dict[str, tuple[int, int]]:
    pairs = zip(reasons.rejects.tolist(), reasons.alone.tolist(), strict=True)
    return dict(zip(reasons.names, pairs, strict=True))


def _is(clips: pa.Table, status: str) -> np.ndarray:
    return pc.equal(clips["status"], status).to_numpy()


def _known(clips: pa.Table, column: str) -> np.ndarray:
    return pc.is_valid(clips[column]).to_numpy()


def _lengths(clips: pa.Table) -> np.ndarray:
    """Seconds of video of each row; 0 for a file that no clip could be made of."""
    return pc.fill_null(pc.subtract(clips["stop"], clips["start"]), 0.0).to_numpy()


def headline(clips: pa.Table) -> dict[str, Any]:
    """The figures at the top."""
    kept, failed, planned = _is(clips, KEPT), _is(clips, FAILED), _known(clips, "start")
    lengths = _lengths(clips)
    of_video = planned & ~_known(clips, "cropped_from")
    return {
        "files": pc.count_distinct(clips["path"]).as_py(),
        "clips": int(of_video.sum()),
        "seconds": float(lengths[of_video].sum()),
        "kept": int(kept.sum()),
        "kept_seconds": float(lengths[kept].sum()),
        "rejected": int(_is(clips, REJECTED).sum()),
        "failed_files": int((failed & ~planned).sum()),
        "failed_clips": int((failed & planned).sum()),
    }


def files_funnel(clips: pa.Table) -> list[Step]:
    """Files that were listed, and those that could be read."""
    unreadable = _is(clips, FAILED) & ~_known(clips, "start")
    listed = pc.count_distinct(clips["path"]).as_py()
    readable = pc.count_distinct(clips["path"].filter(pa.array(~unreadable))).as_py()
    return [
        Step("files listed", "", listed, 0, listed),
        Step("files read", "", readable, listed - readable, listed),
    ]


def clips_funnel(clips: pa.Table, thresholds: Thresholds, reasons: Reasons) -> list[Step]:
    """Clips that are left after planning, scoring, each rule in the order they are applied, and cutting out."""
    planned, scored = int(_known(clips, "start").sum()), _known(clips, "scored_by")
    said = {rule.score: bounds_text(rule) for rule in thresholds.rules}
    said |= {DUPLICATE_FILE: "no file of the same content", NEAR_DUPLICATE: "no kept clip looks like it"}
    cosine = thresholds.semantic_duplicate_cosine
    said[SEMANTIC_DUPLICATE] = (
        f"a cosine below {cosine} between its embedding and that of any kept clip of another video"
    )
    said[KEPT_WHOLE] = "the clip that it shows a part of is not kept whole"
    first = reasons.first[scored & (reasons.first >= 0)]
    lost_to_rules = np.bincount(first, minlength=len(reasons.names)).tolist()
    losses = {"clips scored": planned - int(scored.sum())}
    losses |= dict(zip(reasons.names, lost_to_rules, strict=True))
    losses["cut out and kept"] = int((scored & _is(clips, FAILED)).sum())
    crops = int(_known(clips, "cropped_from").sum())
    steps = [
        Step(
            "clips planned", f"{crops:,} of them cropped out of others" if crops else "", planned, 0, planned
        )
    ]
    for name, lost in losses.items():
        steps.append(Step(name, said.get(name, ""), steps[-1].left - lost, lost, planned))
    return steps


def chosen_rows(clips: pa.Table, reasons: Reasons) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the clips to show: kept ones evenly spread, rejected ones of every first reason, in its order."""
    rejected = _is(clips, REJECTED)
    groups = [np.flatnonzero(rejected & (reasons.first == code)) for code in range(len(reasons.names))]
    return spread(np.flatnonzero(_is(clips, KEPT)), PICTURES), spread_over_groups(groups)


def failures(clips: pa.Table) -> dict[str, Any]:
    """The first failed rows by path, and how many there are."""
    columns = ["path", "start", "stop", "error_stage", "error_type", "error_message"]
    failed = clips.select(columns).filter(pa.array(_is(clips, FAILED)))
    failed = failed.sort_by([("path", "ascending"), ("start", "ascending")])
    return {"rows": failed.slice(0, MOST_FAILURES).to_pylist(), "total": failed.num_rows}


def composition(clips: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """What was kept, in clips and seconds, by each of its properties: one table a property, longest part first."""
    properties = ["framing", "motion", "subject"]
    kept = clips.select(["start", "stop", "rate", *properties]).filter(pa.array(_is(clips, KEPT)))
    lengths = _lengths(kept)
    ends = list(map("{} to {} s".format, LENGTH_BANDS, LENGTH_BANDS[1:]))
    bands = [f"under {LENGTH_BANDS[0]} s", *ends, f"from {LENGTH_BANDS[-1]} s"]
    columns = {name: kept[name] for name in properties}
    columns["length"] = pa.array(bands).take(pa.array(np.digitize(lengths, LENGTH_BANDS)))
    columns["frames/s"] = pc.cast(kept["rate"], pa.string())
    rows = {name: _sums(column, lengths) for name, column in columns.items()}
    rows["length"].sort(key=lambda row: bands.index(row["name"]))
    return rows


def cpu_seconds(clips: pa.Table, reasons: Reasons) -> dict[str, Any]:
    """CPU seconds of scoring in all, divided between decoding, models and the rest, and of each step.

    Of the stored names `all` is the whole clip; `decode` and `model` lie within the others and beside each other.
    """
    # A row of a duplicate file repeats the seconds of the first file.
    duplicate = reasons.first == reasons.names.index(DUPLICATE_FILE)
    took = pc.list_flatten(clips["cpu_seconds"].filter(pa.array(~duplicate)).combine_chunks())
    sums = _sums(took.field("step"), took.field("seconds").to_numpy())
    steps = {row["name"]: row["seconds_sum"] for row in sums}
    whole, decode, model = (steps.pop(name, 0.0) for name in ("all", "decode", "model"))
    kinds = {"decoding": decode, "models": model, "everything else": whole - decode - model}
    return {"all": whole, "kinds": kinds, "steps": steps}


def _sums(names: pa.Array, seconds: np.ndarray) -> list[dict[str, Any]]:
    """Seconds and count of each name, `seconds_sum` and `seconds_count`, by descending seconds."""
    groups = pa.table({"name": names, "seconds": seconds}).group_by("name", use_threads=False)
    sums = groups.aggregate([("seconds", "sum"), ("seconds", "count")])
    return sums.sort_by([("seconds_sum", "descending"), ("name", "ascending")]).to_pylist()


def share(part: float, whole: float) -> str:
    """A part of a whole in per cent; 0 of nothing."""
    return f"{100 * part / (whole or 1):.1f} %"


def clock(seconds: float) -> str:
    """A moment of a video: minutes and seconds."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"
