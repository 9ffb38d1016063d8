"""Results of tasks: immutable files in a folder or bucket, named by what made them.

Choices made: a job's files lie in a folder of its id, so they are deleted with it and no client's are mixed with
another's. A segment's name is a digest of everything that its frames depend on, through all segments before it; so it
is known before they are, and a segment that is made anew never meets its old file. A file is whole or absent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from serving.state.rows import JobPlan
from serving.state.schedule import depends_on


def segment_artifacts(job_id: str, plan: JobPlan, seeds: Mapping[int, int]) -> dict[int, str]:
    """The artifacts' names, by segment. seeds: of each segment's noise."""
    digests: dict[int, str] = {}
    for index in plan.timeline.order():
        before = [digests[other] for other in depends_on(plan, index)]
        digests[index] = _digest(plan.content_id, index, seeds[index], before)
    return {index: f"{job_id}/segment-{index:05d}-{digests[index]}" for index in sorted(digests)}


def video_artifact(job_id: str, segments: Mapping[int, str]) -> str:
    """The name of the video of these segments."""
    return f"{job_id}/video-{_digest(*sorted(segments.values()))}"


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
