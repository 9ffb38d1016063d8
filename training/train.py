"""Trains an adapter of a model folder on a curated dataset.

    python training/train.py mini_cpu --data.dataset demo/dataset --data.adapter cond
    ray job submit --working-dir . -- python training/train.py wan14b_480p --output /shared/run

The first word names the configuration to start from, the options change single values of it:
`python training/train.py mini_cpu --help` lists them with what `mini_cpu` sets.

Checkpoints, log.jsonl, TensorBoard's events and sample videos go to the output folder, the finished adapter to
adapters/ in it. The same command again goes on where the training stopped. Ctrl-C or SIGTERM ends it with a checkpoint.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    Result,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer

from posegen import versions
from posegen.common.storage import Folder, StorageError, absolute
from training.checkpoint import EMA, check_output
from training.cluster import NodeTorchConfig, start_ray
from training.config import CONFIGS, TrainConfig
from training.data.stream import EncoderActors, TrainingStream, prepare
from training.dataset_versions import told, with_newest, with_versions
from training.loop import train_loop_per_worker
from training.memory import Estimate, estimate, probe_device
from training.output import (
    DIVERGED_FILE,
    STOP_FILE,
    below,
    fetched,
    open_output,
    ray_storage,
    save_folder,
)
from training.trackers import require_tracker


def run(config: TrainConfig) -> str:
    """Runs a training to its end, its time limit or a signal; returns the path or URI of its adapter's folder.

    Raises ValueError, a sentence, where it cannot be done.
    """
    require_tracker(config.record.tracker)
    output = open_output(config.output)
    config = with_versions(config)
    print(expected(config), flush=True)
    prepare(config.data)
    stream = TrainingStream(config.data)
    if config.data.new_versions:
        config = with_newest(config, stream)
        prepare(config.data)
        stream = TrainingStream(config.data)
    check_output(config, stream)
    print(*told(config.data), sep="\n", flush=True)
    print(f"{stream.steps_per_epoch:,} steps show each clip once", flush=True)
    for reason, clips in stream.left_out.items():
        print(f"{clips:,} clips left out: {reason}", flush=True)
    with stopped_by_signals(output):
        return export(fit(trainer(config)), config)


def expected(config: TrainConfig) -> Estimate:
    """What the training will take of this cluster's devices; raises EstimateError where they cannot hold it."""
    start_ray()
    return estimate(config, probe_device(config))


def fit(trainer: TorchTrainer) -> Result:
    """Trains in a thread of its own: in the main one, Ray would answer Ctrl-C by ending all without a checkpoint.

    Raises ValueError where the training failed more often than its settings allow.
    """
    result: Future[Result] = Future()

    def train() -> None:
        try:
            result.set_result(trainer.fit())
        except BaseException as error:  # raised again where it is waited for
            result.set_exception(error)

    threading.Thread(target=train, daemon=True).start()  # a second Ctrl-C does not wait for it
    try:
        return result.result()
    except TrainingFailedError as error:
        failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else [error]
        reason = str(failures[0]).strip().splitlines()[-1]  # of a traceback
        raise ValueError(
            f"The training failed. {reason.rstrip('.')}. Start it again to go on from its last checkpoint."
        ) from error


@contextmanager
def stopped_by_signals(output: Folder) -> Iterator[None]:
    """The first SIGTERM or Ctrl-C ends the training after its step, with a checkpoint; a second one ends it at once."""
    first = True

    def stop(number: int, frame: object) -> None:
        nonlocal first
        if not first:
            raise KeyboardInterrupt
        first = False
        # The workers look for this file, so a signal that only the driver receives ends all at the same step.
        output.write(STOP_FILE, b"")
        print("ending after this step, with a checkpoint; a second Ctrl-C ends at once", flush=True)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def trainer(
    config: TrainConfig, loop: Callable[[dict[str, Any]], None] = train_loop_per_worker, **settings: Any
) -> TorchTrainer:
    """Ray Train's trainer; it goes on from the newest checkpoint in the output folder.

    loop: what each worker runs, with `settings` beside the configuration and the encoders, which run already.
    """
    cluster = config.cluster
    encoders = EncoderActors.start(config.data) if config.data.encode_workers else None
    environment = {
        "OMP_NUM_THREADS": str(max(1, int(cluster.cpus))),
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # or each line of progress is printed twice
        # Of DeepSpeed's calls, and of diffusers' in context parallelism.
        "PYTHONWARNINGS": ",".join(
            f"ignore::FutureWarning:{module}"
            for module in ("torch.distributed.c10d_logger", "diffusers.hooks.context_parallel")
        ),
    }
    if not cluster.gpus:
        environment["DS_ACCELERATOR"] = "cpu"
    scaling: dict[str, Any] = {
        "num_workers": (cluster.min_workers, cluster.max_workers)
        if cluster.min_workers
        else cluster.max_workers,
        "use_gpu": cluster.gpus > 0,
        "resources_per_worker": {"CPU": cluster.cpus, "GPU": cluster.gpus},
    }
    run: dict[str, Any] = {
        **ray_storage(config.output),
        "checkpoint_config": CheckpointConfig(num_to_keep=config.record.num_to_keep),
        "failure_config": FailureConfig(max_failures=cluster.max_failures),
        "worker_runtime_env": {"env_vars": environment},
        "logging_config": LoggingConfig(log_level="WARNING"),
    }
    return TorchTrainer(
        loop,
        train_loop_config={"config": config, "encoders": encoders, **settings},
        torch_config=NodeTorchConfig(backend="nccl" if cluster.gpus else "gloo"),
        scaling_config=ScalingConfig(**scaling),
        run_config=RunConfig(**run),
    )


def export(result: Result, config: TrainConfig) -> str:
    """Copies the EMA of the newest checkpoint to `adapters/NAME` in the output folder."""
    output = Folder(config.output)
    if output.exists(DIVERGED_FILE):
        raise ValueError(output.read(DIVERGED_FILE).decode())
    if result.checkpoint is None:
        raise ValueError(f"{config.output} has no checkpoint yet; train at least one step.")
    name = f"adapters/{config.data.adapter}"
    with fetched(config.output, f"{Path(result.checkpoint.path).name}/{EMA}") as folder:
        save_folder(folder, config.output, name)
    return below(config.output, name)


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Local paths made absolute, as workers may run in another directory than the driver."""
    data, adapter = config.data, config.adapter
    data = dataclasses.replace(
        data,
        dataset=absolute(data.dataset),
        mix={absolute(dataset): repeats for dataset, repeats in data.mix.items()},
        dataset_versions={absolute(name): number for name, number in data.dataset_versions.items()},
        cache=data.cache and absolute(data.cache),
        model=absolute(data.model) if Path(data.model).is_dir() else data.model,
    )
    adapter = dataclasses.replace(adapter, start=adapter.start and absolute(adapter.start))
    return dataclasses.replace(config, data=data, adapter=adapter, output=absolute(config.output))


def parse(arguments: Sequence[str] | None = None) -> TrainConfig:
    """The configuration that the command line asks for; a wrong one ends the program with a message."""
    return tyro.extras.overridable_config_cli(
        CONFIGS, args=arguments, description=__doc__, use_underscores=True
    )


def main() -> None:
    """The command line."""
    config = with_absolute_paths(parse())
    try:
        print(expected(config) if config.dry_run else f"adapter: {run(config)}")
    except (ValueError, FileNotFoundError, StorageError, versions.VersionError) as error:
        sys.exit(f"train: {error}")


if __name__ == "__main__":
    main()
