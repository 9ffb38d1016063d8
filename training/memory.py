"""What a training will take of each worker's memory and of time, told before anything is loaded.

Bytes are formulas of the model's configuration (training/costs.py), compared with the memory of a device of the kind
that the workers will get. Time is the operations of a step over the speed at which that device multiplies matrices,
which is measured in a second; training reaches about EFFICIENCY of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psutil
import ray
import torch

from posegen.costs import Pass
from posegen.model.folder import model_folder
from posegen.model.transformer import PoseGenTransformer3DModel
from training.config import TrainConfig
from training.costs import flops_per_training_step, training_memory
from training.model.adapter import lora_config

EFFICIENCY = 0.4
USABLE = 0.9
"""Of a device's memory; the rest goes to libraries and to gaps between tensors."""
PROBE_SIZE = 1024


class EstimateError(ValueError):
    """A training does not fit; the message says what it needs, what there is, and what to change."""


@dataclass(frozen=True)
class Device:
    """What a worker computes on. memory: bytes that a worker can have. flops: a second, of matrix products."""

    name: str
    memory: float
    flops: float


@dataclass(frozen=True)
class Estimate:
    """Of one worker: bytes by what they hold, and their `peak`; seconds of a step; numbers that are trained."""

    memory: dict[str, int]
    step_seconds: float
    trained: int

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {_gb(size)}" for name, size in self.memory.items() if size and name != "peak"
        )
        return (
            f"{self.trained / 1e6:.1f} M numbers are trained; a worker needs {_gb(self.memory['peak'])} ({parts}); "
            f"a step takes about {self.step_seconds:.2g} s"
        )


def estimate(config: TrainConfig, device: Device) -> Estimate:
    """For the largest size and length.

    Raises EstimateError, a sentence, where a worker does not fit into its device's memory.
    """
    model, trained = describe_model(config)
    least = config.cluster.min_workers or config.cluster.max_workers
    engine, size = config.engine, largest_size(config)
    memory = training_memory(
        Pass(model, *size, engine.micro_batch_size, itemsize=4 if engine.precision == "float32" else 2),
        trained,
        engine.zero_stage,
        least,
        gradient_checkpointing=engine.gradient_checkpointing,
        offload=engine.offload,
        reduce_bucket_size=engine.reduce_bucket_size,
        live_parameters=2 * engine.reduce_bucket_size,
        fp8_base=engine.fp8_base,
    )
    memory["ema"] = 4 * -(-trained // least)
    memory["peak"] += memory["ema"]
    work = flops_per_training_step(
        Pass(model, *size, config.data.batch_size), gradient_checkpointing=engine.gradient_checkpointing
    )
    result = Estimate(memory, work / (EFFICIENCY * device.flops * config.cluster.max_workers), trained)
    if memory["peak"] > USABLE * device.memory:
        raise EstimateError(
            f"This training does not fit: each of {least} workers needs {_gb(memory['peak'])}, but its device "
            f"({device.name}) has {_gb(device.memory)}, of which {USABLE:.0%} can be used. Take engine.fp8_base=true, "
            "engine.zero_stage=3, more workers, engine.gradient_checkpointing=true with engine.offload=true, fewer "
            "frames or smaller sizes."
        )
    return result


def largest_size(config: TrainConfig) -> tuple[int, int, int]:
    """(frames, height, width) with the most pixels."""
    width, height = max(config.data.sizes, key=lambda size: size[0] * size[1])
    return max(config.data.frames), height, width


def describe_model(config: TrainConfig) -> tuple[dict[str, Any], int]:
    """The transformer's configuration, and how many numbers its adapter trains.

    No weight is read.
    """
    folder = model_folder(config.data.model, weights=False)
    saved = PoseGenTransformer3DModel.load_config(folder, subfolder="transformer")
    channels = saved["out_channels"]
    known = {name: value for name, value in saved.items() if not name.startswith("_")}
    with torch.device("meta"):
        model = PoseGenTransformer3DModel(
            **{"reference_channels": channels, "hand_channels": channels, **known}
        )
        model.requires_grad_(False)
        model.add_adapter(lora_config(config.adapter), config.data.adapter)
    trained = [part for part in model.parameters() if part.requires_grad]
    return dict(model.config), sum(part.numel() for part in trained)


def probe_device(config: TrainConfig) -> Device:
    """A device of the kind that each worker will get, looked at in a Ray task."""
    task = ray.remote(num_cpus=config.cluster.cpus, num_gpus=config.cluster.gpus)(_probe)
    return ray.get(task.remote(config.cluster.max_workers, config.engine.precision))


def _probe(workers: int, precision: str) -> Device:
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        speed = _speed(torch.device("cuda"), precision)
        return Device(properties.name, properties.total_memory, speed)
    # Workers without GPUs share the memory of the machine.
    memory = psutil.virtual_memory().available / workers
    return Device("the machine's memory", memory, _speed(torch.device("cpu"), precision))


def _speed(device: torch.device, precision: str) -> float:
    """Operations a second in products of square matrices."""
    matrix = torch.randn(PROBE_SIZE, PROBE_SIZE, device=device).to(getattr(torch, precision))
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        seconds.append(time.perf_counter() - start)
    return 2 * PROBE_SIZE**3 / min(seconds)


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
