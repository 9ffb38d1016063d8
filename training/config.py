"""The settings of a training, and the complete configurations it can be started with.

Choices made: every part has a small dataclass of its own; a configuration is a function that returns a full one and
says which machines it was sized for. One value is changed by its path, `data.batch_size=4`, and checked for its type.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from training.data.augment import PoseAugmentation
from training.data.items import DataConfig

__all__ = ["CONFIGS", "DataConfig", "PoseAugmentation", "TrainConfig", "changed"]


@dataclass(frozen=True)
class AdapterConfig:
    """LoRA on attention and feed-forward; the patch embeddings are trained whole beside it."""

    rank: int = 64
    alpha: float = 64.0
    """What the matrices add is multiplied by alpha / rank."""
    empty_pose: bool = False
    """Let the pose's channels begin at zero instead of as Wan's for the given picture: the network then starts as Wan
    does that is given the reference, which helps a small one."""
    start: str | None = None
    """Folder of an adapter to begin with, in place of a new one: its rank and alpha count."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon, the learning rate over the steps, and the running average of what is trained."""

    learning_rate: float = 1e-4
    """The highest, after the warm-up."""
    warm_up_steps: int = 100
    final_share: float = 1.0
    """The learning rate falls along a cosine to this share of the highest at the last step; 1 keeps it."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    muon: bool = False
    """Let Muon step LoRA's matrices, with the same learning rate, and AdamW the rest."""
    muon_momentum: float = 0.95
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    """Of all gradients together."""
    average_decay: float = 0.999
    """Of the running average, which is what is exported; it is lower in the first steps."""


@dataclass(frozen=True)
class NoiseConfig:
    """Noise levels: logit-normal (Esser et al., arXiv 2403.03206), then shifted to noise as in sampling."""

    mean: float = 0.0
    deviation: float = 1.0
    shift: float = 5.0
    """s becomes shift s / (1 + (shift - 1) s)."""
    measured: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 0.95)
    """Noise levels of the held-out loss, a curve each."""


@dataclass(frozen=True)
class LossConfig:
    """How errors are weighed."""

    person_weight: float = 1.0
    """How many times as much they count where the person is."""


@dataclass(frozen=True)
class EngineConfig:
    """How the work of a step is done."""

    zero_stage: Literal[2, 3] = 2
    """DeepSpeed's: 2 splits gradients and moments among the workers, 3 the model's weights too."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the model and its activations. Norms, time embedding and modulation stay float32, as do all moments."""
    micro_batch: int = 1
    """Most items that a worker passes through the model at once."""
    gradient_checkpointing: bool = True
    """Keep each block's input only and run it again in the backward pass."""
    offload: bool = False
    """Keep those inputs in the host's memory."""
    bucket: int = 50_000_000
    """Numbers that ZeRO reduces or gathers at once."""
    compile: bool = False
    """Pass each block through torch.compile, with ZeRO-2 only; needs a C++ compiler and a minute at the start."""


@dataclass(frozen=True)
class ClusterConfig:
    """What the training takes of the cluster."""

    workers: int = 1
    """The most workers."""
    least_workers: int | None = None
    """Go on with as few as these where machines are lost, and with more again when they come back; None: never."""
    cpus: float = 1.0
    gpus: float = 0.0
    """What each worker takes."""
    failures: int = 3
    """How often to go on from the last checkpoint after a worker died. A spot machine that is taken away when its
    notice has run out does not count, one that dies before may."""


@dataclass(frozen=True)
class RecordConfig:
    """What is written down and when, in steps; each of the others is a multiple of `log`."""

    log: int = 10
    checkpoint: int = 500
    keep: int = 2
    """Checkpoints that are kept."""
    measure: int = 500
    """Held-out loss; 0 for never."""
    sample: int = 0
    """Sample videos, at steps with a checkpoint; 0 for never."""
    samples: int = 2
    """Held-out clips that are generated then."""
    sample_steps: int = 20
    sample_cpus: float = 0.0
    sample_gpus: float = 0.0
    """What the task that makes them takes; it runs beside the training."""


@dataclass(frozen=True)
class TrainConfig:
    """A whole training.

    Raises ValueError, a sentence, for settings that cannot work together.
    """

    data: DataConfig
    output: str
    """Folder of checkpoints, logs, samples and the finished adapter; all machines must see it."""
    steps: int
    """Where the training ends, counted from its very start."""
    minutes: float = math.inf
    """Stop after so many minutes with a checkpoint, to go on another time."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    record: RecordConfig = field(default_factory=RecordConfig)

    def __post_init__(self) -> None:
        record = self.record
        for name in ("checkpoint", "measure", "sample"):
            if getattr(record, name) % record.log:
                raise ValueError(f"record.{name} must be a multiple of record.log, which is {record.log}.")
        if record.sample % record.checkpoint:
            raise ValueError(
                f"record.sample must be a multiple of record.checkpoint, which is {record.checkpoint}: samples are "
                "made with a checkpoint."
            )
        if self.engine.compile and self.engine.zero_stage == 3:
            raise ValueError(
                "engine.compile does not work with engine.zero_stage 3, which gathers weights while a block runs; set "
                "one of them otherwise."
            )
        if self.cluster.workers > self.data.batch_size:
            raise ValueError(
                f"{self.cluster.workers} workers cannot share data.batch_size {self.data.batch_size}; give at least "
                "as many items."
            )


def mini_cpu() -> TrainConfig:
    """The mini model (2 M parameters, 9 frames of 64x96) on 2 CPU cores: about 0.1 s an item and core.

    What the base cannot know is settled early: at high noise, and where the person is.
    """
    return TrainConfig(
        data=DataConfig(
            dataset="demo/dataset",
            model="posegen/mini/model",
            frames=(9,),
            batch_size=4,
            given_head=(1, 1),
            given_tail=(4, 4),
            pose_oversampling=2,
        ),
        output="build/training/mini",
        steps=4000,
        adapter=AdapterConfig(rank=32, alpha=128.0, empty_pose=True),
        optimizer=OptimizerConfig(learning_rate=2e-3, final_share=0.03, muon=True),
        noise=NoiseConfig(mean=1.0, deviation=1.4, shift=6.0, measured=(0.7, 0.9, 0.97, 1.0)),
        loss=LossConfig(person_weight=4.0),
        engine=EngineConfig(
            precision="float32", micro_batch=16, gradient_checkpointing=False, bucket=5_000_000
        ),
        cluster=ClusterConfig(workers=1, cpus=1.0),
        record=RecordConfig(checkpoint=200, measure=200),
    )


def wan14b_480p(zero_stage: Literal[2, 3] = 2) -> TrainConfig:
    """Wan2.1-I2V-14B at 832x480, 81 frames.

    ZeRO-2: sized for 8 GPUs of 80 GB, each with the whole model, 49 GB by the estimate (`training.memory`).
    ZeRO-3: sized for 8 GPUs of 48 GB, 24 GB on each while at least 4 are there. One more GPU of 80 GB encodes ahead of
    the step, with 8 GB for each encoder (see `wan14b_720p`), and one makes the samples.
    """
    model, sizes = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", ((832, 480), (480, 832))
    return _wan14b(model, sizes, zero_stage, shift=3.0, encode_gpus=0.125)


def wan14b_720p(zero_stage: Literal[2, 3] = 2) -> TrainConfig:
    """Wan2.1-I2V-14B at 1280x720, 81 frames.

    ZeRO-2: sized for 8 GPUs of 80 GB, each with the whole model, 67 GB by the estimate (`training.memory`).
    ZeRO-3: sized for the same GPUs, 42 GB on each while at least 4 are there. Two more GPUs encode ahead of the step,
    four encoders on each, and one makes the samples. An encoder takes about 17 GB by an estimate: Wan's VAE in float32
    on 81 frames, untiled, holds tensors of 14 GB at its peak (outputs that are alive, counted operation by operation on
    the meta device), to which come 0.5 GB of weights and what CUDA and its convolutions need to work in.
    """
    model, sizes = "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", ((1280, 720), (720, 1280))
    return _wan14b(model, sizes, zero_stage, shift=5.0, encode_gpus=0.25)


def _wan14b(
    model: str,
    sizes: tuple[tuple[int, int], ...],
    zero_stage: Literal[2, 3],
    shift: float,
    encode_gpus: float,
) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(
            dataset="dataset",
            model=model,
            sizes=sizes,
            frames=(81,),
            rate=30.0,
            batch_size=8,
            given_head=(5, 21),
            given_tail=(4, 20),
            encode_workers=8,
            encode_gpus=encode_gpus,
            held_out=8,
        ),
        output=f"training-{sizes[0][1]}p",
        steps=10_000,
        adapter=AdapterConfig(rank=64, alpha=64.0),
        noise=NoiseConfig(shift=shift),
        engine=EngineConfig(zero_stage=zero_stage, offload=True),
        cluster=ClusterConfig(workers=8, least_workers=4, cpus=4.0, gpus=1.0),
        record=RecordConfig(checkpoint=100, measure=500, sample=500, sample_cpus=4.0, sample_gpus=1.0),
    )


CONFIGS: dict[str, Callable[[], TrainConfig]] = {
    "mini_cpu": mini_cpu,
    "wan14b_480p": wan14b_480p,
    "wan14b_480p_zero3": partial(wan14b_480p, zero_stage=3),
    "wan14b_720p": wan14b_720p,
    "wan14b_720p_zero3": partial(wan14b_720p, zero_stage=3),
}


def changed(config: Any, setting: str) -> Any:
    """The configuration with one value changed; setting: `path=value`, the value as text or YAML.

    Raises ValueError, a sentence, for a path that is not there or a value of a wrong type.
    """
    path, equals, value = setting.partition("=")
    if not equals:
        raise ValueError(f"{setting!r} is not of the form path=value, such as data.batch_size=4.")
    return _replaced(config, path.strip().split("."), value.strip(), path)


def _replaced(config: Any, names: list[str], value: str, path: str) -> Any:
    name, *rest = names
    known = [each.name for each in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
    if name not in known:
        raise ValueError(f"{path} is no setting; {name!r} is not among {', '.join(known) or 'any'}.")
    if rest:
        new = _replaced(getattr(config, name), rest, value, path)
    else:
        new = _parsed(value, get_type_hints(type(config))[name], path)
    return dataclasses.replace(config, **{name: new})


def _parsed(value: str, kind: Any, path: str) -> Any:
    """A value of a type, from its text or, where that does not fit, from what the text is in YAML."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        return adapter.validate_python(value)
    except ValidationError:
        try:
            return adapter.validate_python(yaml.safe_load(value))
        except (ValidationError, yaml.YAMLError) as error:
            raise ValueError(f"{path}={value}: give a value of type {_name(kind)}.") from error


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
