"""A whole server on a Ray cluster of its own, in a process that can be killed: `python tests/serving_cluster.py JSON`.

Its state lies in a SQLite file, or in a PostgreSQL database by its URL.

Victims are found by the titles that Ray gives its processes, or by the worker's name in the database.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import psutil
from PIL import Image

from serving.local import free_port, local_server
from serving.state.artifacts import Artifacts
from serving.state.database import Database
from serving.state.rows import Job, Kind, Task
from serving.state.transitions import TaskState
from testkit.tiny_model import picture, walking

PATIENCE_S = 600.0
LEASE_S = 20.0
TITLES = {
    "proxy": "ray::ProxyActor",
    "controller": "ray::ServeController",
    "store": "ray::AnchorStore",
    "ingress": "ray::ServeReplica:default:Ingress",
    "preparer": "ray::ServeReplica:default:Preparer",
    "generator": "ray::ServeReplica:default:Generator",
    "stitcher": "ray::ServeReplica:default:VideoStitcher",
}


@dataclass
class Cluster:
    """A server whose state lies in a folder, or partly in another database; may be started again after its end."""

    folder: Path
    model: Path
    generators: int = 2
    ingresses: int = 1
    database_url: str = ""
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.database_url = self.database_url or f"sqlite:///{self.folder}/serving.db"

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @cached_property
    def database(self) -> Database:
        """The server's database, opened in this process."""
        return Database(self.database_url)

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(str(self.folder / "artifacts"), self.database.id)

    def start(self) -> None:
        """Starts it and waits until it can work."""
        settings = {
            "database": self.database_url,
            "artifacts": str(self.folder / "artifacts"),
            "model": str(self.model),
            "lease": LEASE_S,
            "poll": 0.2,
            "generators": {"min_workers": self.generators, "cpus": 0.5},
            "ingress": {"min_workers": self.ingresses, "max_workers": self.ingresses, "cpus": 0.1},
            "api": {"free_bytes": 0},
        }
        order = json.dumps({"port": self.port, "settings": settings})
        self._process = subprocess.Popen(
            [sys.executable, __file__, order],
            stdout=(self.folder / "server.log").open("ab"),
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        )
        self.wait(lambda: '"ok":true' in self.get("/healthz").text)

    def stop(self) -> None:
        """Ends it as an operator would."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(PATIENCE_S)

    def kill(self) -> None:
        """Kills every process of it at once."""
        assert self._process is not None
        victims = [psutil.Process(self._process.pid), *self._children()]
        for victim in victims:
            victim.kill()
        psutil.wait_procs(victims, timeout=60)
        self._process.wait()

    def kill_one(self, kind: str, task: Task | None = None) -> bool:
        """Kills the processes of a kind (see TITLES), or the one that works on a task; whether there was one."""
        victims = [child for child in self._children() if _title(child).startswith(TITLES[kind])]
        if task is not None:
            pid = int(str(task.worker).split("-")[-2])
            victims = [victim for victim in victims if victim.pid == pid]
        for victim in victims:
            victim.kill()
        return bool(victims)

    def send(self, kind: str, number: signal.Signals) -> None:
        """Sends a signal to all processes of a kind."""
        for child in self._children():
            if _title(child).startswith(TITLES[kind]):
                child.send_signal(number)

    def cpu_seconds(self) -> dict[str, float]:
        """How long the processes of each kind (see TITLES) have computed, and all others together."""
        spent = dict.fromkeys([*TITLES, "other"], 0.0)
        for child in self._children():
            title = _title(child)
            kind = next((kind for kind, start in TITLES.items() if title.startswith(start)), "other")
            with suppress(psutil.Error):
                spent[kind] += sum(child.cpu_times()[:2])
        return spent

    def _children(self) -> list[psutil.Process]:
        assert self._process is not None
        return psutil.Process(self._process.pid).children(recursive=True)

    def get(self, path: str) -> httpx.Response:
        """The answer to a request; 503 while nobody answers."""
        try:
            return httpx.get(f"{self.address}{path}", timeout=60)
        except httpx.TransportError:
            return httpx.Response(503)

    def post(self, frames: int, key: str, **options: str) -> str:
        """Posts a job of a picture and poses until the server takes it; returns its id."""
        form = {"prompt": "the woman dances", "align": "none", "framing": "full-body"} | options
        content = io.BytesIO()
        Image.fromarray(picture()).save(content, "PNG")
        files = {
            "input_reference": content.getvalue(),
            "poses": json.dumps(walking(frames).tolist()).encode(),
        }

        def posted() -> str | None:
            try:
                answer = httpx.post(
                    f"{self.address}/v1/videos",
                    data=form,
                    files={name: (name, body) for name, body in files.items()},
                    headers={"Idempotency-Key": key},
                    timeout=120,
                )
            except httpx.TransportError:
                return None
            return answer.json()["id"] if answer.status_code == 200 else None

        return str(self.wait(posted))

    def finished(self, job_id: str) -> dict[str, Any]:
        """The job, asked for over HTTP until it has ended."""

        def ended() -> dict[str, Any] | None:
            answer = self.get(f"/v1/videos/{job_id}")
            video = answer.json() if answer.status_code == 200 else {"status": ""}
            return video if video["status"] in ("completed", "failed") else None

        found: dict[str, Any] = self.wait(ended, pause=0.5)
        return found

    def wait(self, condition: Callable[[], Any], pause: float = 0.02) -> Any:
        """The first true value of a condition."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited in vain; the server says:\n{self._log()}"
            assert self._process is None or self._process.poll() is None, f"it ended:\n{self._log()}"
            time.sleep(pause)
        return value

    def _log(self) -> str:
        return (self.folder / "server.log").read_text()[-4000:]

    def frames(self, job_id: str) -> dict[int, np.ndarray]:
        """The committed segments' frames by index."""
        tasks = self.database.jobs.tasks(job_id, Kind.SEGMENT)
        return {task.index: self.artifacts.load_frames(task.artifact) for task in tasks}

    def video(self, job_id: str) -> bytes:
        """The finished video's file."""
        (stitch,) = self.database.jobs.tasks(job_id, Kind.STITCH)
        return self.artifacts.read(stitch.artifact)


@dataclass(frozen=True)
class Victim:
    """Who is killed (a key of TITLES, or "cluster"), and when: once a task of a kind and index is in a certain way."""

    name: str
    who: str
    kind: Kind
    index: int
    when: Callable[[Job, Task], bool]
    holder: bool = False  # kill only who works on that task


def running(job: Job, task: Task) -> bool:
    """The task has made a step, or is about to."""
    return task.state is TaskState.RUNNING


def unpublished(job: Job, task: Task) -> bool:
    """The anchor runs and none of its record is there."""
    return task.state is TaskState.RUNNING and job.published_steps == 0


def published(job: Job, task: Task) -> bool:
    """The anchor runs and its record is there."""
    return task.state is TaskState.RUNNING and job.recorded


VICTIMS = (
    Victim("preparer", "preparer", Kind.PREPARE, 0, running),
    Victim("anchor worker before publishing", "generator", Kind.SEGMENT, 0, unpublished, holder=True),
    Victim("anchor worker after publishing", "generator", Kind.SEGMENT, 0, published, holder=True),
    Victim("base worker", "generator", Kind.SEGMENT, 2, running, holder=True),
    Victim("bridge worker", "generator", Kind.SEGMENT, 1, running, holder=True),
    Victim("anchor store", "store", Kind.SEGMENT, 0, published),
    Victim("stitcher", "stitcher", Kind.STITCH, 0, running),
    Victim("ingress", "ingress", Kind.SEGMENT, 2, running),
    Victim("proxy", "proxy", Kind.SEGMENT, 0, running),
    Victim("controller", "controller", Kind.SEGMENT, 0, running),
    Victim("whole cluster", "cluster", Kind.SEGMENT, 2, running),
)


def torment(cluster: Cluster, job_id: str, victim: Victim) -> dict[tuple[str, int], int]:
    """Kills a victim at its moment; returns the attempts of the tasks that were done by then."""
    database = cluster.database

    def due() -> Task | None:
        job, tasks = database.jobs.get(job_id), database.jobs.tasks(job_id, victim.kind)
        task = next((task for task in tasks if task.index == victim.index), None)
        assert task is None or task.state is not TaskState.DONE, f"the moment of the {victim.name} was missed"
        return task if task and victim.when(job, task) else None

    task = cluster.wait(due, pause=0.005)
    if victim.who == "cluster":
        cluster.kill()
    else:
        cluster.wait(lambda: cluster.kill_one(victim.who, task if victim.holder else None), pause=0.005)
    return done(database, job_id)


def done(database: Database, job_id: str) -> dict[tuple[str, int], int]:
    """How often each finished task was claimed."""
    tasks = database.jobs.tasks(job_id)
    return {(task.kind, task.index): task.attempt for task in tasks if task.state is TaskState.DONE}


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def main() -> None:
    """Serves until interrupted, also where the tests run in a shell's background, which ignores interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    order = json.loads(sys.argv[1])
    with suppress(KeyboardInterrupt), local_server(order["settings"], cpus=8, port=order["port"]):
        signal.pause()


if __name__ == "__main__":
    main()
