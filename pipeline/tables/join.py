"""Joins what was recorded about a group of videos, plan, crops and scores, into rows on their way to `clips/`.

All records of a video lie in one group, and copies of a file, which have the same id, in the same one, so no group
needs to know another's rows.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import CurateConfig
from pipeline.crop.cropper import CROPPED, TASK_CLIP
from pipeline.journals import crop_journal, plan_journal, score_journal
from pipeline.plan.planner import PLAN
from pipeline.records.journal import Files
from pipeline.score.scorer import optional_columns
from posegen.dataset import CLIPS, FAILED

HEAVY = ("keypoints", "keypoints_shape", "preview", "embedding")
"""Columns that stay in the records until a file of the table is written."""
ERROR = ("error_stage", "error_type", "error_message")
JOINED = pa.schema(
    [field for field in CLIPS if field.name not in HEAVY]
    + [pa.field(name, pa.string()) for name in ("record", "video", "key")]
)
"""A row of `clips/` on its way. record: the key of its scores, null where it has none. video: the id that its records
lie under, the video_id or, of a file that cannot be read, its key. key: of the listed file."""
PLANNED = pa.schema([*TASK_CLIP, *(JOINED.field(name) for name in ("crops", "video", "key"))])
"""A planned clip, or a crop of one."""


def joined_schema(config: CurateConfig) -> pa.Schema:
    """`JOINED` with the scores that this configuration measures beside it."""
    return pa.schema([*JOINED, *(field for field in optional_columns(config) if field.name not in HEAVY)])


def join_group(config: CurateConfig, keys: pa.Array, plans: Files, crops: Files, scores: Files) -> pa.Table:
    """Plans, crops and scores of the videos of a group that are listed under one of these keys, of `joined_schema`.

    No verdicts yet. A row without `record` and without an error is still to be scored.
    """
    plan = plan_journal(config).rows(plans, PLAN.names)
    plan = plan.filter(pc.is_in(plan["key"], value_set=keys))
    plan = with_crops(plan, crop_journal(config).rows(crops, CROPPED.names))
    schema, journal = joined_schema(config), score_journal(config)
    light = [name for name in journal.schema.names if name not in HEAVY]
    scored = journal.rows(scores, light).combine_chunks()
    index = pc.index_in(plan["clip_id"], value_set=scored["clip_id"].combine_chunks())
    found = scored.take(index)
    columns = {name: found[name] for name in light}
    columns |= {name: plan[name] for name in plan.column_names if name not in ERROR}
    sideways = pc.is_in(found["turned"], value_set=pa.array([90, 270], JOINED.field("turned").type))
    for side, other in (("width", "height"), ("height", "width")):
        columns[side] = pc.if_else(sideways, plan[other], plan[side])
    columns |= {name: pc.coalesce(plan[name], found[name]) for name in ERROR}
    columns["record"] = found["clip_id"]
    columns["status"] = pa.repeat(FAILED, plan.num_rows)
    columns["reasons"] = pa.array([[]] * plan.num_rows, JOINED.field("reasons").type)
    empty = {
        name: pa.nulls(plan.num_rows, schema.field(name).type) for name in schema.names if name not in columns
    }
    return pa.table([(columns | empty)[name] for name in schema.names], schema)


def with_crops(plan: pa.Table, crops: pa.Table) -> pa.Table:
    """The planned clips, a table `PLANNED`, which say what became of their people, and the crops of these.

    plan: `PLAN` with "video" and "key". crops: `CROPPED`, whose "key" is the clip's id.
    """
    there = {name: plan[name] for name in plan.column_names}
    there |= {
        name: pa.nulls(plan.num_rows, PLANNED.field(name).type) for name in PLANNED.names if name not in there
    }
    planned = pa.table([there[name] for name in PLANNED.names], PLANNED)
    if not crops.num_rows:
        return planned
    of_clip: dict[str, list[dict[str, Any]]] = {}
    for crop in crops.to_pylist():
        of_clip.setdefault(crop["key"], []).append(crop)
    concerned = pc.is_in(plan["clip_id"], value_set=pa.array(list(of_clip), pa.string()))
    rows = []
    for clip in planned.filter(concerned).to_pylist():
        of_this = of_clip[clip["clip_id"]]
        rows.append(clip | {"crops": [crop["said"] for crop in of_this]})
        names = [name for name in TASK_CLIP.names if name != "path"]
        rows += [
            clip | {name: crop[name] for name in names} for crop in of_this if crop["clip_id"] is not None
        ]
    return pa.concat_tables([planned.filter(pc.invert(concerned)), pa.Table.from_pylist(rows, PLANNED)])
