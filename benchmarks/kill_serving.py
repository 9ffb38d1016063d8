"""The kill matrix: each part of a running server is killed once by SIGKILL while it makes a video.

    python benchmarks/kill_serving.py [--frames 29] [--steps 6] [--generators 2]

The model is a tiny one of random weights. Every job must end in the same frames and the same file as an undisturbed
one, and no segment that was committed before the kill may be computed again. Of a scheduler there is nothing to kill:
the database is the queue, and whoever looks for work schedules. Prints a table and, last, one JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro

from testkit.serving_cluster import VICTIMS, Cluster, Victim, done, torment
from testkit.tiny_model import save_tiny_model


@dataclass(frozen=True)
class Found:
    """What became of the job during which a victim was killed."""

    victim: str
    seconds: float
    completed: bool
    same_frames: bool
    same_file: bool
    committed_twice: int


def main(frames: int = 29, steps: int = 6, generators: int = 2) -> None:
    """Runs the matrix.

    Args:
        frames: Of each video; 29 are three segments.
        steps: Denoising steps.
        generators: Replicas that generate.
    """
    with tempfile.TemporaryDirectory() as scratch:
        (folder := Path(scratch) / "server").mkdir()
        cluster = Cluster(folder, save_tiny_model(Path(scratch) / "model"), generators)
        cluster.start()
        try:
            calm = cluster.post(frames, "undisturbed", steps=str(steps))
            cluster.finished(calm)
            found = [outlive(cluster, calm, victim, frames, steps) for victim in VICTIMS]
        finally:
            cluster.stop()
    print(f"{'killed':34} {'s':>6}  completed  same frames  same file  computed twice")
    for row in found:
        marks = ["yes" if mark else "NO" for mark in (row.completed, row.same_frames, row.same_file)]
        print(
            f"{row.victim:34} {row.seconds:6.0f}  {marks[0]:9}  {marks[1]:11}  {marks[2]:9}  {row.committed_twice}"
        )
    print(f"{'scheduler':34}         there is no such process: the database is the queue")
    good = all(row.completed and row.same_frames and row.same_file for row in found)
    twice = sum(row.committed_twice for row in found)
    result = {"kills": len(found), "all_same": good, "committed_twice": twice}
    print(json.dumps(result | {"runs": [asdict(row) for row in found]}))
    sys.exit(not good or twice > 0)


def outlive(cluster: Cluster, calm: str, victim: Victim, frames: int, steps: int) -> Found:
    """Kills the victim while a job runs and compares what the job ends with to an undisturbed one."""
    started = time.monotonic()
    job_id = cluster.post(frames, victim.name, steps=str(steps))
    before = torment(cluster, job_id, victim)
    if victim.who == "cluster":
        cluster.start()
    completed = cluster.finished(job_id)["status"] == "completed"
    seconds, after = time.monotonic() - started, done(cluster.database, job_id)
    expected = cluster.frames(calm)
    same = completed and all(
        np.array_equal(made, expected[index]) for index, made in cluster.frames(job_id).items()
    )
    print(f"{victim.name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return Found(
        victim=victim.name,
        seconds=round(seconds, 1),
        completed=completed,
        same_frames=same,
        same_file=completed and cluster.video(job_id) == cluster.video(calm),
        committed_twice=sum(after.get(task) != attempt for task, attempt in before.items()),
    )


if __name__ == "__main__":
    tyro.cli(main)
