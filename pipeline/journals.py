"""Which records there are: one journal for each step of the work, below the output's folder `work`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.config import CurateConfig
from pipeline.crop.cropper import CROPPED
from pipeline.plan.planner import PLAN
from pipeline.records.journal import Journal
from pipeline.score.scorer import scored_schema
from posegen.common.storage import Folder
from posegen.dataset import CLIPS, MEDIA, content_id

CAPTIONED = pa.schema(
    [
        CLIPS.field(name)
        for name in (
            *("clip_id", "subject", "caption", "caption_source"),
            *("error_stage", "error_type", "error_message"),
        )
    ]
)
"""A clip's caption by a model, or why it has none."""
CUT = pa.schema(
    [field.with_nullable(True) for field in MEDIA]
    + [PLAN.field(name) for name in ("error_stage", "error_type", "error_message")]
)
"""A kept clip cut out of its video, or why it could not be."""


def plan_journal(config: CurateConfig) -> Journal:
    """Finished plans by `video_key`; of a file whose content has no id, as it cannot be read, by the key twice."""
    return Journal(Folder(config.output, "work"), f"plan-{config.plan_version[:8]}", PLAN, 16_384)


def score_journal(config: CurateConfig) -> Journal:
    """Finished scores by video_id and clip_id. The keypoints of 512 clips take some 200 MB."""
    kind = f"scores-{config.score_version[:8]}"
    return Journal(Folder(config.output, "work"), kind, scored_schema(config), 512)


def crop_journal(config: CurateConfig) -> Journal:
    """What became of the people of clips of several, by video_id and clip_id."""
    return Journal(Folder(config.output, "work"), f"crops-{config.crop_version[:8]}", CROPPED, 2048)


def cut_journal(config: CurateConfig) -> Journal:
    """Clips cut out and not yet in `media/`, by video_id and clip_id. The videos of 64 clips take some 200 MB."""
    return Journal(Folder(config.output, "work"), "cut", CUT, 64)


def caption_journal(config: CurateConfig) -> Journal:
    """Captions of the configured model by video_id and clip_id."""
    settings = (config.captioner, config.caption_prompt, config.caption_tokens)
    kind = f"captions-{content_id(*settings)[:8]}"
    return Journal(Folder(config.output, "work"), kind, CAPTIONED, 16_384)


def video_key(row: Mapping[str, Any]) -> str:
    """Names a listed file's plan: the same as long as its path, size and time of change are."""
    return content_id(row["path"], row["bytes"], row["changed"])
