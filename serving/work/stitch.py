"""A job's segments -> its video, written while they are made.

Segments are taken in the order of the timeline as soon as they are committed, so memory holds one segment and one
overlap, however long the video. What is finished can be watched at once (`growing.py`); the final file holds the same
pictures and the driving video's sound. A stitcher keeps no state: one that takes over begins with the first stored
segment and writes the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np

from posegen.longvideo.segments import Stitcher
from posegen.video.rates import RateChange
from posegen.video.sound import join
from serving.state.artifacts import Artifacts, sound_artifact
from serving.state.database import Database
from serving.state.rows import Claim, JobPlan, Kind
from serving.state.transitions import TaskState
from serving.uploads.scratch import scratch_folder
from serving.work.fragments import FragmentWriter
from serving.work.growing import GrowingVideo
from serving.work.loop import Beat


class Stitch:
    """The work of the role `stitch`."""

    def __init__(self, database: Database, artifacts: Artifacts, rate: float, poll: float = 0.5) -> None:
        """rate: of the model's frames, frames/s. poll: seconds between looks for the next segment."""
        self._database, self._artifacts = database, artifacts
        self._rate, self._poll = rate, poll

    def __call__(self, claim: Claim, beat: Beat) -> None:
        """Does a claimed task; see `serving.work.loop.Work`."""
        assert claim.job.plan is not None  # it made this task
        with scratch_folder() as scratch:
            pictures, target = scratch / "pictures.mp4", scratch / "video.mp4"
            self._write(claim, claim.job.plan, pictures, beat)
            sound = sound_artifact(claim.job.id)
            with ExitStack() as stack:
                there = self._artifacts.exists(sound)
                path = stack.enter_context(self._artifacts.local_copy(sound)) if there else None
                join(pictures, path, target)
            beat(
                claim.job.plan.frames, claim.job.plan.frames
            )  # a worker that was replaced must not write over the result
            self._artifacts.save(claim.task.artifact, target)

    def _write(self, claim: Claim, plan: JobPlan, file: Path, beat: Beat) -> None:
        """Encodes the video into a file, and stores its fragments for clients that watch already."""
        stitcher, growing = Stitcher(plan.timeline), GrowingVideo(self._artifacts, claim.task.artifact)
        rate = claim.job.request.get("rate") or self._rate  # jobs of an older version have none
        change, done = RateChange(self._rate, rate), 0
        with closing(FragmentWriter(file, rate)) as writer:
            for segment in plan.timeline.segments:
                frames = self._wait(claim, segment.index, partial(beat, done, plan.frames))
                finished = stitcher.add(segment.index, frames)
                if part := writer.add(finished[index] for index in change.shown(len(finished))):
                    growing.append(part)
                done += len(finished)
            growing.append(writer.finish())

    def _wait(self, claim: Claim, index: int, beat: Callable[[], None]) -> np.ndarray:
        """A segment's frames (F, H, W, 3) uint8, once it is committed."""
        while True:
            beat()
            task = self._database.jobs.tasks(claim.job.id, Kind.SEGMENT)[index]
            if task.state is TaskState.DONE:
                return self._artifacts.load_frames(task.artifact)
            time.sleep(self._poll)
