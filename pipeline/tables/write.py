"""From records to tables: joins plans and scores, applies the thresholds, writes `clips/` and `media/`.

Both tables follow from the records alone, so writing them again gives the same files, and other thresholds give other
tables without a model run. Rows are sorted by clip_id; a file holds a few hundred rows, so that each can be written by
a task of its own. A file is replaced whole; parts of an earlier, longer table are deleted last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import CurateConfig
from pipeline.feeds import planned_clips
from pipeline.plan.planner import PLAN, failure
from pipeline.score.duplicates import near_duplicates
from pipeline.score.scorer import SCORED
from pipeline.verdict import Thresholds
from pipeline.workers import score_journal
from posegen.common.storage import Folder
from posegen.dataset import CLIPS, FAILED, KEPT, MEDIA, REJECTED, content_id, table
from posegen.video import cut, probe

HEAVY = ("keypoints", "keypoints_shape", "preview")
"""Columns that stay in the records until a part of the table is written."""
JOINED = pa.schema([field for field in CLIPS if field.name not in HEAVY] + [pa.field("record", pa.string())])
"""A row of `clips/` on its way: `record` is the key of its scores, null where it has none."""
CUT = pa.schema([PLAN.field(name) for name in ("clip_id", "error_stage", "error_type", "error_message")])
CLIPS_PER_PART, MEDIA_PER_PART, CAPTIONS_PER_BATCH = 256, 16, 8


def join_records(config: CurateConfig, parts: list[str]) -> pa.Table:
    """Plans and scores of the files in these parts of the listing, a table `JOINED` without verdicts."""
    scores = score_journal(config)
    columns = [name for name in SCORED.names if name not in HEAVY]
    rows = []
    for clips in planned_clips(config, parts):
        for clip in clips.to_pylist():
            row = dict.fromkeys(JOINED.names) | clip | {"status": FAILED, "reasons": []}
            if clip["error_stage"] is None:
                row |= scores.read(clip["clip_id"], columns).to_pylist()[0] | {"record": clip["clip_id"]}
            rows.append(row)
    return pa.Table.from_pylist(rows, JOINED)


def judge(clips: pa.Table, thresholds: Thresholds) -> pa.Table:
    """The same rows (`JOINED`) with status, reasons and duplicates, sorted by clip_id, each id once.

    A file that is there twice is scored once: the first by path keeps its clips, the other's are rejected under ids of
    their own, or failed as the first's are. Of near duplicates among the clips that would be kept, the first by clip_id
    stays.
    """
    rows = clips.sort_by([("clip_id", "ascending"), ("path", "ascending")]).to_pylist()
    before: dict[str, Any] = {}
    name_of_rules = thresholds.hash
    for row in rows:
        row["thresholds_hash"] = name_of_rules
        if row["clip_id"] == before.get("clip_id"):
            row |= {"clip_id": content_id(row["clip_id"], row["path"]), "duplicate_of": before["clip_id"]}
            if row["error_stage"] is None:
                row["status"] = REJECTED
                row["reasons"] = [f"duplicate_file: same content as {before['path']}"]
            continue
        before = row
        if row["error_stage"] is None:
            row["reasons"] = thresholds.reasons(row)
            row["status"] = REJECTED if row["reasons"] else KEPT
    kept = {row["clip_id"]: row["perceptual_hashes"] for row in rows if row["status"] == KEPT}
    first = near_duplicates(kept, thresholds.near_duplicate_bits)
    for row in rows:
        if row["clip_id"] in first:
            row["duplicate_of"] = first[row["clip_id"]]
            row["status"], row["reasons"] = (
                REJECTED,
                [f"near_duplicate: looks like clip {row['duplicate_of']}"],
            )
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["clip_id"]), JOINED)


def make_clips_writer(config: CurateConfig) -> Callable[[pa.Table], pa.Table]:
    """A function that completes one part of the table (`JOINED` rows and a column `part`) and writes its file."""
    scores = score_journal(config)

    def write(rows: pa.Table) -> pa.Table:
        name, records = rows["part"][0].as_py(), rows["record"].to_pylist()
        heavy = [scores.read(key, list(HEAVY)).to_pylist()[0] if key else {} for key in records]
        joined = rows.drop_columns(["part", "record"]).to_pylist()
        finished = table([row | more for row, more in zip(joined, heavy, strict=True)], CLIPS)
        Folder(config.output).write_table(name, finished, row_group_size=64)
        return pa.table({"part": [name]})

    return write


def make_media_writer(config: CurateConfig) -> Callable[[pa.Table], pa.Table]:
    """A function that cuts out the clips of one part and writes its file, unless it is there and whole.

    Takes rows of kept clips with a column `part`; returns their clip_id and the three error columns, which are null
    but for those whose video could no longer be cut.
    """
    source, target = Folder(config.input), Folder(config.output)

    def write(rows: pa.Table) -> pa.Table:
        name, clips = rows["part"][0].as_py(), rows.to_pylist()
        if target.exists(name) and target.read_table(name, ["clip_id"]).num_rows == len(clips):
            return table([{"clip_id": clip["clip_id"]} for clip in clips], CUT)
        media, results = [], []
        for clip in clips:
            result = {"clip_id": clip["clip_id"]}
            try:
                media.append(_media_row(source, clip))
            except Exception as error:  # a fault of this clip only, which its row records
                result |= failure("media", error)
            results.append(result)
        target.write_table(name, table(media, MEDIA), row_group_size=4)
        return table(results, CUT)

    return write


def _media_row(source: Folder, clip: Mapping[str, Any]) -> dict[str, Any]:
    with source.local_copy(clip["path"]) as path, tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "clip.mp4"
        start = cut(probe(path), clip["start"], clip["stop"], clip["rate"], file)
        length = {"seconds": clip["stop"] - clip["start"], "rate": clip["rate"]}
        return {"clip_id": clip["clip_id"], "media": file.read_bytes(), "media_start": start, **length}


def clips_parts(clips: pa.Table) -> list[pa.Table]:
    """The table cut into the parts of `clips/`, each with its file's name in a column `part`."""
    return _parts(clips, CLIPS_PER_PART, lambda number, _: f"clips/part-{number:05}.parquet")


def caption_batches(clips: pa.Table) -> list[pa.Table]:
    """The kept clips in batches for a caption model."""
    kept = clips.filter(pc.equal(clips["status"], KEPT)).select(["clip_id", "path", "start", "stop", "rate"])
    return [kept.slice(start, CAPTIONS_PER_BATCH) for start in range(0, kept.num_rows, CAPTIONS_PER_BATCH)]


def media_parts(clips: pa.Table) -> list[pa.Table]:
    """The kept clips cut into the parts of `media/`; a part's name says which clips it holds."""
    kept = clips.filter(pc.equal(clips["status"], KEPT))
    columns = kept.select(["clip_id", "path", "start", "stop", "rate"])

    def name(number: int, rows: pa.Table) -> str:
        return f"media/part-{number:05}-{content_id(*rows['clip_id'].to_pylist())[:8]}.parquet"

    return _parts(columns, MEDIA_PER_PART, name)


def _parts(rows: pa.Table, size: int, name: Callable[[int, pa.Table], str]) -> list[pa.Table]:
    slices = [rows.slice(start, size) for start in range(0, rows.num_rows, size)]
    return [
        part.append_column("part", pa.array([name(number, part)] * part.num_rows, pa.string()))
        for number, part in enumerate(slices)
    ]


def updated(clips: pa.Table, records: list[dict[str, Any]]) -> pa.Table:
    """The rows (`JOINED`) with the columns of later records of their clip_id; a record of an error fails its clip."""
    if not records:
        return clips
    by_id = {record["clip_id"]: record for record in records}
    rows = [row | by_id.get(row["clip_id"], {}) for row in clips.to_pylist()]
    for row in rows:
        row["status"] = FAILED if row["error_stage"] else row["status"]
    return pa.Table.from_pylist(rows, JOINED)


def delete_others(output: Folder, folder: str, parts: list[pa.Table]) -> None:
    """Deletes the files of a table that are none of its parts."""
    names = {part["part"][0].as_py() for part in parts}
    for name in output.names(folder):
        if f"{folder}/{name}" not in names:
            output.delete(f"{folder}/{name}")
