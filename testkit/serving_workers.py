"""A server's work without Ray: jobs, records in files, and workers that die at a chosen moment by SIGKILL.

Workers are forks of the test's process, so they need not import torch again; each opens the database for itself.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
from PIL import Image
from safetensors.numpy import save
from safetensors.torch import load_file, save_file

from posegen.pipeline import PoseGenPipeline
from posegen.sharing import Position, SharedEntry
from serving.model_info import ModelInfo, read_model_info
from serving.state.artifacts import Artifacts
from serving.state.database import Database
from serving.state.rows import Claim, Job, NewJob, Role, new_job_id
from serving.uploads.inspection import UploadLimits
from serving.uploads.uploads import upload_artifact
from serving.work.generate import Generate
from serving.work.loop import Beat, Work, Worker
from serving.work.prepare import Prepare
from serving.work.records import RecordId, RecordLost
from serving.work.stitch import Stitch
from testkit.tiny_model import SIZE, STEPS, picture, tiny_pipeline, walking

FORK = multiprocessing.get_context("fork")
FRAMES = 29  # three segments: the anchor, a bridge, a base
LEASE = 3600.0  # none ends by itself; see `Place.expire`
REQUEST: dict[str, Any] = {
    "prompt": "the woman dances",
    "negative_prompt": None,
    "poses_size": None,
    "model": "posegen",
    "size": "{}x{}".format(*SIZE),
    "seconds": None,
    "seed": 3,
    "steps": STEPS,
    "guidance_scale": None,
    "fit": "crop",
    "align": "none",
    "framing": "full-body",
    "foreground": "pose",
    "keep_person": True,
    "rate": None,
    "planner": "fitted",
    "anchor": 0,
}


class FileRecords:
    """Records in a folder: a store for each name, a file for each entry."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def here(self) -> str:
        return "here"

    def put(self, record: RecordId, place: Position, entry: SharedEntry) -> None:
        folder = self._record(self.here(), record)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {str(number): tensor.contiguous() for number, tensor in enumerate(entry.tensors)}
        save_file(tensors | {"foreground": entry.foreground.contiguous()}, folder / _name(place))

    def get(self, store: str, record: RecordId, place: Position) -> SharedEntry:
        path = self._record(store, record) / _name(place)
        if not path.exists():
            raise RecordLost(f"{record} has nothing at {place}")
        tensors = load_file(path)
        foreground = tensors.pop("foreground")
        return SharedEntry(tuple(tensors[name] for name in sorted(tensors)), foreground)

    def sweep(self, live: set[tuple[str, int]]) -> None:
        """Files are swept with the folder."""

    def lose(self) -> None:
        """Deletes everything."""
        shutil.rmtree(self._folder)

    def _record(self, store: str, record: RecordId) -> Path:
        return self._folder / store / f"{record.job_id}-{record.generation}"


def _name(place: Position) -> str:
    return f"{place.step}-{place.block}-{place.branch}"


@dataclass(frozen=True)
class Place:
    """Where a server's state lies, and the model that it serves."""

    folder: Path
    pipeline: PoseGenPipeline
    model: ModelInfo

    @property
    def database(self) -> Database:
        """The database, opened anew."""
        return Database(f"sqlite:///{self.folder}/serving.db")

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(str(self.folder / "artifacts"), self.database.id)

    @property
    def records(self) -> FileRecords:
        return FileRecords(self.folder / "records")

    def copy(self, folder: Path) -> Place:
        """The same state elsewhere."""
        shutil.copytree(self.folder, folder)
        return replace(self, folder=folder)

    def post(self, frames: int, videos: Mapping[str, Path] = MappingProxyType({}), **changes: Any) -> Job:
        """Queues a job whose uploads are a picture, poses and further videos, as the endpoint would."""
        job_id, uploads = new_job_id(), {"input_reference": {"sha256": ""}, "poses": {"sha256": ""}}
        for parameter, video in videos.items():
            uploads[parameter] = {"sha256": ""}
            self.artifacts.save(upload_artifact(job_id, parameter), video)
        scratch = self.folder / "picture.png"
        Image.fromarray(picture()).save(scratch)
        self.artifacts.save(upload_artifact(job_id, "input_reference"), scratch)
        self.artifacts.write(upload_artifact(job_id, "poses"), save({"keypoints": walking(frames)}))
        request = REQUEST | {"uploads": uploads} | changes
        return self.database.jobs.create(NewJob(id=job_id, owner="somebody", request=request))[0]

    def work(self, role: Role, database: Database) -> Work:
        """What a worker of this role does."""
        if role is Role.PREPARE:
            limits = UploadLimits(pixels=2**20, seconds=60, pose_frames=2000, memory=8 * 2**30, time=300)
            return Prepare(self.artifacts, self.model, limits, poll=0.1)
        if role is Role.STITCH:
            return Stitch(database, self.artifacts, self.model.rate, poll=0.1)
        return Generate(self.pipeline, database, self.artifacts, self.records)

    def worker(self, role: Role, around: Callable[[Work], Work] = lambda work: work) -> Worker:
        """A worker on its own connection."""
        database = self.database
        work = around(self.work(role, database))
        return Worker(role, database, work, LEASE, poll=0.1, store=self.records.here())

    def finish(self, role: Role, around: Callable[[Work], Work] = lambda work: work) -> int:
        """Does all tasks of a role in a process of its own; returns how it ended."""
        cv2.setNumThreads(1)  # OpenCV's threads are not in a forked process, which would wait for them
        process = FORK.Process(target=_work_off, args=(self, role, around))
        process.start()
        process.join(timeout=300)
        assert process.exitcode is not None, "a worker hangs"
        return process.exitcode

    def expire(self, role: Role = Role.PREPARE) -> None:
        """Ends all leases: hours later somebody looks for work of a role that has none, and finds the dead."""
        late = Database(f"sqlite:///{self.folder}/serving.db", clock=lambda: time.time() + 2 * LEASE)
        assert late.queue.claim(role, "late", LEASE) is None


def empty_place(folder: Path) -> Place:
    """A server with nothing to do, and a tiny model."""
    pipeline, model = tiny_pipeline(), folder / "model"
    pipeline.save_pretrained(model)
    place = Place(folder / "server", pipeline, read_model_info(str(model), itemsize=4))
    place.database.close()
    return place


def _work_off(place: Place, role: Role, around: Callable[[Work], Work]) -> None:
    worker = place.worker(role, around)
    while worker.turn():
        pass


@dataclass(frozen=True)
class Moment:
    """A moment in a task: after `step` steps of it, or (None) when its artifact is stored but not committed."""

    kind: str
    index: int
    step: int | None


def at(moment: Moment, do: Callable[[], object]) -> Callable[[Work], Work]:
    """Does something at a moment of a worker's work."""

    def around(work: Work) -> Work:
        def watched(claim: Claim, beat: Beat) -> Any:
            hit = (claim.task.kind, claim.task.index) == (moment.kind, moment.index)

            def beat_and_do(step: int, steps: int) -> None:
                if hit and step == moment.step:
                    do()
                beat(step, steps)

            plan = work(claim, beat_and_do)
            if hit and moment.step is None:
                do()
            return plan

        return watched

    return around


def die() -> None:
    """Ends this process as a lost machine would."""
    os.kill(os.getpid(), signal.SIGKILL)
