"""Kills the curation job at random moments and compares what it ends with to an undisturbed run, byte for byte.

    python benchmarks/kill.py [--data videos] [--kills 10] [--seed 0]

Each kill is a SIGKILL of the driver (and with it of the cluster that it started) or of one planning or scoring worker,
by chance; a job whose driver died is started again. Every column of `clips/` but `cpu_seconds` must be equal, and the
files of `media/` to the last byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from pipeline.sample_videos import fetch_samples
from testkit.curation_workers import curation_workers

CURATE = Path(__file__).parent.parent / "pipeline" / "curate.py"
CALM, HASTY = 50.0, 5.0
"""Seconds between two kills lie between these, evenly: some during start-up, most during the work."""


def main(data: Path | None = None, kills: int = 10, seed: int = 0) -> None:
    """Runs the job undisturbed and killed, and compares the two.

    Args:
        data: Folder of videos; the sample videos by default.
        kills: How many times to kill.
        seed: Of the moments and the victims.
    """
    with tempfile.TemporaryDirectory() as scratch:
        videos = data or Path(scratch) / "videos"
        if data is None:
            fetch_samples(videos)
        calm, killed = Path(scratch) / "undisturbed", Path(scratch) / "killed"
        started = time.monotonic()
        if start(videos, calm).wait():
            sys.exit("kill: the undisturbed run failed")
        print(f"undisturbed run took {time.monotonic() - started:.0f} s", flush=True)
        victims = torment(videos, killed, kills, random.Random(seed))
        same_rows = rows(calm).equals(rows(killed))
        same_media = digests(calm / "media") == digests(killed / "media")
        found = {
            "kills": len(victims),
            "drivers": victims.count("driver"),
            "workers": victims.count("worker"),
        }
        print(
            json.dumps(
                found | {"rows": rows(calm).num_rows, "same_rows": same_rows, "same_media": same_media}
            )
        )
        sys.exit(not (same_rows and same_media))


def start(videos: Path, output: Path) -> subprocess.Popen[bytes]:
    """Starts the job, on a cluster of its own."""
    command = [sys.executable, str(CURATE), "--input", str(videos), "--output", str(output)]
    return subprocess.Popen(command, env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"})


def torment(videos: Path, output: Path, kills: int, chance: random.Random) -> list[str]:
    """Kills until that many were killed, starting the job again as needed, then lets it end; returns the victims."""
    victims: list[str] = []
    job = start(videos, output)
    while len(victims) < kills:
        time.sleep(chance.uniform(HASTY, CALM))
        ended = job.poll() is not None
        workers = [] if ended else curation_workers(job.pid)
        if not ended and (not workers or chance.random() < 0.5):
            kill_tree(job)
            victims.append("driver")
        elif workers:
            chance.choice(workers).send_signal(signal.SIGKILL)
            victims.append("worker")
        print(f"kill {len(victims)}: {victims[-1] if victims else 'none'}", flush=True)
        if job.poll() is not None:
            job = start(videos, output)
    while job.wait():
        job = start(videos, output)
    return victims


def kill_tree(job: subprocess.Popen[bytes]) -> None:
    """Kills the driver as a lost machine would: with everything it started."""
    children = psutil.Process(job.pid).children(recursive=True)
    job.kill()
    job.wait()
    for child in children:
        if child.is_running():
            child.kill()
    psutil.wait_procs(children, timeout=30)


def rows(output: Path) -> pa.Table:
    """The finished table without what a clock measured."""
    return pq.read_table(output / "clips").drop_columns(["cpu_seconds"])


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


if __name__ == "__main__":
    tyro.cli(main)
