"""The three jobs on a Ray cluster of a head and two workers, undisturbed and while machines fail. Needs root, Linux.

    python benchmarks/cluster.py --jobs curation training serving --faults none kill cut head

The machines are namespaces of this one, each with an address, processes and a /dev/shm of its own
(benchmarks/namespaces.py); the disk stands for what they share. The head has no CPUs for work. When a job is on its
way, worker "one" is killed and started again after 20 s (`kill`), or its link is cut for 45 s (`cut`), or the head is
killed with all that is known there, and started again, as are the workers and the job (`head`). A training has a worker
on each machine. Every run has a cluster of its own; what it ended with is compared with the undisturbed run's. Results
stay in build/cluster, so runs may be made one by one; the table is of all that are there, the last line is JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import tyro
import yaml

from benchmarks.namespaces import ADDRESSES, HEAD, OUTSIDE, WORKERS, Machines
from testkit.postgres import UNPRIVILEGED, programs

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "build" / "cluster"
MODEL = ROOT / "posegen" / "mini" / "model"
STRUCK = WORKERS[0]
BACK_S, CUT_S = 20.0, 45.0

Fault = Literal["none", "kill", "cut", "head"]
Job = Literal["curation", "training", "serving"]


@dataclass(frozen=True)
class Options:
    """Which runs are made."""

    jobs: tuple[Job, ...] = ("curation", "training", "serving")
    faults: tuple[Fault, ...] = ("none", "kill", "cut", "head")
    videos: Path = ROOT / "demo" / "videos"
    """To be curated: python pipeline/sample_videos.py --output demo/videos."""
    dataset: Path = RESULTS / "curation-none"
    """To be trained on; what the undisturbed curation makes."""


@dataclass(frozen=True)
class Run:
    """What became of a run.

    code: exit status of the job. found: what it ended with, that is to be as in the undisturbed run. sent: MB that each
    machine sent. answers: of the server, by status, of the machine that was struck and of the other.
    """

    job: str
    fault: str
    code: int
    seconds: float
    found: Any
    sent: dict[str, float]
    answers: dict[str, dict[str, int]] = field(default_factory=dict)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if os.geteuid() or sys.platform != "linux":
        sys.exit("cluster: namespaces need root, on Linux")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the machines are taken down
    RESULTS.mkdir(parents=True, exist_ok=True)
    for job in options.jobs:
        for fault in options.faults:
            run = {"curation": curation, "training": training, "serving": serving}[job](options, fault)
            (RESULTS / f"{job}-{fault}.json").write_text(json.dumps(dataclasses.asdict(run)))
            print(line(run), flush=True)
    runs = [Run(**json.loads(file.read_text())) for file in sorted(RESULTS.glob("*-*.json"))]
    print("\n" + "\n".join(map(line, runs)))
    print(json.dumps([dataclasses.asdict(run) for run in runs]))


def line(run: Run) -> str:
    """A row of the table."""
    sent = ", ".join(f"{name} {megabytes:,.1f}" for name, megabytes in run.sent.items())
    ended = "ended" if run.code == 0 else f"status {run.code}"
    answers = "; ".join(f"{name} {statuses}" for name, statuses in run.answers.items())
    return (
        f"{run.job:9} {run.fault:5} {ended:9} {run.seconds:6.1f} s  {same(run):26} MB sent: {sent}  {answers}"
    )


def same(run: Run) -> str:
    """How what a run ended with compares with the undisturbed run's."""
    calm = RESULTS / f"{run.job}-none.json"
    if run.fault == "none" or not calm.exists():
        return "-"
    expected = json.loads(calm.read_text())["found"]
    if run.job == "training" and len(run.found) == len(expected):
        return f"losses differ by {max(abs(a - b) for a, b in zip(run.found, expected, strict=True)):.1e}"
    return "the same" if run.found == expected else "DIFFERS"


def curation(options: Options, fault: Fault) -> Run:
    """Sample videos become a dataset; the fault comes when three clips are scored."""
    output = fresh("curation", fault)
    command = [str(ROOT / "pipeline" / "curate.py"), "--input", str(options.videos), "--output", str(output)]
    command += ["--thresholds", str(ROOT / "pipeline" / "thresholds_demo.yaml"), "--workers", "2"]

    def begun() -> bool:
        return sum("scores-" in str(file) for file in output.glob("work/**/*.parquet")) >= 3

    with cluster() as machines:
        code, seconds = on_the_head(machines, command, begun, fault, output)
        return Run("curation", fault, code, seconds, rows_of(output) if code == 0 else None, sent(machines))


def rows_of(output: Path) -> dict[str, str | int]:
    """What a dataset holds: clips by status, and digests of all rows and of the clips' own videos."""
    clips = pq.read_table(output / "clips").drop_columns(["cpu_seconds"]).sort_by("clip_id").to_pylist()
    media = pq.read_table(output / "media").sort_by("clip_id").to_pylist()
    tables = {"rows": clips, "media": media}
    digests = {name: hashlib.sha256(repr(rows).encode()).hexdigest() for name, rows in tables.items()}
    statuses = [row["status"] for row in clips]
    return digests | {status: statuses.count(status) for status in sorted(set(statuses))}


def training(options: Options, fault: Fault) -> Run:
    """Thirty steps by two workers, of which each fills a machine; the fault comes after the tenth."""
    output = fresh("training", fault)
    settings = {
        "data.dataset": options.dataset,
        "data.model": MODEL,
        "data.batch_size": 4,
        "steps": 30,
        "record.log_every": 5,
        "record.checkpoint_every": 10,
        "record.validate_every": 0,
        "cluster.max_workers": 2,
        "cluster.cpus": 2,
        "adapter.start": MODEL / "adapters" / "base",
        "optimizer.learning_rate": 1e-5,
        "output": output,
    }
    command = [str(ROOT / "training" / "train.py"), "mini_cpu"]
    command += [part for name, value in settings.items() for part in (f"--{name}", str(value))]

    def begun() -> bool:
        return any(row["step"] >= 10 for row in log_of(output))

    with cluster() as machines:
        code, seconds = on_the_head(machines, command, begun, fault, output)
        losses = [row["loss"] for row in log_of(output) if "loss" in row]
        return Run("training", fault, code, seconds, losses, sent(machines))


def log_of(output: Path) -> list[dict[str, float]]:
    """The rows of a training's log; none as long as there is none."""
    file = output / "log.jsonl"
    return [json.loads(row) for row in file.read_text().splitlines()] if file.exists() else []


def serving(options: Options, fault: Fault) -> Run:
    """The sample video by a generator on each machine; the fault comes at a third of it."""
    output = fresh("serving", fault)
    with cluster() as machines, database(machines) as url:
        config = output / "serve.yaml"
        config.write_text(yaml.safe_dump(server_settings(output, url)))
        command = ["serve", "run", str(config)]
        machines.popen(HEAD, *command, stdout=log_file(output), stderr=subprocess.STDOUT)
        urls = [f"http://{ADDRESSES[name]}:8000" for name in WORKERS]
        program = [
            sys.executable,
            str(ROOT / "benchmarks" / "cluster_client.py"),
            str(output / "out.mp4"),
            *urls,
        ]
        client = machines.popen(OUTSIDE, *program, stdout=subprocess.PIPE, text=True)
        assert client.stdout is not None
        last, struck = "", fault == "none"
        for last in client.stdout:
            if not struck and last.startswith("progress ") and int(last.split()[1]) >= 33:
                struck = True
                strike(machines, fault)
                if fault == "head":
                    machines.popen(HEAD, *command, stdout=log_file(output), stderr=subprocess.STDOUT)
        code = client.wait()
        found = json.loads(last) if code == 0 else {"seconds": 0.0, "sha256": None, "answers": {}}
        answers = dict(zip(WORKERS, found["answers"].values(), strict=False))
        return Run("serving", fault, code, found["seconds"], found["sha256"], sent(machines), answers)


def server_settings(output: Path, url: str) -> dict[str, Any]:
    """cluster/serve.yaml for two small machines: the mini model, a folder, one generator a machine."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())
    settings["applications"][0]["args"] = {
        "database": url,
        "artifacts": str(output / "artifacts"),
        "model": str(MODEL),
        "lease": 20,
        "drain": 15,
        "ingress": {"min_workers": 2, "max_workers": 2, "cpus": 0.1},
        "generators": {"min_workers": 2, "max_workers": 2, "cpus": 2},
        "preparers": {"min_workers": 1, "max_workers": 1, "cpus": 0.2},
        "stitchers": {"min_workers": 1, "max_workers": 1, "cpus": 0.2},
        "api": {"open": True},
    }
    return settings


@contextmanager
def database(machines: Machines) -> Iterator[str]:
    """The address of PostgreSQL outside of Ray's machines, so that none of them is needed to reach it."""
    folder = machines.folder / "postgres"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.chown(folder, UNPRIVILEGED)
    control = [str(programs() / "pg_ctl"), "--silent", "--pgdata", str(folder / "data")]
    initdb = "--no-sync --username=postgres --auth=trust --encoding=UTF8 --locale=C"
    quiet: dict[str, Any] = {"user": UNPRIVILEGED, "cwd": folder, "stdout": subprocess.DEVNULL}
    subprocess.run([*control, "initdb", "-o", initdb], check=True, **quiet)
    with (folder / "data" / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 10.77.0.0/24 trust\n")
    listening = f"-k {folder} -c listen_addresses={ADDRESSES[OUTSIDE]} -c max_connections=100"
    outside = ["setpriv", "--reuid", UNPRIVILEGED, "--clear-groups", *control]
    start = [*outside, "start", "-w", "--log", str(folder / "log"), "-o", listening]
    if machines.popen(OUTSIDE, *start, cwd=folder, stdout=subprocess.DEVNULL).wait():
        raise RuntimeError(f"PostgreSQL does not start; see {folder / 'log'}")
    try:
        yield f"postgresql+psycopg://postgres@{ADDRESSES[OUTSIDE]}/postgres"
    finally:
        subprocess.run([*control, "stop", "-m", "immediate"], **quiet)


@contextmanager
def cluster() -> Iterator[Machines]:
    """Three machines that are up."""
    folder = Path("/tmp") / f"pg-{os.getpid()}"  # short: paths of sockets are limited
    try:
        with Machines(folder) as machines:
            machines.start(HEAD)
            time.sleep(5)
            for name in WORKERS:
                machines.start(name)
            machines.wait(3)
            yield machines
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def on_the_head(
    machines: Machines, command: list[str], begun: Callable[[], bool], fault: Fault, output: Path
) -> tuple[int, float]:
    """Runs a Python program on the head, with a fault once it has begun; its status and seconds."""

    def start() -> subprocess.Popen[Any]:
        log = log_file(output)
        return machines.popen(HEAD, sys.executable, *command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

    began, process = time.monotonic(), start()
    if fault != "none":
        while not begun():
            if process.poll() is not None:
                raise RuntimeError(f"the job ended before the fault; see {output}.log")
            time.sleep(0.2)
        strike(machines, fault)
        if fault == "head":
            process = start()
    return process.wait(), round(time.monotonic() - began, 1)


def strike(machines: Machines, fault: Fault) -> None:
    """Makes a fault, and mends it as an operator would."""
    if fault == "kill":
        machines.kill(STRUCK)
        time.sleep(BACK_S)
        machines.start(STRUCK)
    elif fault == "cut":
        machines.cut(STRUCK)
        time.sleep(CUT_S)
        machines.heal(STRUCK)
        time.sleep(BACK_S)
        if not machines.is_up(STRUCK):  # the head had given it up
            machines.kill(STRUCK)
            machines.start(STRUCK)
    elif fault == "head":
        for name in (HEAD, *WORKERS):  # a new head knows nothing of the old one's workers
            machines.kill(name)
        machines.start(HEAD)
        time.sleep(5)
        for name in WORKERS:
            machines.start(name)
        machines.wait(3)


def fresh(job: str, fault: str) -> Path:
    """An empty folder for what a run makes."""
    output = RESULTS / f"{job}-{fault}"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    return output


def log_file(output: Path) -> Any:
    """Where a run's programs write."""
    return (output.parent / f"{output.name}.log").open("ab")


def sent(machines: Machines) -> dict[str, float]:
    """MB that each machine sent."""
    return {name: round(count / 1e6, 1) for name, count in machines.bytes_sent().items()}


if __name__ == "__main__":
    main()
