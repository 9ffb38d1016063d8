"""Many clients poll a server while it works: nothing may be lost, and polls must stay quick.

    python benchmarks/clients.py [--clients 200] [--jobs 20] [--ingresses 2] [--generators 2]

The server is a whole one on PostgreSQL, its model a tiny one of random weights. The jobs are posted at once; each
client polls one of them until it ends, as often as the server advises, then downloads its video. Counted are jobs that
do not end in a whole video, clients that do not see the end of theirs, and polls that are not answered. The clients run
on the same machine, so the times of polls hold some of theirs. Prints what each part of the server has computed, a
table and, last, one JSON object.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import av
import numpy as np
import tyro

from testkit.postgres import empty_database, postgres_server
from testkit.serving_cluster import Cluster
from testkit.tiny_model import save_tiny_model

FRAMES, STEPS = 29, 4  # three segments
POSTS = 4  # at once; the server reads uploads two at a time
PERCENTILES = (50, 90, 99)


@dataclass
class Seen:
    """What all clients saw: seconds of each poll, unanswered polls, and the frames of each video downloaded."""

    polls: list[float] = field(default_factory=list)
    failed: int = 0
    frames: list[int] = field(default_factory=list)


def main(clients: int = 200, jobs: int = 20, ingresses: int = 2, generators: int = 2) -> None:
    """Starts a server and lets the clients loose.

    Args:
        clients: That poll.
        jobs: That run meanwhile.
        ingresses: Replicas of the endpoint.
        generators: Replicas that generate.
    """
    with tempfile.TemporaryDirectory() as scratch, postgres_server() as postgres:
        (folder := Path(scratch) / "server").mkdir()
        model = save_tiny_model(Path(scratch) / "model")
        cluster = Cluster(folder, model, generators, ingresses, empty_database(postgres))
        try:
            cluster.start()
            begun, before = time.monotonic(), cluster.cpu_seconds()
            seen = asyncio.run(crowd(cluster, clients, jobs))
            seconds, after = time.monotonic() - begun, cluster.cpu_seconds()
            completed = sum(job.status == "completed" for job in cluster.database.jobs.page(limit=jobs + 1))
        finally:
            cluster.stop()
    print("CPU seconds: " + ", ".join(f"{kind} {after[kind] - before[kind]:.0f}" for kind in after))
    sys.exit(not report(seen, clients, jobs, completed, seconds))


async def crowd(cluster: Cluster, clients: int, jobs: int) -> Seen:
    """Posts the jobs and waits until each client has its video."""
    seen, turns = Seen(), asyncio.Semaphore(POSTS)

    async def post(number: int) -> str:
        async with turns:
            return await asyncio.to_thread(cluster.post, FRAMES, f"job {number}", steps=str(STEPS))

    ids = [asyncio.create_task(post(number)) for number in range(jobs)]
    connections = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(cluster.address, connector=connections, timeout=timeout) as session:
        await asyncio.gather(*(watch(session, ids[number % jobs], seen) for number in range(clients)))
    return seen


async def watch(session: aiohttp.ClientSession, posted: asyncio.Task[str], seen: Seen) -> None:
    """One client, from its job's posting to its video."""
    address, ended = f"/v1/videos/{await posted}", False
    while not ended:
        began, pause = time.perf_counter(), 1.0
        try:
            async with session.get(address) as answer:
                answer.raise_for_status()
                ended = (await answer.json())["status"] in ("completed", "failed")
                pause = float(answer.headers.get("openai-poll-after-ms", 1000)) / 1000
            seen.polls.append(time.perf_counter() - began)
        except (aiohttp.ClientError, TimeoutError):
            seen.failed += 1
        await asyncio.sleep(0 if ended else pause)
    with suppress(aiohttp.ClientError, TimeoutError):  # a video that is not got is counted by its absence
        async with session.get(f"{address}/content", raise_for_status=True) as answer:
            seen.frames.append(await asyncio.to_thread(frames_of, await answer.read()))


def frames_of(video: bytes) -> int:
    """How many frames a file holds."""
    with av.open(io.BytesIO(video), "r") as container:
        return sum(1 for _ in container.decode(video=0))


def report(seen: Seen, clients: int, jobs: int, completed: int, seconds: float) -> bool:
    """Prints what was seen; whether nothing was lost."""
    whole = seen.frames.count(FRAMES)
    spent = 1000 * np.array(seen.polls)
    latency = {f"p{share}_ms": float(np.percentile(spent, share)) for share in PERCENTILES}
    latency["max_ms"] = float(spent.max())
    print(
        f"{jobs} jobs, {completed} completed; {clients} clients, {whole} with a whole video; {seconds:.0f} s"
    )
    print(f"{'polls':>7} {'unanswered':>11} {'a second':>9}" + "".join(f" {name:>8}" for name in latency))
    figures = "".join(f" {value:8.1f}" for value in latency.values())
    print(f"{len(seen.polls):7} {seen.failed:11} {len(seen.polls) / seconds:9.1f}{figures}")
    lost = (jobs - completed) + (clients - whole) + seen.failed
    found = {"clients": clients, "jobs": jobs, "completed": completed, "whole_videos": whole}
    found |= {"polls": len(seen.polls), "unanswered": seen.failed, "lost": lost}
    print(json.dumps(found | {name: round(value, 1) for name, value in latency.items()}))
    return lost == 0


if __name__ == "__main__":
    tyro.cli(main)
