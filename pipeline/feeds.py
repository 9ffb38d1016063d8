"""What is left to do, as streams of rows: listed files without a plan, planned clips without scores.

Both run inside light tasks, one part of the listing at a time, and yield single rows, so that each becomes a task of
its own: a worker that dies loses one row's work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from pipeline.config import CurateConfig
from pipeline.plan.listing import read_part
from pipeline.workers import plan_journal, score_journal, video_key

Feed = Callable[[pa.Table], Iterator[pa.Table]]


def unplanned_videos(config: CurateConfig) -> Feed:
    """A function from names of listing parts to one-row tables `LISTED` of their files without a plan."""

    def feed(parts: pa.Table) -> Iterator[pa.Table]:
        plans = plan_journal(config)
        for listed in (read_part(config, part) for part in parts["part"].to_pylist()):
            for number, row in enumerate(listed.to_pylist()):
                if plans.is_open(video_key(row), config.retry_failed):
                    yield listed.slice(number, 1)

    return feed


def unscored_clips(config: CurateConfig) -> Feed:
    """A function from names of listing parts to one-row tables `PLAN` of their planned clips without scores."""

    def feed(parts: pa.Table) -> Iterator[pa.Table]:
        scores, fed = score_journal(config), set()  # two copies of a file have the same clips
        for clips in planned_clips(config, parts["part"].to_pylist()):
            for number, clip in enumerate(clips.to_pylist()):
                clip_id, planned = clip["clip_id"], clip["error_stage"] is None
                if planned and clip_id not in fed and scores.is_open(clip_id, config.retry_failed):
                    fed.add(clip_id)
                    yield clips.slice(number, 1)

    return feed


def planned_clips(config: CurateConfig, parts: list[str]) -> Iterator[pa.Table]:
    """The plan of each file listed in these parts, a table `PLAN` each."""
    plans = plan_journal(config)
    for part in parts:
        for row in read_part(config, part).to_pylist():
            yield plans.read(video_key(row))
