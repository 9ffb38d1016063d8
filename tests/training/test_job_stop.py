"""`ray job stop` on a real cluster: a training that has the time ends with a checkpoint, and goes on from it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from posegen.model.checkpoints import read_adapter
from testkit.job_server import JobServer, until
from testkit.tiny_training import write_tiny_dataset, write_tiny_model
from training.checkpoint import read_position
from training.log import read_log

pytestmark = pytest.mark.long

TIME_TO_STOP = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "600"}}
"""Else Ray kills what has not ended 3 s after its signal."""


def test_ray_job_stop_ends_with_a_checkpoint(job_server: JobServer, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model")
    write_tiny_dataset(tmp_path / "dataset")
    output = tmp_path / "output"
    submit(job_server, tmp_path, 100_000, "--no-wait", "--submission-id", "first")
    until(lambda: output.exists() and len(read_log(output)) >= 3)
    stopped = job_server.job("stop", "first")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    last = int(max(row["step"] for row in read_log(output)))
    assert read_position(output / f"checkpoint-{last:08}").step == last
    assert read_adapter(output / "adapters" / "base").tensors

    submit(job_server, tmp_path, last + 2)
    assert [row["step"] for row in read_log(output)] == [*range(1, last + 3)]
    assert read_position(output / f"checkpoint-{last + 2:08}").step == last + 2


def submit(server: JobServer, folder: Path, steps: int, *options: str) -> None:
    """A training of the tiny model on the tiny dataset as a job, which ends well where it is waited for."""
    train = f"training/train.py mini_cpu --steps {steps} --output {folder / 'output'} "
    train += f"--data.dataset {folder / 'dataset'} --data.model {folder / 'model'} --data.sizes 32 48 "
    train += "--record.log_every 1 --record.checkpoint_every 100000 --record.validate_every 0"
    environment = ("--runtime-env-json", json.dumps(TIME_TO_STOP))
    done = server.job(
        "submit", "--working-dir", ".", *options, *environment, "--", sys.executable, *train.split()
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
