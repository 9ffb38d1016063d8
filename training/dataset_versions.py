"""Which versions of its datasets a training is on: those that it began with, and later ones from an epoch's beginning.

They are written down in the output folder, so that a training goes on with its clips when others were added, and
takes others at the same step when it is run again.
"""

from __future__ import annotations

import json
from dataclasses import replace

from posegen import versions
from posegen.common.storage import Folder
from training.checkpoint import positions
from training.config import TrainConfig
from training.data.items import DataConfig
from training.data.stream import TrainingStream

DATASETS_FILE = "datasets.json"
"""In the output folder: [the steps before it, the versions of the datasets by their paths or URIs] of each part."""


def with_versions(config: TrainConfig) -> TrainConfig:
    """The versions of the datasets as the settings name them, else as the training took them, else the newest."""
    output, data = Folder(config.output), config.data
    done = max((position.step for position in positions(config.output)), default=None)
    known = [] if done is None or not output.exists(DATASETS_FILE) else json.loads(output.read(DATASETS_FILE))
    begun = known[0][1] if known else {}
    chosen = {dataset: begun.get(dataset, number) for dataset, number in newest(data).items()}
    # A part that had not begun is no part of the checkpoint.
    later = tuple((step, taken) for step, taken in known[1:] if step < (done or 0))
    return _written(
        config, replace(data, dataset_versions={**chosen, **data.dataset_versions}, later_versions=later)
    )


def with_newest(config: TrainConfig, stream: TrainingStream) -> TrainConfig:
    """The same, but from the next epoch's beginning on the newest versions.

    stream: that of the versions so far.
    """
    data, done = config.data, max((position.step for position in positions(config.output)), default=None)
    latest = data.later_versions[-1][1] if data.later_versions else data.dataset_versions
    if done is None or newest(data) == latest:
        return config
    part = stream.next_epoch(done), newest(data)
    return _written(config, replace(data, later_versions=(*data.later_versions, part)))


def newest(data: DataConfig) -> dict[str, int]:
    """The newest version of each dataset that has any."""
    found = {dataset: max(versions.numbers(Folder(dataset)), default=None) for dataset in data.datasets}
    return {dataset: number for dataset, number in found.items() if number is not None}


def told(data: DataConfig) -> list[str]:
    """A line for each version that the training is on or will take."""
    lines = [f"dataset: version {number} of {dataset}" for dataset, number in data.dataset_versions.items()]
    for step, taken in data.later_versions:
        lines += [
            f"dataset: version {number} of {dataset} after step {step:,}" for dataset, number in taken.items()
        ]
    return lines


def _written(config: TrainConfig, data: DataConfig) -> TrainConfig:
    parts = [(0, data.dataset_versions), *data.later_versions]
    Folder(config.output).write(DATASETS_FILE, json.dumps(parts, indent=2).encode())
    return replace(config, data=data)
