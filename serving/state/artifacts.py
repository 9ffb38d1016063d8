"""Files of jobs, uploads and results, in a folder or a bucket that all machines see.

Choices made: a job's files lie in a folder of its id, so they are deleted with it and no client's are mixed with
another's. Results are immutable and named by a digest of everything that they depend on, through all segments before;
so a name is known before its file is there, and a segment that is made anew never meets its old file. Frames are
stored as they are, without loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import load, save

from posegen.common.storage import Folder
from serving.state.rows import JobPlan
from serving.state.schedule import depends_on


class Artifacts(Folder):
    """The folder of all jobs, by its local path or the URI of a bucket; each file is whole or absent."""

    def save_frames(self, name: str, frames: np.ndarray) -> None:
        """Keeps frames (F, H, W, 3) uint8."""
        self.write(name, save({"frames": frames}))

    def load_frames(self, name: str) -> np.ndarray:
        """Frames (F, H, W, 3) uint8; raises FileNotFoundError."""
        return load(self.read(name))["frames"]


def prepared_artifact(job_id: str) -> str:
    """The name of what a job's uploads were made into."""
    return f"{job_id}/prepared.safetensors"


def segment_artifacts(job_id: str, plan: JobPlan, seeds: Mapping[int, int]) -> dict[int, str]:
    """The names of all segments' frames, by segment. seeds: of each segment's noise."""
    digests: dict[int, str] = {}
    for index in plan.timeline.order():
        before = [digests[other] for other in depends_on(plan, index)]
        digests[index] = _digest(plan.content_id, index, seeds[index], before)
    return {index: f"{job_id}/segment-{index:05d}-{digests[index]}.safetensors" for index in sorted(digests)}


def video_artifact(job_id: str, segments: Mapping[int, str]) -> str:
    """The name of the video of these segments."""
    return f"{job_id}/video-{_digest(*sorted(segments.values()))}.mp4"


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
