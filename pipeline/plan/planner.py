"""Planning: which clips a video becomes. Every listed file ends as at least one row.

A row of the plan says where a clip is, or why there is none. Clip ids follow from the file's content and the span, so
a file that was moved or copied is known again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.config import CurateConfig
from pipeline.plan.shots import Cut, Detector, Scores, detector_maker, find_cuts, plan_spans
from pipeline.plan.source import Source
from posegen.common.faults import is_fault
from posegen.dataset import CLIPS, content_id, table
from posegen.video import VideoError, VideoInfo, without_damage

PLAN = pa.schema(
    [
        CLIPS.field(name)
        for name in (
            *(
                "clip_id",
                "video_id",
                "path",
                "start",
                "stop",
                "rate",
                "width",
                "height",
                "hdr",
                "source_notes",
            ),
            *("error_stage", "error_type", "error_message"),
        )
    ]
)


def make_planner(config: CurateConfig, scores: Scores | None = None) -> Callable[[Source], pa.Table]:
    """A function from a file of the input folder to its clips, a table of schema `PLAN`.

    scores: what runs TransNetV2, by default this process' CPU. Raises OSError where the storage is at fault and not
    the file.
    """
    detect = detector_maker(config.detector, scores)
    detect(config.rate)  # loads what it needs before the first video

    def plan(source: Source) -> pa.Table:
        stage, video_id = "read", None
        try:
            video_id = source.id
            stage = "probe"
            info = source.info
            stage = "shots"
            info, cuts = _shots_of(info, detect)
            spans = plan_spans(info, cuts, config.rate)
        except (VideoError, OSError) as error:
            if is_fault(error):
                raise
            return failed_video(source.name, stage, source.said(error), video_id)
        common = {
            "video_id": video_id,
            "path": source.name,
            "rate": config.rate,
            "width": info.width,
            "height": info.height,
            "hdr": info.hdr,
            "source_notes": info.notes,
        }
        rows = [
            {
                **common,
                "clip_id": content_id(video_id, start, stop, config.rate),
                "start": start,
                "stop": stop,
            }
            for start, stop in spans
        ]
        return table(rows, PLAN)

    return plan


def _shots_of(info: VideoInfo, detect: Callable[[float], Detector]) -> tuple[VideoInfo, list[Cut]]:
    """A video's cuts; where it is damaged those of what is left, and what that is."""
    try:
        return info, find_cuts(info, detect(info.rate))
    except VideoError:
        info = without_damage(info)
        return info, find_cuts(info, detect(info.rate))


def failed_video(name: str, stage: str, error: Exception, video_id: str | None = None) -> pa.Table:
    """The plan of a file that no clip can be made of: one row that says why."""
    row: dict[str, Any] = {
        "clip_id": content_id("failed", name, video_id),
        "video_id": video_id,
        "path": name,
        **failure(stage, error),
    }
    return table([row], PLAN)


def failure(stage: str, error: Exception) -> dict[str, str]:
    """The three columns that say what failed, where, and how it said so."""
    message = " ".join(str(error).split()) or f"{type(error).__name__} without a message"
    return {"error_stage": stage, "error_type": type(error).__name__, "error_message": message}
