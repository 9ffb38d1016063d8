"""What a training will take of each worker's memory and of time, told before anything is loaded.

Bytes are formulas of the model's configuration (training/costs.py), compared with the memory of a device of the kind
that the workers will get; tests hold them to 5 % of what is counted on torch's meta device. Time is the operations of a
step over the speed at which that device multiplies matrices, which is measured in a second; training reaches about
EFFICIENCY of it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import psutil
import ray
import torch

from posegen.costs import Pass, tokens
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
    """Of one worker: bytes by what they hold, and their `peak`; seconds of a step; numbers that are trained; steps.

    gpus: those of all workers and encoders.
    """

    memory: dict[str, int]
    step_seconds: float
    trained: int
    steps: int
    gpus: float

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {_gb(size)}" for name, size in self.memory.items() if size and name != "peak"
        )
        seconds = self.steps * self.step_seconds
        gpu_hours = f" and {self.gpus * seconds / 3600:,.1f} GPU hours" if self.gpus else ""
        return (
            f"{self.trained / 1e6:.1f} M numbers are trained; a worker needs {_gb(self.memory['peak'])} ({parts}); "
            f"a step takes about {self.step_seconds:.2g} s, all {self.steps:,} steps "
            f"{_duration(seconds)}{gpu_hours}"
        )


def estimate(config: TrainConfig, device: Device) -> Estimate:
    """For the largest size and length.

    Raises EstimateError, a sentence, where a worker does not fit into its device's memory.
    """
    model, trained = describe_model(config)
    cluster, engine, size = config.cluster, config.engine, largest_size(config)
    least = cluster.min_workers or cluster.max_workers
    check_groups(config, model)
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
        blocks_to_swap=engine.blocks_to_swap,
        context_parallel=cluster.context_parallel,
    )
    memory["ema"] = 4 * -(-trained // least)
    memory["peak"] += memory["ema"]
    # The groups with the most items are waited for.
    items = math.ceil(config.data.batch_size * cluster.context_parallel / cluster.max_workers)
    work = flops_per_training_step(Pass(model, *size, items), engine.gradient_checkpointing)
    seconds = work / (EFFICIENCY * device.flops * cluster.context_parallel)
    result = Estimate(memory, seconds, trained, config.steps, config.gpus(cluster.max_workers))
    if memory["peak"] > USABLE * device.memory:
        raise EstimateError(
            f"This training does not fit: each of {least} workers needs {_gb(memory['peak'])}, but its device "
            f"({device.name}) has {_gb(device.memory)}, of which {USABLE:.0%} can be used. Take engine.fp8_base=true, "
            "engine.blocks_to_swap, engine.zero_stage=3, more workers, cluster.context_parallel, "
            "engine.gradient_checkpointing=true with engine.offload=true, fewer frames or smaller sizes."
        )
    return result


def check_groups(config: TrainConfig, model: dict[str, Any]) -> None:
    """Raise EstimateError, a sentence, where a group of workers cannot part an item's tokens or the attention's heads.

    model: the transformer's configuration.
    """
    group, heads = config.cluster.context_parallel, model["num_attention_heads"]
    for width, height in config.data.sizes:
        for frames in config.data.frames:
            counts = (heads, *tokens(model, frames, height, width))
            if any(count % group for count in counts):
                raise EstimateError(
                    f"cluster.context_parallel {group} cannot share {frames} frames of {width}x{height}: it must "
                    f"divide the {counts[0]} attention heads, {counts[1]:,} video tokens and {counts[2]:,} reference "
                    "tokens."
                )


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
    known = {"reference_channels": channels, "hand_channels": channels, **known}
    with torch.device("meta"):  # one block stands for all, which are alike
        model = PoseGenTransformer3DModel(**known | {"num_layers": 1})
        model.requires_grad_(False)
        model.add_adapter(lora_config(config.adapter), config.data.adapter)
    layers = known["num_layers"]
    trained = sum(
        part.numel() * (layers if name.startswith("blocks.") else 1)
        for name, part in model.named_parameters()
        if part.requires_grad
    )
    return {**model.config, "num_layers": layers}, trained


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


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours:.1f} hours" if hours >= 2 else f"{seconds / 60:.0f} minutes"
