"""One video of the bundled mini model on a real server with so many replicas: a part of `benchmarks/schedule.py`."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.config import BUNDLED
from serving.state.rows import JobPlan, Kind
from testkit.serving_cluster import Cluster
from testkit.tiny_model import SIZE

FRAMES = 120  # 10 s
WARM_UP = 42  # frames: three segments, so that each replica has made one
STEPS = 100  # the most that a server takes: a segment then takes seconds, not a fraction of one


@dataclass(frozen=True)
class Run:
    """A job: seconds from the first segment's begin to the last one's end, the mean of a segment's, and the frames."""

    plan: JobPlan
    replicas: int
    seconds: float
    segment_seconds: float
    frames: dict[int, np.ndarray]


def run(replicas: int) -> Run:
    """Starts a server whose replicas compute on one thread each, has a video made, stops it."""
    with tempfile.TemporaryDirectory() as scratch:
        cluster = Cluster(Path(scratch), Path(BUNDLED), generators=replicas)
        try:
            cluster.start()
            make(cluster, WARM_UP)
            job_id = make(cluster, FRAMES)
            plan, frames = cluster.database.jobs.get(job_id).plan, cluster.frames(job_id)
            tasks = cluster.database.jobs.tasks(job_id, Kind.SEGMENT)
        finally:
            cluster.stop()
    assert plan is not None  # the job is done
    spans = np.array([(task.started_at, task.finished_at) for task in tasks])
    seconds = float(spans[:, 1].max() - spans[:, 0].min())
    return Run(plan, replicas, seconds, float((spans[:, 1] - spans[:, 0]).mean()), frames)


def make(cluster: Cluster, frames: int) -> str:
    """Has a video made of poses; returns its job's id."""
    job_id = cluster.post(frames, f"{frames} frames", poses_size="{}x{}".format(*SIZE), steps=str(STEPS))
    if (video := cluster.finished(job_id))["status"] != "completed":
        sys.exit(f"The video was not made: {video['error']['message']}")
    return job_id
