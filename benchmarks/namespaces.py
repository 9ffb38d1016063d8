"""Machines of a Ray cluster, made of one: each a set of Linux namespaces with an address, a hostname, a /dev/shm and a
process table of its own, on one bridge. Needs root.

A machine is killed as when its power fails: all its processes die at once. A cut machine goes on, but nobody hears it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

HEAD, WORKERS, OUTSIDE = "head", ("one", "two"), "outside"
ADDRESSES = {HEAD: "10.77.0.1", "one": "10.77.0.2", "two": "10.77.0.3", OUTSIDE: "10.77.0.9"}
"""Outside are the database and the clients: no machine of Ray's."""
CPUS = {HEAD: 0, "one": 3, "two": 3}
"""That Ray counts, whatever the real machine has: the head computes nothing."""
GCS = f"{ADDRESSES[HEAD]}:6379"
STORE_BYTES = 400_000_000
PATIENCE_S = 240.0


class Machines:
    """A head, two workers and the outside, as long as the block lasts.

    folder: for logs, and a short path, as sockets lie in it. Each machine sees the whole real disk, so any folder does
    for the shared one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tag = f"pg{os.getpid()}"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._others: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Machines:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "token").write_text(secrets.token_hex(32))
        self._ip("netns", "add", self._space("switch"))
        self._switch("link", "add", "bridge", "type", "bridge")
        self._switch("link", "set", "bridge", "up")
        for name, address in ADDRESSES.items():
            space = self._space(name)
            self._ip("netns", "add", space)
            self._switch("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space)
            self._switch("link", "set", name, "master", "bridge", "up")
            self._ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            for link in ("eth0", "lo"):
                self._ip("-n", space, "link", "set", link, "up")
            self._ip("-n", space, "route", "add", "default", "dev", "eth0")  # nothing answers there
        return self

    def __exit__(self, *error: object) -> None:
        for name in list(self._running):
            self.kill(name)
        for process in self._others:
            process.kill()
        for name in (*ADDRESSES, "switch"):
            with suppress(subprocess.CalledProcessError):
                self._ip("netns", "delete", self._space(name))

    def start(self, name: str) -> None:
        """Starts a machine of Ray's, which joins the head."""
        home = self.folder / name
        shutil.rmtree(home, ignore_errors=True)
        (home / "tmp").mkdir(parents=True)
        role = f"--address={GCS}"
        if name == HEAD:
            role = "--head --port=6379 --include-dashboard=false"
        ray = (
            f"ray start {role} --node-ip-address={ADDRESSES[name]} --num-cpus={CPUS[name]} "
            f"--object-store-memory={STORE_BYTES} --temp-dir={home} --disable-usage-stats --block"
        )
        script = f"hostname {self._space(name)} && mount -t tmpfs -o size=1g tmpfs /dev/shm && exec {ray}"
        own = ["--mount", "--uts", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                ["ip", "netns", "exec", self._space(name), "unshare", *own, "bash", "-c", script],
                env=self.environment(name),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Ends a machine at once."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def cut(self, name: str) -> None:
        """Takes a machine's link down."""
        self._switch("link", "set", name, "down")

    def heal(self, name: str) -> None:
        """Brings a machine's link up."""
        self._switch("link", "set", name, "up")

    def is_up(self, name: str) -> bool:
        """Whether a machine's Ray goes on; one that the head gave up ends itself."""
        return name in self._running and self._running[name].poll() is None

    def popen(self, name: str, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """Starts a command on a machine; one on the head dies with it."""
        where = ["ip", "netns", "exec", self._space(name)]
        if name in self._running:
            where = ["nsenter", "--target", str(self._first_process(name)), "--all"]
        process = subprocess.Popen([*where, *command], env=self.environment(name), **options)
        self._others.append(process)
        return process

    def environment(self, name: str) -> Mapping[str, str]:
        """What a machine's processes are given."""
        kept = {key: os.environ[key] for key in ("HOME", "PATH", "LANG") if key in os.environ}
        return kept | {
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "TMPDIR": str(self.folder / name / "tmp") if name in CPUS else "/tmp",
            "OMP_NUM_THREADS": "1",
            "RAY_ADDRESS": GCS,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_raylet_start_wait_time_s": str(int(PATIENCE_S)),  # several Rays start on few cores
            "RAY_worker_niceness": "0",
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.proxy.middlewares",
        }

    def bytes_sent(self) -> dict[str, int]:
        """Bytes that each machine has sent over its link so far."""
        found = json.loads(self._switch("-s", "-j", "link"))
        return {
            link["ifname"]: link["stats64"]["rx"]["bytes"] for link in found if link["ifname"] in ADDRESSES
        }

    def wait(self, count: int) -> None:
        """Waits until so many of Ray's machines are alive. Raises RuntimeError."""
        program = (
            "import ray, sys, time; ray.init(log_to_driver=False, logging_level='ERROR')\n"
            f"while sum(node['Alive'] for node in ray.nodes()) < {count}: time.sleep(1)"
        )
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                if self.popen(HEAD, "python", "-c", program, stderr=subprocess.DEVNULL).wait(60) == 0:
                    return
            time.sleep(2)
        raise RuntimeError(f"{count} machines did not come; see the logs in {self.folder}")

    def _first_process(self, name: str) -> int:
        parent = self._running[name].pid
        children = Path(f"/proc/{parent}/task/{parent}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.1)
        return int(found[0])

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _switch(self, *arguments: str) -> str:
        return self._ip("-n", self._space("switch"), *arguments)

    @staticmethod
    def _ip(*arguments: str) -> str:
        return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
