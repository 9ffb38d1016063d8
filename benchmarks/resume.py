"""Trains the same adapter undisturbed, killed and resumed, on one, two and four workers with ZeRO-2 and ZeRO-3.

    python benchmarks/resume.py [--context_parallel 2] [--precision float32|bfloat16] [--steps 24]
        [--model DIR --dataset DIR]

All runs must follow one loss curve; what is printed is the largest difference from the undisturbed run on one worker,
in the training loss of any step and in the validation losses. Each run begins with an empty cache, which an actor fills
a window ahead of the step. By default a tiny random model and ten drawn clips, in float32. The 14B configurations train
in bfloat16, where gradients are summed with fewer digits, so curves of another number of workers agree less closely.
With --context_parallel, that many workers share each item's sequence wherever a run has so many.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import psutil
import tyro

from testkit.tiny_training import tiny_config, write_tiny_dataset, write_tiny_model
from training.cluster import start_ray
from training.config import ClusterConfig, TrainConfig, mini_cpu
from training.data.stream import prepare
from training.log import read_log
from training.train import trainer, with_absolute_paths

Stage = Literal[2, 3]
Precision = Literal["float32", "bfloat16"]
Curve = dict[tuple[str, float], float]


def main(
    steps: int = 24,
    precision: Precision = "float32",
    context_parallel: Literal[1, 2] = 1,
    model: str | None = None,
    dataset: str | None = None,
) -> None:
    """Runs all of it and prints a table, then one JSON object.

    Args:
        steps: Of each run.
        precision: Of the model and its activations.
        context_parallel: Workers that share an item; the tiny model has heads for two.
        model: Model folder; a tiny one by default.
        dataset: Curated tables; ten drawn clips by default.
    """
    with tempfile.TemporaryDirectory() as scratch:
        config = configuration(Path(scratch), steps, model, dataset)
        config = replace(config, engine=replace(config.engine, precision=precision))
        start_ray()
        runs = {
            name: run(config, Path(scratch) / name.replace(" ", "-"), *plan, context_parallel)
            for name, plan in PLANS.items()
        }
    expected = runs["1 worker, ZeRO-2"]
    differences = {name: difference(curve, expected) for name, curve in runs.items()}
    for name, value in differences.items():
        print(f"{name:55} {value:.2e}")
    losses = [value for (name, _), value in expected.items() if name == "loss"]
    found: dict[str, Any] = {"steps": steps, "precision": precision, "context_parallel": context_parallel}
    found |= {"loss_first": losses[0], "loss_last": losses[-1]}
    print(json.dumps({**found, "largest_difference": max(differences.values()), "differences": differences}))


def configuration(scratch: Path, steps: int, model: str | None, dataset: str | None) -> TrainConfig:
    """The training that all runs are of: logs every step, a checkpoint every six."""
    if not model:
        write_tiny_model(scratch / "model")
    if not dataset:
        write_tiny_dataset(scratch / "dataset")
    tiny = tiny_config(scratch, scratch, steps=steps)
    record = replace(tiny.record, checkpoint_every=6, validate_every=6)
    if not model or not dataset:
        return replace(tiny, record=record)
    mini = mini_cpu()
    data = replace(mini.data, model=model, dataset=dataset, validation_clips=4)
    return with_absolute_paths(replace(mini, data=data, steps=steps, record=record))


Part = tuple[int, Stage, int | None]
"""Workers, stage of ZeRO, and the step at which to stop, None for the last."""

PLANS: dict[str, tuple[list[Part], int | None]] = {
    "1 worker, ZeRO-2": ([(1, 2, None)], None),
    "1 worker, ZeRO-3": ([(1, 3, None)], None),
    "2 workers, ZeRO-2": ([(2, 2, None)], None),
    "2 workers, ZeRO-3": ([(2, 3, None)], None),
    "4 workers, ZeRO-2": ([(4, 2, None)], None),
    "2 workers, ZeRO-2, one killed": ([(2, 2, None)], 9),
    "2 workers, ZeRO-3, one killed": ([(2, 3, None)], 9),
    "1 worker, stopped, then 2 workers, ZeRO-2": ([(1, 2, 8), (2, 2, None)], None),
    "2 workers, stopped, then 1 worker, ZeRO-3": ([(2, 3, 8), (1, 3, None)], None),
    "2 workers of ZeRO-2, stopped, then 2 of ZeRO-3": ([(2, 2, 8), (2, 3, None)], None),
}
"""Parts that a run is made of, one after another in one output folder, and the step after which a worker is killed."""


def run(
    config: TrainConfig, output: Path, parts: list[Part], killed: int | None, context_parallel: Literal[1, 2]
) -> Curve:
    """One run, whose clips an actor encodes into an empty cache; its curves by figure and step."""
    data = replace(config.data, cache=f"{output}-cache", encode_workers=1, encode_cpus=0.0)
    prepare(data)
    for workers, stage, until in parts:
        part = replace(
            config,
            data=data,
            output=str(output),
            engine=replace(config.engine, zero_stage=stage),
            cluster=ClusterConfig(
                max_workers=workers, context_parallel=1 if workers == 1 else context_parallel, cpus=0.5
            ),
        )
        watchers = []
        if until:
            watchers.append(when_logged(output, until, lambda: (output / "stop").touch()))
        if killed:
            watchers.append(when_logged(output, killed, kill_a_worker))
        trainer(part).fit()
        for watcher in watchers:
            watcher.join()
        (output / "stop").unlink(missing_ok=True)
    return {
        (name, row["step"]): value
        for row in read_log(output)
        for name, value in row.items()
        if name == "loss" or name.startswith("validation/")
    }


def when_logged(output: Path, step: int, act: Callable[[], Any]) -> threading.Thread:
    """Does something as soon as the training has logged a step, in a thread."""

    def watch() -> None:
        while max((row["step"] for row in read_log(output)), default=0) < step:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def kill_a_worker() -> None:
    """SIGKILL for one of this run's workers."""
    processes = psutil.Process(os.getpid()).children(recursive=True)
    [process for process in processes if "RayTrainWorker" in " ".join(process.cmdline())][-1].kill()


def difference(curve: Curve, expected: Curve) -> float:
    """The largest between two runs; infinite where a step is missing."""
    if curve.keys() != expected.keys():
        return float("inf")
    return max(abs(curve[point] - expected[point]) for point in expected)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
