"""Stitches long videos of made frames as the server does, and watches the memory that it takes.

    python benchmarks/stitch.py [--seconds 60] [--size 1280 720]

Segments of made frames lie in a folder, as committed ones do (as links to two files, since ten minutes of 720p would
be 100 GB). A server's stitching task joins and encodes them in a process of its own, for a video of a third of the
length and for all of it. Prints a table and, last, one JSON object: `peak_over_shorter` is the larger peak memory over
the smaller one, 1 where memory does not grow with the length.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import tyro

from posegen.longvideo.segments import Plan, plan
from posegen.video import probe
from serving.state.artifacts import Artifacts
from serving.state.database import Database
from serving.state.rows import JobPlan, Kind, NewJob, Role, new_job_id
from serving.work.loop import Worker
from serving.work.stitch import Stitch

RATE = 30.0
LEASE = 3600.0
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Found:
    """What stitching one video took; peak_mib: resident memory of its process at most."""

    seconds: float
    frames: int
    frames_expected: int
    peak_mib: float
    stitched_in: float


def main(seconds: float = 60.0, size: tuple[int, int] = (1280, 720)) -> None:
    """Stitches a video of a third of `seconds`, then one of all.

    Args:
        seconds: Length of the video.
        size: Width and height in pixels.
    """
    found = [stitched(length, size) for length in (seconds / 3, seconds)]
    print(f"{'video s':>8} {'frames':>7} {'of':>7} {'peak MiB':>9} {'frames/s':>9}")
    for row in found:
        speed = row.frames / row.stitched_in
        print(f"{row.seconds:8.0f} {row.frames:7} {row.frames_expected:7} {row.peak_mib:9.0f} {speed:9.1f}")
    exact = all(row.frames == row.frames_expected for row in found)
    ratio = found[1].peak_mib / found[0].peak_mib
    result = {"peak_over_shorter": round(ratio, 3), "frames_exact": exact}
    print(json.dumps(result | {"runs": [asdict(row) for row in found]}))
    sys.exit(not exact)


def stitched(seconds: float, size: tuple[int, int]) -> Found:
    """Makes a job's segments and has them stitched."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        timeline = plan(round(seconds * RATE))
        job_id = post(folder, timeline, size)
        receiver, sender = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=stitch, args=(folder, sender))
        process.start()
        peak, spent = receiver.recv()
        process.join()
        database = open_database(folder)
        (task,) = database.jobs.tasks(job_id, Kind.STITCH)
        video = probe(Path(open_artifacts(folder, database).path(task.artifact)))
        return Found(seconds, len(video.frame_times), timeline.frames, peak, spent)


def open_database(folder: Path) -> Database:
    """The database in a folder."""
    return Database(f"sqlite:///{folder}/serving.db")


def open_artifacts(folder: Path, database: Database) -> Artifacts:
    """The artifacts in the same folder."""
    return Artifacts(str(folder / "artifacts"), database.id)


def post(folder: Path, timeline: Plan, size: tuple[int, int]) -> str:
    """A job whose segments are all committed; returns its id."""
    database = open_database(folder)
    artifacts = open_artifacts(folder, database)
    job, _ = database.jobs.create(NewJob(id=new_job_id(), owner="bench", request={}))
    prepare = database.queue.claim(Role.PREPARE, "prepare", LEASE)
    assert prepare is not None
    database.queue.commit_plan(prepare, job_plan(timeline))
    for parity in (0, 1)[: len(timeline.segments)]:
        artifacts.save_frames(f"{job.id}/made-{parity}", made_frames(timeline, parity, size))
    while claim := database.queue.claim(Role.GENERATE, "generate", LEASE):
        made = artifacts.path(f"{job.id}/made-{claim.task.index % 2}")
        Path(artifacts.path(claim.task.artifact)).hardlink_to(made)
        database.queue.commit(claim)
    return job.id


def job_plan(timeline: Plan) -> JobPlan:
    """The plan of a job that shares nothing."""
    return JobPlan(
        frames=timeline.frames,
        segment_frames=timeline.segment_frames,
        head=timeline.head,
        tail=timeline.tail,
        anchor=timeline.anchor,
        steps=1,
        seed=0,
        shared_steps=0,
        record_bytes=0,
        content_id="made",
    )


def made_frames(timeline: Plan, index: int, size: tuple[int, int]) -> np.ndarray:
    """A segment's frames (F, H, W, 3) uint8: a slope that drifts, and a square that goes round."""
    segment = timeline.segments[index]
    columns, rows = np.meshgrid(np.arange(size[0], dtype=np.uint8), np.arange(size[1], dtype=np.uint8))
    frames = np.empty((segment.frames, size[1], size[0], 3), np.uint8)
    for place, moment in enumerate(timeline.driving_frames(index)):
        frames[place] = np.stack([columns // 2 + np.uint8(moment % 64), rows // 2, columns // 4], axis=2)
        left = int(moment * 7 % (size[0] - 64))
        frames[place, size[1] // 2 : size[1] // 2 + 64, left : left + 64] = 230
    return frames


def stitch(folder: Path, sender: Connection) -> None:
    """Does the stitching task; sends its process's peak memory in MiB and the seconds it took."""
    database = open_database(folder)
    work = Stitch(database, open_artifacts(folder, database), RATE)
    started = time.monotonic()
    Worker(Role.STITCH, database, work, LEASE).turn()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sender.send((peak, time.monotonic() - started))


if __name__ == "__main__":
    tyro.cli(main)
