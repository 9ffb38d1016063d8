"""A training's checkpoint: a folder that any number of workers can go on from and that the library loads.

    adapter/    the weights, an adapter's folder       ema/        their EMA, another
    optimizer.safetensors   both moments               state.json  the step, and what the order of the data depends on

It holds only what is trained, as float32, each tensor once. A thread writes it while training goes on; Ray counts it as
a checkpoint, and deletes older ones, only when all of it lies in the output folder.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import ray.train
import torch
from peft import LoraConfig
from ray.train import Checkpoint, CheckpointUploadMode
from safetensors.torch import load_file, save_file

from posegen.common.storage import Folder
from posegen.dataset import content_id
from posegen.model.checkpoints import Adapter, read_adapter, write_adapter
from training.config import TrainConfig
from training.data.stream import TrainingStream
from training.output import save_folder
from training.step.engine import WEIGHT, State
from training.step.optimizer import STATES

ADAPTER, EMA = "adapter", "ema"
MOMENTS = STATES[:2]
OPTIMIZER_FILE, POSITION_FILE = "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Position:
    """Where a training stands: steps done, the fingerprint of what must not change when it goes on, and how many of the
    steps were skipped as their gradients were not finite."""

    step: int
    fingerprint: str
    skipped: int = 0


@dataclass(frozen=True)
class Saved:
    """A checkpoint in memory. frozen: embeddings that are not trained but belong to the adapter's file."""

    position: Position
    state: State
    lora: LoraConfig
    frozen: Mapping[str, torch.Tensor]

    def write(self, folder: Path) -> None:
        for name, kind in ((ADAPTER, WEIGHT), (EMA, STATES[2])):
            write_adapter(Adapter(self.lora, {**self.frozen, **self.state[kind]}), folder / name)
        moments = {f"{kind}.{name}": part for kind in MOMENTS for name, part in self.state[kind].items()}
        save_file(moments, folder / OPTIMIZER_FILE)
        (folder / POSITION_FILE).write_text(json.dumps(asdict(self.position), indent=2) + "\n")


def read_position(folder: Path) -> Position:
    return Position(**json.loads((folder / POSITION_FILE).read_text()))


def positions(output: str) -> list[Position]:
    """Of the finished checkpoints in an output folder, the first one first."""
    folder = Folder(output)
    files = [f"{name}/{POSITION_FILE}" for name in folder.folders() if name.startswith("checkpoint-")]
    return [Position(**json.loads(folder.read(file))) for file in files if folder.exists(file)]


def fingerprint(config: TrainConfig, stream: TrainingStream, step: int) -> str:
    """Of the data of the steps before this one and the adapter's shape: a training goes on where it is the same."""
    return content_id(
        stream.fingerprint(step), config.data.adapter, config.adapter.rank, config.adapter.alpha
    )


def check_output(config: TrainConfig, stream: TrainingStream) -> None:
    """Raise ValueError where the output folder holds another training."""
    for position in positions(config.output):
        if position.fingerprint != fingerprint(config, stream, position.step):
            raise ValueError(
                f"{config.output} holds a training on other clips, of another adapter, or with another batch size or "
                "seed: give another output, and begin with its adapter (adapter.start) to go on from it."
            )


def read_state(folder: Path) -> State:
    """The state of what is trained; the adapter's embeddings that are not are among it."""
    moments = load_file(folder / OPTIMIZER_FILE)
    state = {
        kind: {
            name.removeprefix(f"{kind}."): part
            for name, part in moments.items()
            if name.startswith(f"{kind}.")
        }
        for kind in MOMENTS
    }
    for name, kind in ((ADAPTER, WEIGHT), (EMA, STATES[2])):
        state[kind] = read_adapter(folder / name).tensors
    return state


def report(output: str, saved: Saved | None, step: int, then: Callable[[str], object]) -> None:
    """Tell Ray of a checkpoint, to be called by all workers; the one with `saved` writes it while training goes on.

    then: called with the name of the finished checkpoint in the output folder.
    """
    name = f"checkpoint-{step:08}"
    if saved is None:
        ray.train.report({"step": step}, checkpoint_dir_name=name)
        return
    storage = ray.train.get_context().get_storage()

    def upload(checkpoint: Checkpoint, name: str) -> Checkpoint:
        saved.write(Path(checkpoint.path))
        save_folder(Path(checkpoint.path), output, name, last=POSITION_FILE)
        then(name)
        return Checkpoint(storage.build_checkpoint_path_from_name(name), storage.storage_filesystem)

    ray.train.report(
        {"step": step},
        checkpoint=Checkpoint(tempfile.mkdtemp(prefix="posegen-checkpoint-")),
        checkpoint_dir_name=name,
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=upload,
    )
