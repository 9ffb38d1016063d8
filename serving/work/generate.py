"""Segments and records of jobs, made by one loaded pipeline.

What all segments of a job share is kept for the jobs worked on last. The anchor's record is published step by step
while its segment goes on. A segment whose artifact is there already, left by a worker that died before it could commit,
is not computed again. Each denoising step asks whether the segment is still wanted.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from safetensors.numpy import load

from posegen.longvideo.job import EncodedJob, VideoJob
from posegen.longvideo.preview import Preview
from posegen.longvideo.sampling import Step
from posegen.longvideo.segments import Plan
from posegen.pipeline import Callback, PoseGenPipeline
from posegen.sharing import SharingError
from serving.state.artifacts import Artifacts, frames_artifact, prepared_artifact, preview_artifact
from serving.state.database import Database
from serving.state.rows import Claim, Job, Kind
from serving.work.loop import Beat, HandedBack, Refused
from serving.work.records import RecordId, RecordLost, RecordReader, Records, RecordWriter

JOBS_KEPT = 2
PREVIEW_EVERY_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Opened:
    """A job ready for its segments."""

    video: VideoJob
    encoded: EncodedJob
    preview: Preview


class Generate:
    """The work of the role `generate`."""

    def __init__(
        self, pipeline: PoseGenPipeline, database: Database, artifacts: Artifacts, records: Records
    ) -> None:
        self._pipeline, self._database = pipeline, database
        self._artifacts, self._records = artifacts, records
        self._opened: OrderedDict[str, _Opened] = OrderedDict()

    def __call__(self, claim: Claim, beat: Beat) -> None:
        """Does a claimed task; see `serving.work.loop.Work`."""
        try:
            self._perform(claim, beat)
        except RecordLost as error:
            log.warning("the record of %s is lost: %s", claim.job.id, error)
            self._database.queue.report_record_lost(claim.job.id, claim.job.record_generation)
            raise HandedBack from error
        except SharingError as error:
            raise Refused(f"The background cannot be shared: {error}.") from error

    def _perform(self, claim: Claim, beat: Beat) -> None:
        made = claim.task.kind is Kind.SEGMENT and self._artifacts.exists(claim.task.artifact)
        if made and not claim.records:
            return
        opened = self._open(claim.job)
        if made or claim.task.kind is Kind.RECORD:
            self._record(claim, opened, beat)
        else:
            self._generate(claim, opened, beat)

    def _generate(self, claim: Claim, opened: _Opened, beat: Beat) -> None:
        task, plan = claim.task, opened.video.plan
        neighbours = {
            index: self._given(plan, task.index, index, name) for index, name in claim.inputs.items()
        }
        beat(0, task.steps)
        video = replace(opened.video, seed=task.seed)
        opened = replace(opened, video=video)
        if video.sharing is None or task.index % 2 or not plan.bridges:
            frames = self._segment(opened, claim, neighbours, None, beat)
        elif task.index == plan.anchor:
            writer = RecordWriter(self._database, self._records, claim)
            frames = self._segment(opened, claim, {}, writer, beat)
        else:
            record = RecordId(claim.job.id, claim.job.record_generation)
            reader = RecordReader(self._records, claim.job.record_store or "", record)
            frames = self._segment(opened, claim, {}, reader, beat)
        beat(
            task.steps, task.steps
        )  # a worker that was replaced while decoding must not write over the result
        # What the bridges beside a base segment are given lies apart.
        cuts = () if task.index % 2 else (plan.tail, len(frames) - plan.head)
        self._artifacts.save_frames(task.artifact, frames, cuts)

    def _given(self, plan: Plan, bridge: int, base: int, name: str) -> np.ndarray:
        """The frames that a bridge is given of a base segment beside it: its last ones, or its first."""
        if base < bridge:
            return self._artifacts.load_frames(name, start=-plan.head)
        return self._artifacts.load_frames(name, stop=plan.tail)

    def _segment(
        self,
        opened: _Opened,
        claim: Claim,
        neighbours: dict[int, np.ndarray],
        record: RecordWriter | RecordReader | None,
        beat: Beat,
    ) -> np.ndarray:
        name = preview_artifact(claim.job.id, claim.task.index)
        show, tell = _shown(opened.preview, self._artifacts, name, beat), _told(opened.video, record, beat)

        def after_step(index: int, step: Step) -> None:
            show(step)  # first, so that who is told of a step finds a preview
            tell(index, step)

        return self._pipeline.generate_segment(
            opened.video, opened.encoded, claim.task.index, neighbours, record, after_step
        )

    def _record(self, claim: Claim, opened: _Opened, beat: Beat) -> None:
        """Makes the anchor's record alone; its frames are there already, or another worker makes them."""
        beat(0, claim.task.steps)
        anchor = self._database.jobs.tasks(claim.job.id, Kind.SEGMENT)[opened.video.plan.anchor]
        video = replace(opened.video, seed=anchor.seed)
        writer = RecordWriter(self._database, self._records, claim)
        self._pipeline.record_anchor(video, opened.encoded, writer, _told(video, writer, beat))

    def _open(self, job: Job) -> _Opened:
        if job.id not in self._opened:
            video = self._video(job)
            preview = Preview(self._pipeline.vae, video.picture)
            self._opened[job.id] = _Opened(video, self._pipeline.encode(video), preview)
            if len(self._opened) > JOBS_KEPT:
                self._opened.popitem(last=False)
        self._opened.move_to_end(job.id)
        return self._opened[job.id]

    def _video(self, job: Job) -> VideoJob:
        """The job as the library sees it, of its request and what its uploads were made into."""
        assert job.plan is not None  # else it had no segments
        prepared, request = load(self._artifacts.read(prepared_artifact(job.id))), job.request
        height, width = prepared["picture"].shape[:2]
        video = self._pipeline.job(
            prepared["picture"],
            prepared["keypoints"],
            request["prompt"],
            request["negative_prompt"],
            num_inference_steps=request["steps"],
            guidance_scale=request["guidance_scale"],
            size=(width, height),
            planner=request["planner"],
            anchor=request["anchor"],
            framing=request["framing"],
            foreground=request["foreground"],
            keep_person=request["keep_person"],
            form=job.plan.record_form,
            mask=self._in_step(job, "mask"),
            hands=self._in_step(job, "hands"),
            loras=self._loras(request),
        )
        if video.plan != job.plan.timeline:
            raise RuntimeError(f"{job.id} was planned for another model; give all workers the same folder.")
        return video

    def _loras(self, request: Mapping[str, Any]) -> dict[str, float]:
        """Names and strengths of a job's LoRAs; a server may have been started without one since."""
        loras = {lora["name"]: lora["strength"] for lora in request.get("lora", ())}  # older jobs have none
        if missing := sorted(loras.keys() - self._pipeline.loras.keys()):
            raise Refused(f"This server has no LoRA {missing[0]!r} any more; ask for the video without it.")
        return loras

    def _in_step(self, job: Job, name: str) -> StoredFrames | None:
        """The mask or the hands of a job, if there are any: sent, or seen in its driving video."""
        assert job.plan is not None
        frames = frames_artifact(job.id, name)
        return (
            StoredFrames(self._artifacts, frames, job.plan.frames) if self._artifacts.exists(frames) else None
        )


@dataclass(frozen=True)
class StoredFrames:
    """Frames of an artifact, read when they are asked for; see `posegen.longvideo.job.Frames`."""

    artifacts: Artifacts
    name: str
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, frames: np.ndarray) -> np.ndarray:
        first, last = int(frames.min()), int(frames.max())
        return self.artifacts.load_frames(self.name, first, last + 1)[frames - first]

    def tobytes(self) -> bytes:
        return self.artifacts.read(self.name)


def _shown(preview: Preview, artifacts: Artifacts, name: str, beat: Beat) -> Callable[[Step], None]:
    """Called after each step of a segment, keeps its preview, once a second at most."""
    written = -PREVIEW_EVERY_S

    def show(step: Step) -> None:
        nonlocal written
        now = time.monotonic()
        if now - written < PREVIEW_EVERY_S:
            return
        written = now
        beat(step.index, step.steps)  # what is deleted by now must not get a file again
        try:
            artifacts.write(name, preview.jpeg(step.preview))
        except OSError as error:  # the video does not depend on it
            log.warning("the preview %s is not written: %s", name, error)

    return show


def _told(video: VideoJob, record: RecordWriter | RecordReader | None, beat: Beat) -> Callback:
    """The callback after a denoising step: it announces a recorded step and asks whether to go on."""
    shared = video.sharing.shared.steps.stop if video.sharing else 0

    def tell(_index: int, step: Step) -> None:
        done = step.index + 1
        if isinstance(record, RecordWriter) and done <= shared:
            record.publish(done)
        beat(done, step.steps)

    return tell
