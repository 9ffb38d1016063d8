"""Weights & Biases and MLflow, to which a training's figures may also go; both are optional packages.

Where they send to and as whom they know from their own environment variables, on the machine of the first worker. A
training that goes on from a checkpoint goes on in the same run, where steps that it takes again stand twice. They are
told figures and settings that are numbers, and nothing of the machine: no command line, path or address, in which a
password might be.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from posegen.common.storage import Folder

TrackerName = Literal["wandb", "mlflow"]
RUN_FILE = "tracker.json"
"""In the output folder: the ids of the training's runs, by tracker."""
PROJECT = "posegen"
"""What the run is found under where the environment names no other."""


class Tracker(Protocol):
    """A run of a tracker. id: by which it is found again."""

    id: str

    def write(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def require_tracker(name: TrackerName | None) -> None:
    """Raise ValueError, a sentence, where the tracker's package is missing."""
    if name and find_spec(name) is None:
        raise ValueError(
            f"record.tracker {name} needs the package {name}: pip install 'posegen[{name}]', on all machines."
        )


def open_tracker(name: TrackerName | None, output: str, step: int, settings: Any) -> Tracker | None:
    """The run of a training that stands at this step, a new one at step 0; None where none is asked for.

    What it keeps until it is sent, and for good where it is offline, lies in the output folder if that is a local one.
    settings: the training's, a dataclass.
    """
    if name is None:
        return None
    folder = Folder(output)
    known = json.loads(folder.read(RUN_FILE)) if step and folder.exists(RUN_FILE) else {}
    scratch = Path(folder.root if folder.local else tempfile.mkdtemp(prefix="posegen-tracker-"))
    tracker = TRACKERS[name](folder.root.rpartition("/")[2], known.get(name), scratch, numbers(settings))
    folder.write(RUN_FILE, json.dumps({**known, name: tracker.id}).encode())
    return tracker


def numbers(settings: Any, prefix: str = "") -> dict[str, float]:
    """The fields of a dataclass, and of those in it, that are numbers, such as "optimizer.learning_rate"."""
    found: dict[str, float] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            found |= numbers(value, f"{prefix}{field.name}.")
        elif isinstance(value, int | float):
            found[f"{prefix}{field.name}"] = value
    return found


class WandbRun:
    """A run of Weights & Biases, which a process of its own sends, so that the training never waits for it."""

    def __init__(self, title: str, known: str | None, scratch: Path, settings: dict[str, float]) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=title,
            id=known,
            resume="allow",
            dir=scratch,
            config=settings,
            settings=wandb.Settings(console="off", disable_git=True, disable_code=True, x_disable_meta=True),
        )
        self._run.define_metric("*", step_metric="step")  # its own steps never go back
        self.id = self._run.id

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({"step": step, **figures})

    def close(self) -> None:
        self._run.finish()


class MlflowRun:
    """A run of MLflow; its threads send what is written, and say so where the server does not take it."""

    def __init__(self, title: str, known: str | None, _: Path, settings: dict[str, float]) -> None:
        import mlflow

        self._mlflow = mlflow
        if not known and "MLFLOW_EXPERIMENT_NAME" not in os.environ:
            mlflow.set_experiment(PROJECT)
        self.id = mlflow.start_run(run_id=known, run_name=title).info.run_id
        if not known:
            mlflow.log_params(settings)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(figures), step=step, synchronous=False)

    def close(self) -> None:
        self._mlflow.flush_async_logging()
        self._mlflow.end_run()


TRACKERS: dict[TrackerName, type[WandbRun] | type[MlflowRun]] = {"wandb": WandbRun, "mlflow": MlflowRun}
