"""Weights & Biases offline and MLflow's file store: what they are told, and that a training goes on in its run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from testkit import ROOT
from testkit.tiny_training import tiny_config, write_tiny_dataset, write_tiny_model
from training.config import RecordConfig, TrainConfig
from training.log import Log
from training.trackers import TrackerName, open_tracker
from training.train import run


def config_of(folder: Path, tracker: TrackerName) -> TrainConfig:
    """A training with a password in the address of its data."""
    config = tiny_config(folder, folder / "run", record=RecordConfig(log_every=1, tracker=tracker))
    return replace(config, data=replace(config.data, mix={"s3://key:password@bucket/other": 0.5}))


def write_and_go_on(config: TrainConfig) -> str:
    """Logs three steps, and two again after a checkpoint at the first; the id of the run."""
    ids = []
    for done, steps in ((0, (1, 2, 3)), (1, (2, 3))):
        tracker = open_tracker(config.record.tracker, config.output, done, config)
        assert tracker is not None
        log = Log(config.output, done, tracker)
        for step in steps:
            log.write(step, {"loss": 1 / step, "validation/0.2": 0.5})
        log.close()
        ids.append(tracker.id)
    assert ids[0] == ids[1]
    return ids[0]


def test_wandb_has_the_figures_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_id = write_and_go_on(config_of(tmp_path, "wandb"))
    files = [path for path in (tmp_path / "run" / "wandb").rglob("*") if path.is_file()]
    content = [path.read_bytes() for path in files]
    told = b"".join(content[i] for i, path in enumerate(files) if path.name == f"run-{run_id}.wandb")
    for name in (b"loss", b"validation/0.2", b"optimizer.learning_rate"):
        assert name in told
    assert not any(secret in text for text in content for secret in (b"password", b"s3://"))


def test_mlflow_has_the_figures_in_one_run(tmp_path: Path, mlflow_store: str) -> None:
    run_id = write_and_go_on(config_of(tmp_path, "mlflow"))
    client = MlflowClient(mlflow_store)
    steps = [metric.step for metric in client.get_metric_history(run_id, "loss")]
    assert sorted(steps) == [1, 2, 2, 3, 3]
    found = client.get_run(run_id)
    assert found.info.run_name == "run" and found.info.status == "FINISHED"
    assert found.data.params["optimizer.learning_rate"] == "0.01"
    assert not any(secret in str(found.to_dictionary()) for secret in ("password", "s3://"))


def test_another_training_in_the_folder_is_another_run(tmp_path: Path, mlflow_store: str) -> None:
    config = config_of(tmp_path, "mlflow")
    assert write_and_go_on(config) != write_and_go_on(config)


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_missing_package_is_told_before_anything_starts(
    tmp_path: Path, tracker: TrackerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(ValueError, match=rf"needs the package {tracker}: pip install 'posegen\[{tracker}\]'"):
        run(config_of(tmp_path, tracker))
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_training_tells_its_tracker(tmp_path: Path, mlflow_store: str) -> None:
    write_tiny_model(tmp_path / "model")
    write_tiny_dataset(tmp_path / "dataset")
    command = (
        f"{sys.executable} training/train.py mini_cpu --steps 2 --output {tmp_path / 'run'} "
        f"--data.dataset {tmp_path / 'dataset'} --data.model {tmp_path / 'model'} --data.sizes 32 48 "
        "--record.log_every 1 --record.validate_every 0 --record.tracker mlflow"
    )
    subprocess.run(command.split(), cwd=ROOT, check=True, capture_output=True)
    client = MlflowClient(mlflow_store)
    experiment = client.get_experiment_by_name("posegen")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert len(client.get_metric_history(found.info.run_id, "loss")) == 2


@pytest.fixture
def mlflow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = f"file:{tmp_path / 'mlflow'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return store
