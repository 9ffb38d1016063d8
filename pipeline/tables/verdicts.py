"""Applies thresholds to joined rows, and takes near duplicates, captions and cut clips into account."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.score.duplicates import hash_numbers, near_duplicates
from pipeline.tables.join import ERROR
from pipeline.verdict import Thresholds
from posegen.dataset import FAILED, KEPT, REJECTED, content_id

LOOKS = ["clip_id", "perceptual_hashes", "width", "height", "blur", "cropped_from"]
"""What clips are compared by that look alike."""

SAME = pa.schema([("clip_id", pa.string()), ("duplicate_of", pa.string()), ("cosine", pa.float32())])
"""A clip that shows what another shows, which stands for both; cosine: of their embeddings."""


def judge(clips: pa.Table, thresholds: Thresholds) -> pa.Table:
    """The rows of a group (`JOINED`) with status and reasons by the rules, sorted by clip_id, each id once.

    A file that is there twice is scored once: the first by path keeps its clips, the other's are rejected under ids of
    their own, or failed as the first's are. Crops of a clip that is kept whole are rejected.
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
    whole = {row["clip_id"] for row in rows if row["status"] == KEPT}
    for row in rows:
        if row["status"] == KEPT and row["cropped_from"] in whole:
            row["status"] = REJECTED
            row["reasons"] = [f"cropped_from: clip {row['cropped_from']} is kept whole"]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["clip_id"]), clips.schema)


def kept(clips: pa.Table) -> pa.Table:
    """Only the kept rows."""
    return clips.filter(pc.equal(clips["status"], KEPT))


def duplicates(looks: pa.Table, thresholds: Thresholds) -> dict[str, str]:
    """For each kept clip of the whole dataset that looks like another: its clip_id -> that of the one that stays.

    looks: the columns `LOOKS` of the kept clips. Of clips that look alike the larger, then the sharper one stays. Two
    crops of one clip show two people before one background, however alike they look.
    """
    pixels = pc.multiply(looks["width"], looks["height"])
    best_first = [("pixels", "descending"), ("blur", "ascending"), ("clip_id", "ascending")]
    looks = looks.append_column("pixels", pixels).sort_by(best_first)
    hashes = hash_numbers(looks["perceptual_hashes"])
    found = near_duplicates(hashes, thresholds.near_duplicate_bits)
    columns = looks.select(["clip_id", "cropped_from"])
    ours, others = (columns.take(pa.array(rows, pa.int64())) for rows in (list(found), list(found.values())))
    return {
        clip["clip_id"]: other["clip_id"]
        for clip, other in zip(ours.to_pylist(), others.to_pylist(), strict=True)
        if clip["cropped_from"] is None or clip["cropped_from"] != other["cropped_from"]
    }


def reject_duplicates(clips: pa.Table, first: Mapping[str, str]) -> pa.Table:
    """The rows of a group with those rejected that look like another clip: clip_id -> that clip's."""
    return updated(
        clips,
        {
            clip_id: {
                "duplicate_of": other,
                "status": REJECTED,
                "reasons": [f"near_duplicate: looks like clip {other}"],
            }
            for clip_id, other in first.items()
        },
    )


def reject_same(clips: pa.Table, *found: pa.Table) -> pa.Table:
    """The rows of a group with those rejected that show what another clip shows (tables `SAME`)."""
    ours = [same.filter(pc.is_in(same["clip_id"], clips["clip_id"].combine_chunks())) for same in found]
    return updated(
        clips,
        {
            row["clip_id"]: {
                "duplicate_of": row["duplicate_of"],
                "status": REJECTED,
                "reasons": [
                    f"semantic_duplicate: shows what clip {row['duplicate_of']} shows (cosine {row['cosine']:.3f})"
                ],
            }
            for row in pa.concat_tables(ours).to_pylist()
        },
    )


def with_errors(clips: pa.Table, errors: pa.Table) -> pa.Table:
    """The rows of a group with those failed that have an error in a later step: `clip_id` and the error columns."""
    columns = errors.select(["clip_id", *ERROR]).to_pylist()
    return updated(clips, {row["clip_id"]: row | {"status": FAILED} for row in columns})


def with_captions(clips: pa.Table, captions: pa.Table) -> pa.Table:
    """The rows of a group with their kept clips' captions (`CAPTIONED`); one of an error fails its clip."""
    ours = captions.filter(pc.is_in(captions["clip_id"], kept(clips)["clip_id"].combine_chunks()))
    failed = pc.is_valid(ours["error_stage"])
    said = ours.filter(pc.invert(failed)).drop_columns(list(ERROR)).to_pylist()
    return with_errors(updated(clips, {row["clip_id"]: row for row in said}), ours.filter(failed))


def fail_open(clips: pa.Table, faults: Mapping[str, str]) -> pa.Table:
    """The rows of a group with those failed whose clip has no scores: path -> what the storage said."""
    still = clips.filter(pc.and_(pc.is_null(clips["record"]), pc.is_null(clips["error_stage"]))).to_pylist()
    return updated(clips, {row["clip_id"]: _fault(row["path"], faults) for row in still})


def unread(listed: Mapping[str, Any], faults: Mapping[str, str], schema: pa.Schema) -> pa.Table:
    """The row of a listed file that could not be fetched; schema: of a group's rows."""
    path, key = listed["path"], listed["key"]
    row = {"clip_id": key, "path": path, "status": FAILED, "reasons": [], "video": key, "key": key}
    return pa.Table.from_pylist([dict.fromkeys(schema.names) | row | _fault(path, faults)], schema)


def _fault(path: str, faults: Mapping[str, str]) -> dict[str, str]:
    said = faults.get(path, "another part of the video could not be done")
    return {"error_stage": "storage", "error_type": "StorageFaultError", "error_message": said}


def updated(clips: pa.Table, later: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    """The rows with the columns that are given for their clip_id."""
    concerned = pc.is_in(clips["clip_id"], value_set=pa.array(list(later), pa.string()))
    if not pc.any(concerned).as_py():
        return clips
    rows = [row | later.get(row["clip_id"], {}) for row in clips.to_pylist()]
    return pa.Table.from_pylist(rows, clips.schema)
