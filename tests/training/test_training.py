"""Training on a real cluster: other workers, other stages, a kill and a resume all follow the same curve."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
import ray

from posegen.model.checkpoints import load_adapter
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.video import probe
from testkit.machines import Machine
from testkit.tiny_training import SIZE, tiny_config, write_tiny_dataset, write_tiny_model
from training.checkpoint import read_position
from training.cluster import start_ray
from training.config import ClusterConfig, TrainConfig
from training.log import read_log
from training.loop import Training
from training.step.objective import Examples
from training.train import run, trainer

pytestmark = pytest.mark.slow

STEPS = 12
TOLERANCE = 2e-5
"""Of losses around 1: sums over two workers are taken in another order."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny model and dataset; the module's cluster is up, and notices quickly that a machine is dead."""
    path = tmp_path_factory.mktemp("training")
    write_tiny_model(path / "model")
    write_tiny_dataset(path / "dataset")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_health_check_period_ms", "500")
        start_ray()
    yield path
    ray.shutdown()


@pytest.fixture(scope="module")
def machine(folder: Path) -> Iterator[Machine]:
    """A second machine like the first; there from the start, as Ray Train takes up to 20 s to learn of a new one."""
    with Machine(ray.cluster_resources()["CPU"]) as machine:
        yield machine


@pytest.fixture(scope="module")
def reference(folder: Path, machine: Machine) -> TrainConfig:
    """One worker, ZeRO-2, never disturbed; trained through the whole command."""
    config = tiny_config(folder, folder / "reference", steps=STEPS)
    config = replace(
        config, record=replace(config.record, sample_every=8, sample_clips=1, num_inference_steps=2)
    )
    assert run(config) == str(folder / "reference" / "adapters" / "base")
    return config


def on(config: TrainConfig, output: Path, workers: int, zero_stage: Literal[2, 3]) -> TrainConfig:
    """The same training on other workers and with another stage."""
    return replace(
        config,
        output=str(output),
        engine=replace(config.engine, zero_stage=zero_stage),
        cluster=ClusterConfig(max_workers=workers, cpus=0.5),
    )


def curve(output: str | Path, name: str = "loss") -> dict[float, float]:
    """A figure by step; fails where a step is written twice."""
    rows = [(row["step"], row[name]) for row in read_log(Path(output)) if name in row]
    assert len(rows) == len(dict(rows))
    return dict(rows)


def test_the_loss_falls_and_the_log_tells_all(reference: TrainConfig) -> None:
    rows = [row for row in read_log(Path(reference.output)) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    told = {"seconds/waiting", "seconds/encode", "seconds/forward", "seconds/backward", "seconds/optimiser"}
    assert told | {"tokens_per_second", "memory_gb", "gradient_norm", "learning_rate"} <= rows[-1].keys()
    for level in reference.noise.validation_levels:
        validation = curve(reference.output, f"validation/{level:g}")
        assert list(validation) == [4, 8, 12] and validation[12] < validation[4]
        assert min(curve(reference.output, f"validation_interval/{level:g}").values()) > 0
    assert list(Path(reference.output).glob("tensorboard/events*"))


def test_checkpoints_are_pruned_and_loaded_by_the_library(reference: TrainConfig) -> None:
    output = Path(reference.output)
    assert sorted(path.name for path in output.glob("checkpoint-0*")) == [
        "checkpoint-00000008",
        "checkpoint-00000012",
    ]
    for adapter in (output / "checkpoint-00000012" / "adapter", output / "adapters" / "base"):
        transformer = PoseGenTransformer3DModel.from_pretrained(reference.data.model, subfolder="transformer")
        load_adapter(transformer, adapter, "base")


def test_samples_are_made_while_training_goes_on(reference: TrainConfig) -> None:
    (video,) = (Path(reference.output) / "samples").glob("step-00000008-*.mp4")
    info = probe(video)
    assert (info.width, info.height) == (3 * SIZE[0], SIZE[1])


def when_logged(output: Path, step: int, act: Callable[[], object]) -> None:
    """Does something as soon as a training has logged a step."""
    while max(curve(output), default=0) < step:
        time.sleep(0.02)
    act()


def kill_a_worker() -> None:
    """SIGKILL for one of the training's workers."""
    processes = psutil.Process(os.getpid()).children(recursive=True)
    [process for process in processes if "RayTrainWorker" in " ".join(process.cmdline())][-1].kill()


def test_two_workers_one_killed_follow_the_curve_of_one(reference: TrainConfig, folder: Path) -> None:
    config = on(reference, folder / "killed", workers=2, zero_stage=3)
    killer = threading.Thread(target=when_logged, args=(folder / "killed", 6, kill_a_worker))
    killer.start()
    result = trainer(config).fit()
    killer.join()
    assert result.metrics == {"step": STEPS}
    assert curve(config.output) == pytest.approx(curve(reference.output), abs=TOLERANCE)
    for name in ("validation/0.2", "validation/0.95"):
        assert curve(config.output, name) == pytest.approx(curve(reference.output, name), rel=1e-4)


def test_a_stopped_training_goes_on_with_other_workers_and_another_stage(
    reference: TrainConfig, folder: Path
) -> None:
    first = replace(on(reference, folder / "stopped", workers=2, zero_stage=2), minutes=0.0)
    trainer(first).fit()
    assert list(curve(first.output)) == [1]
    trainer(on(reference, folder / "stopped", workers=1, zero_stage=3)).fit()
    assert curve(first.output) == pytest.approx(curve(reference.output), abs=TOLERANCE)


@pytest.mark.long
@pytest.mark.parametrize("workers", [2, 4])
def test_groups_that_share_a_sequence_follow_the_curve_of_one_worker(
    reference: TrainConfig, folder: Path, workers: int
) -> None:
    config = on(reference, folder / f"groups-{workers}", workers, zero_stage=2 if workers == 4 else 3)
    config = replace(config, cluster=replace(config.cluster, context_parallel=2))
    trainer(config).fit()
    for name in ("loss", "validation/0.2", "validation/0.95"):
        assert curve(config.output, name) == pytest.approx(curve(reference.output, name), abs=1e-6)


def test_a_signal_to_the_command_ends_it_with_a_checkpoint(reference: TrainConfig, folder: Path) -> None:
    config = replace(
        on(reference, folder / "ended", workers=1, zero_stage=2),
        data=replace(reference.data, validation_clips=0),
        record=replace(reference.record, validate_every=1),
        steps=10_000,
    )
    watcher = threading.Thread(
        target=when_logged, args=(folder / "ended", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    )
    watcher.start()
    run(config)
    watcher.join()
    last = max(curve(config.output))
    assert 3 <= last < config.steps
    assert read_position(folder / "ended" / f"checkpoint-{last:08.0f}").step == last
    names = {name for row in read_log(folder / "ended") for name in row}
    assert not any("validation" in name for name in names)  # there are no validation clips


NOTICE = 5
"""The step after which both workers hear that a machine goes; one checkpoint is written for it, and no other."""


def held_loop() -> Callable[[dict[str, Any]], None]:
    """What the workers do: two of them wait for the notice, then for their end; one trains on."""

    def loop(settings: dict[str, Any]) -> None:  # made here, as workers cannot import this file
        class Held(Training):
            def train_step(self, examples: Examples) -> tuple[float, bool]:
                while self.workers == 2 and (self.step >= NOTICE or self._waits()):
                    time.sleep(0.1)
                return super().train_step(examples)

            def _waits(self) -> bool:
                return self.step == NOTICE - 1 and ray.train.get_preemption_info() is None

        Held(settings["config"]).run()

    return loop


@pytest.mark.long
def test_a_lost_machine_that_was_announced_costs_no_step_and_the_other_follows_the_curve(
    reference: TrainConfig, folder: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "5")
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.2")
    output = folder / "lost"
    config = replace(
        on(reference, output, workers=2, zero_stage=2),
        cluster=ClusterConfig(max_workers=2, min_workers=1, cpus=machine.cpus),  # one worker on each machine
        # The notice comes between two rows of the log.
        record=replace(reference.record, log_every=4, checkpoint_every=STEPS, sample_every=0),
    )
    killed: list[str] = []

    def take_away() -> None:
        machine.announce_end(seconds=600)
        while f"checkpoint-{NOTICE:08}" not in known_checkpoints(output):
            time.sleep(0.1)
        killed.extend(machine.kill())

    threading.Thread(target=when_logged, args=(output, NOTICE - 1, take_away), daemon=True).start()
    result = trainer(config, held_loop()).fit()
    assert any("RayTrainWorker" in process for process in killed)
    assert result.metrics == {"step": STEPS}
    for level in config.noise.validation_levels:
        name = f"validation/{level:g}"
        assert curve(output, name) == pytest.approx(curve(reference.output, name), abs=TOLERANCE)


def known_checkpoints(output: Path) -> str:
    """What Ray Train has written down of checkpoints."""
    path = output / "checkpoint_manager_snapshot.json"
    return path.read_text() if path.exists() else ""
