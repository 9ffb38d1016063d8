"""A second machine for the Ray cluster of a test, that can be announced to go away and be taken away."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import psutil
import ray

RAY = str(Path(sys.executable).with_name("ray"))


class Machine:
    """Another node of the cluster that this process is connected to, with processes and a folder of its own."""

    def __init__(self, cpus: float) -> None:
        self.cpus, self.address = cpus, ray.get_runtime_context().gcs_address
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        before = _nodes()
        start = [RAY, "start", f"--address={self.address}", f"--num-cpus={cpus:g}", "--block"]
        # In its own folder it tells no other program on this machine of the cluster.
        self._process = subprocess.Popen(
            [*start, f"--temp-dir={self._folder.name}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not (new := _nodes() - before):
            if self._process.poll() is not None:
                raise RuntimeError("the second machine did not start")
            time.sleep(0.1)
        (self.node_id,) = new

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()

    def announce_end(self, seconds: int) -> None:
        """Tells the cluster that this machine will be taken away, as the operator of spot machines does."""
        command = [RAY, "drain-node", f"--address={self.address}", f"--node-id={self.node_id}"]
        reason = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=test"]
        subprocess.run([*command, *reason, f"--deadline-remaining-seconds={seconds}"], check=True)

    def kill(self) -> list[str]:
        """Ends all processes at once, as when the power fails; returns their command lines."""
        if self._process.poll() is not None:
            return []
        ours = [
            *psutil.Process(self._process.pid).children(recursive=True),
            psutil.Process(self._process.pid),
        ]
        lines = []
        for process in ours:
            try:
                lines.append(" ".join(process.cmdline()))
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self._process.wait()
        return lines


def _nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
