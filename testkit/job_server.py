"""A Ray cluster of its own that takes jobs by `ray job submit`, as a real one does."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from testkit import ROOT

RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class JobServer:
    """Where a cluster takes jobs. environment: of those who may give it some."""

    address: str
    environment: dict[str, str]

    def job(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `ray job COMMAND` in the checkout."""
        return subprocess.run(
            [str(RAY), "job", command, "--address", self.address, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
        )


@contextmanager
def running_job_server() -> Iterator[JobServer]:
    """A `ray start --head` of two CPUs, with ports and a token of its own."""
    port, dashboard, agent = (str(free_port()) for _ in range(3))
    command = [str(RAY), "start", "--head", "--block", "--num-cpus", "2", "--port", port]
    command += ["--dashboard-port", dashboard, "--dashboard-agent-listen-port", agent]
    command += ["--temp-dir", f"/tmp/ray-{port}"]
    # Whether Ray asks for a token, and which, else depends on what the user's home folder holds.
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    head = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    server = JobServer(f"http://127.0.0.1:{dashboard}", environment)
    try:
        until(lambda: server.job("list").returncode == 0)
        yield server
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            process.kill()
        head.wait()
        shutil.rmtree(f"/tmp/ray-{port}", ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port: int = probe_socket.getsockname()[1]
        return port


def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition; the time limit of the test ends a wait for what never comes."""
    while not condition():
        time.sleep(0.05)
