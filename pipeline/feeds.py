"""What is left to do, as tasks of one video each: listed files without a plan, planned ones with clips to score or cut.

A task becomes a row, and each row a task of Ray Data of its own: a worker that dies loses one video's last piece.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import CurateConfig
from pipeline.crop.cropper import TASK_CLIP
from pipeline.journals import video_key
from pipeline.plan.listing import listed_parts, read_part
from posegen.dataset import CLIPS

CLIP = pa.schema([*TASK_CLIP, CLIPS.field("turned")])
"""A clip to work on; once it is scored, with how its pictures are turned."""
TASKS = pa.schema([("path", pa.string()), ("key", pa.string()), ("clips", pa.list_(pa.struct(list(CLIP))))])
"""A listed file and its `video_key`, with the clips that are to be done; null where it has no plan."""
LISTED_KEYS = pa.schema([("path", pa.string()), ("key", pa.string()), ("bytes", pa.int64())])


def listed_videos(config: CurateConfig) -> pa.Table:
    """The whole listing with the files' keys, a table `LISTED_KEYS`: some 100 bytes a file."""
    parts = [LISTED_KEYS.empty_table()]
    for part in listed_parts(config):
        listed = read_part(config, part)
        keys = [video_key(row) for row in listed.to_pylist()]
        parts.append(pa.table([listed["path"], pa.array(keys, pa.string()), listed["bytes"]], LISTED_KEYS))
    return pa.concat_tables(parts)


def unplanned(listed: pa.Table, keys: list[pa.ChunkedArray], retried: list[pa.ChunkedArray]) -> pa.Table:
    """Tasks (`TASKS`) for the listed files that have no plan, the largest first, as they take the longest.

    keys: of the files that have one. retried: of those among them that are to be planned again.
    """
    done, again = (pa.chunked_array(some, pa.string()) for some in (keys, retried))
    left = pc.or_(pc.invert(pc.is_in(listed["key"], done)), pc.is_in(listed["key"], again))
    rows = listed.filter(left).sort_by([("bytes", "descending"), ("path", "ascending")])
    clips = pa.nulls(rows.num_rows, TASKS.field("clips").type)
    return pa.table([rows["path"], rows["key"], clips], TASKS)


def unscored(clips: pa.Table, retry_failed: bool, most_clips: int | None) -> pa.Table:
    """Tasks for the planned clips of a group (`JOINED`) that have no scores, each clip once."""
    wanted = pc.and_(pc.is_null(clips["record"]), pc.is_null(clips["error_stage"]))
    if retry_failed:
        wanted = pc.or_(wanted, pc.and_(pc.is_valid(clips["record"]), pc.is_valid(clips["error_stage"])))
    return tasks(clips.filter(wanted), most_clips)


def failed_plans(clips: pa.Table) -> pa.ChunkedArray:
    """The keys of a group's files that could not be planned."""
    failed = pc.and_(pc.is_null(clips["record"]), pc.is_valid(clips["error_stage"]))
    return clips.filter(failed)["key"]


def tasks(clips: pa.Table, most_clips: int | None) -> pa.Table:
    """Tasks (`TASKS`) for these rows of a group (`JOINED`), at most so many clips of one video each, each clip once."""
    of_video: dict[str, list[dict[str, object]]] = {}
    seen = set()  # two copies of a file have the same clips
    for row in clips.sort_by([("path", "ascending"), ("start", "ascending")]).to_pylist():
        if row["clip_id"] not in seen:
            seen.add(row["clip_id"])
            # What failed is tried again as if it had not.
            clip = {name: None if name.startswith("error") else row[name] for name in CLIP.names}
            of_video.setdefault(row["video"], []).append(clip | {"key": row["key"]})
    found = []
    for video in of_video.values():
        size = most_clips or len(video)
        for start in range(0, len(video), size):
            part = video[start : start + size]
            planned = [{name: clip[name] for name in CLIP.names} for clip in part]
            found.append({"path": part[0]["path"], "key": part[0]["key"], "clips": planned})
    return pa.Table.from_pylist(found, TASKS)


def one_by_one(batch: pa.Table) -> Iterator[pa.Table]:
    """Each row as a table of its own."""
    for number in range(batch.num_rows):
        yield batch.slice(number, 1)
