"""The settings of a training, and the complete configurations it can be started with.

Every part has a small dataclass of its own. A configuration is a function that returns a full one and says which
machines it was sized for; the command line (training/train.py) starts from one and changes single values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from training.data.items import DataConfig
from training.model.adapter import AdapterConfig
from training.step.engine import EngineConfig
from training.step.noise import NoiseConfig
from training.step.objective import LossConfig
from training.step.optimizer import OptimizerConfig
from training.trackers import TrackerName


@dataclass(frozen=True)
class ClusterConfig:
    """What the training takes of the cluster."""

    max_workers: int = 1
    """Workers that train together, each on its share of a step's items."""
    min_workers: int | None = None
    """Go on with as few as these where machines are lost, and with more again when they come back; None: never."""
    context_parallel: Literal[1, 2, 4, 8] = 1
    """Workers that share the sequence of an item: a step has as many items at once as there are such groups. Where the
    workers that are left do not part into such groups, they go on in smaller ones, which take more memory."""
    cpus: float = 1.0
    """CPU cores of each worker."""
    gpus: float = 0.0
    """GPUs of each worker."""
    max_failures: int = 3
    """How often to go on from the last checkpoint after a worker died. A spot machine that is taken away when its
    notice has run out does not count, one that dies before may."""


@dataclass(frozen=True)
class RecordConfig:
    """What is written down and when, in steps; each of the other `_every` is a multiple of `log_every`."""

    log_every: int = 10
    """A line of log.jsonl, and a point of TensorBoard's curves."""
    checkpoint_every: int = 500
    """A checkpoint."""
    checkpoint_minutes: float = 10.0
    """A checkpoint also where the last one is so many minutes old: the most work that a lost machine can cost."""
    num_to_keep: int = 2
    """Checkpoints that are kept."""
    validate_every: int = 500
    """Validation loss; 0 for never."""
    sample_every: int = 0
    """Sample videos, at steps with a checkpoint; 0 for never."""
    sample_clips: int = 2
    """Validation clips that are generated then."""
    num_inference_steps: int = 20
    """Denoising steps of a sample video."""
    sample_cpus: float = 0.0
    """CPU cores of the task that makes them, which runs beside the training."""
    sample_gpus: float = 0.0
    """GPUs of that task."""
    tracker: TrackerName | None = None
    """Where the log's figures also go, beside TensorBoard. WANDB_API_KEY, WANDB_PROJECT and the like, or
    MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME, are read on the workers' machines."""


@dataclass(frozen=True)
class TrainConfig:
    """A whole training."""

    data: DataConfig
    output: str
    """Folder of checkpoints, logs, samples and the finished adapter; all machines must see it."""
    steps: int
    """Where the training ends, counted from its very start."""
    minutes: float = math.inf
    """Stop after so many minutes with a checkpoint, to go on another time."""
    dry_run: bool = False
    """Only say what it would take of memory, time and GPU hours, on a device of the kind that the workers will get."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    record: RecordConfig = field(default_factory=RecordConfig)

    def __post_init__(self) -> None:
        """Raise ValueError, a sentence, for settings that cannot work together."""
        record = self.record
        for name in ("checkpoint_every", "validate_every", "sample_every"):
            if getattr(record, name) % record.log_every:
                raise ValueError(
                    f"record.{name} must be a multiple of record.log_every, which is {record.log_every}."
                )
        if record.sample_every % record.checkpoint_every:
            raise ValueError(
                f"record.sample_every must be a multiple of record.checkpoint_every, which is "
                f"{record.checkpoint_every}: samples are made with a checkpoint."
            )
        if self.engine.compile and self.engine.zero_stage == 3:
            raise ValueError(
                "engine.compile does not work with engine.zero_stage 3, which gathers weights while a block runs; set "
                "one of them otherwise."
            )
        if self.engine.fp8_base and self.engine.zero_stage == 3:
            raise ValueError(
                "engine.fp8_base does not work with engine.zero_stage 3, which splits weights of one dtype; set one of "
                "them otherwise."
            )
        if self.engine.blocks_to_swap and (self.engine.zero_stage == 3 or self.engine.compile):
            raise ValueError(
                "engine.blocks_to_swap works neither with engine.zero_stage 3, which splits these weights among the "
                "devices, nor with engine.compile; set it to 0 or the others otherwise."
            )
        cluster = self.cluster
        if (
            cluster.max_workers % cluster.context_parallel
            or (cluster.min_workers or 0) % cluster.context_parallel
        ):
            raise ValueError(
                f"cluster.max_workers and cluster.min_workers must be multiples of cluster.context_parallel, which is "
                f"{cluster.context_parallel}."
            )
        if cluster.max_workers // cluster.context_parallel > self.data.batch_size:
            raise ValueError(
                f"{cluster.max_workers} workers cannot share data.batch_size {self.data.batch_size}; give at least as "
                "many items, or let more workers share each item (cluster.context_parallel)."
            )

    def gpus(self, workers: int) -> float:
        """GPUs that so many workers and the encoders hold; those of sample videos, made now and then, do not count."""
        data = self.data
        encoders = data.encode_gpus * data.encode_workers + data.text_gpus if data.encode_workers else 0.0
        return self.cluster.gpus * workers + encoders


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
        optimizer=OptimizerConfig(learning_rate=2e-3, min_lr_factor=0.03),
        noise=NoiseConfig(mean=1.0, deviation=1.4, shift=6.0, validation_levels=(0.7, 0.9, 0.97, 1.0)),
        loss=LossConfig(person_weight=4.0),
        engine=EngineConfig(
            precision="float32",
            micro_batch_size=16,
            gradient_checkpointing=False,
            reduce_bucket_size=5_000_000,
        ),
        cluster=ClusterConfig(max_workers=1, cpus=1.0),
        record=RecordConfig(checkpoint_every=200, validate_every=200),
    )


def wan1b_480p() -> TrainConfig:
    """Wan2.1-Fun-1.3B-InP (30 blocks, 1536 channels) at 832x480, 81 frames, on one GPU of 24 GB.

    By the estimate (`training.memory`) the training takes 11 GB of it; an encoder beside it takes 8 GB, see
    `wan14b_720p`. Captions are encoded on the CPU, with 12 GB of the machine's memory. 1,200 steps of 4 clips are a
    day on an RTX 4090. `posegen convert --transformer` makes the folder.
    """
    data = _wan_data("wan1b", ((832, 480), (480, 832)), batch_size=4, encode_workers=1, encode_gpus=0.5)
    return TrainConfig(
        data=data,
        output="training-1b",
        steps=1_200,
        noise=NoiseConfig(shift=3.0),
        engine=EngineConfig(offload=True),
        cluster=ClusterConfig(cpus=4.0, gpus=0.5),
        record=RecordConfig(checkpoint_every=100, validate_every=200),
    )


def wan14b_480p(zero_stage: Literal[2, 3] = 2, fp8_base: bool = False) -> TrainConfig:
    """Wan2.1-I2V-14B at 832x480, 81 frames.

    ZeRO-2: sized for 8 GPUs of 80 GB, each with the whole model, 49 GB by the estimate (`training.memory`).
    ZeRO-3: sized for 8 GPUs of 48 GB, 24 GB on each while at least 4 are there. With the base in fp8: any number of
    GPUs of 48 GB, 38 GB on one that is alone. One more GPU of 80 GB encodes ahead of the step, with 8 GB for each
    encoder (see `wan14b_720p`) and 12 GB for the text encoder, and one makes the samples.
    """
    model, sizes = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", ((832, 480), (480, 832))
    data = _wan_data(model, sizes, batch_size=8, encode_workers=6, encode_gpus=0.125, text_gpus=0.25)
    return _wan14b(data, zero_stage, fp8_base, shift=3.0)


def wan14b_720p(zero_stage: Literal[2, 3] = 2, fp8_base: bool = False) -> TrainConfig:
    """Wan2.1-I2V-14B at 1280x720, 81 frames.

    ZeRO-2: sized for 8 GPUs of 80 GB, each with the whole model, 67 GB by the estimate (`training.memory`).
    ZeRO-3: sized for the same GPUs, 42 GB on each while at least 4 are there. With the base in fp8: any number of
    GPUs of 80 GB, 56 GB on one that is alone. Two more GPUs encode ahead of the step, seven encoders and the text
    encoder, and one makes the samples. An encoder takes about 17 GB by an estimate: Wan's VAE in float32 on 81
    frames, untiled, holds tensors of 14 GB at its peak (outputs that are alive, counted operation by operation on
    the meta device), to which come 0.5 GB of weights and what CUDA and its convolutions need to work in.
    """
    model, sizes = "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", ((1280, 720), (720, 1280))
    data = _wan_data(model, sizes, batch_size=8, encode_workers=7, encode_gpus=0.25, text_gpus=0.25)
    return _wan14b(data, zero_stage, fp8_base, shift=5.0)


def wan14b_480p_swap() -> TrainConfig:
    """`wan14b_480p` with the base in fp8 and all its linears in the host's memory, 16 GB of it for each worker.

    Sized for GPUs of 24 GB, 19 GB on each of two by the estimate (`training.memory`), which counts nothing for the time
    that the copies take: 48 GB an item over each GPU's link, three of the whole base.
    """
    return _swapped(wan14b_480p(fp8_base=True), min_workers=2)


def wan14b_720p_swap() -> TrainConfig:
    """`wan14b_720p` as `wan14b_480p_swap` is `wan14b_480p`: for any number of GPUs of 48 GB, 40 GB on one alone."""
    return _swapped(wan14b_720p(fp8_base=True), min_workers=1)


def wan14b_720p_64gpus() -> TrainConfig:
    """Wan2.1-I2V-14B at 1280x720, 81 frames, on 64 GPUs of 80 GB in 8 machines, and one more machine of 8.

    Groups of 4 GPUs share each item, so that 16 items, and not 64, make a step, which takes a quarter of the time.
    Each GPU holds the whole model (ZeRO-2), which takes 43 GB of it by the estimate (`training.memory`): to gather
    weights between machines for each block would take longer than that memory is worth. On the ninth machine seven GPUs
    encode ahead of the step, four encoders on each, and one makes the samples. Where machines are lost, the others go
    on, down to two.
    """
    single = wan14b_720p()
    data = replace(single.data, batch_size=16, encode_workers=28)
    cluster = replace(single.cluster, max_workers=64, min_workers=16, context_parallel=4)
    return replace(single, data=data, output="training-720p-64gpus", cluster=cluster)


def _wan_data(
    model: str,
    sizes: tuple[tuple[int, int], ...],
    batch_size: int,
    encode_workers: int,
    encode_gpus: float,
    text_gpus: float = 0.0,
) -> DataConfig:
    return DataConfig(
        dataset="dataset",
        model=model,
        sizes=sizes,
        frames=(81,),
        rate=30.0,
        batch_size=batch_size,
        given_head=(5, 21),
        given_tail=(4, 20),
        encode_workers=encode_workers,
        encode_gpus=encode_gpus,
        text_gpus=text_gpus,
        validation_clips=8,
    )


def _wan14b(data: DataConfig, zero_stage: Literal[2, 3], fp8_base: bool, shift: float) -> TrainConfig:
    return TrainConfig(
        data=data,
        output=f"training-{data.sizes[0][1]}p",
        steps=10_000,
        noise=NoiseConfig(shift=shift),
        engine=EngineConfig(zero_stage=zero_stage, fp8_base=fp8_base, offload=True),
        cluster=ClusterConfig(max_workers=8, min_workers=1 if fp8_base else 4, cpus=4.0, gpus=1.0),
        record=RecordConfig(
            checkpoint_every=100, validate_every=500, sample_every=500, sample_cpus=4.0, sample_gpus=1.0
        ),
    )


def _swapped(config: TrainConfig, min_workers: int) -> TrainConfig:
    engine = replace(config.engine, blocks_to_swap=40)
    return replace(config, engine=engine, cluster=replace(config.cluster, min_workers=min_workers))


CONFIGS = {
    "mini_cpu": ("The mini model (2 M parameters, 9 frames of 64x96) on 2 CPU cores.", mini_cpu()),
    "wan1b_480p": ("Wan2.1-Fun-1.3B-InP at 832x480 on one GPU of 24 GB.", wan1b_480p()),
    "wan14b_480p": ("Wan2.1-I2V-14B at 832x480 on 8 GPUs of 80 GB and two more.", wan14b_480p()),
    "wan14b_480p_zero3": (
        "The same with ZeRO-3: base split among 4 GPUs or more and gathered a block at a time; 24 GB, not 49.",
        wan14b_480p(zero_stage=3),
    ),
    "wan14b_480p_fp8": (
        "The same with the frozen base in fp8, on any number of GPUs of 48 GB.",
        wan14b_480p(fp8_base=True),
    ),
    "wan14b_480p_swap": (
        "The same with the base in fp8 in the host's memory, on two or more GPUs of 24 GB.",
        wan14b_480p_swap(),
    ),
    "wan14b_720p": ("Wan2.1-I2V-14B at 1280x720 on 8 GPUs of 80 GB and three more.", wan14b_720p()),
    "wan14b_720p_zero3": (
        "The same with ZeRO-3: base split among 4 GPUs or more and gathered a block at a time; 42 GB, not 67.",
        wan14b_720p(zero_stage=3),
    ),
    "wan14b_720p_fp8": (
        "The same with the frozen base in fp8, on any number of GPUs of 80 GB.",
        wan14b_720p(fp8_base=True),
    ),
    "wan14b_720p_swap": (
        "The same with the base in fp8 in the host's memory, on any number of GPUs of 48 GB.",
        wan14b_720p_swap(),
    ),
    "wan14b_720p_64gpus": (
        "The same on 64 GPUs of 80 GB and 8 more; groups of 4 share each item.",
        wan14b_720p_64gpus(),
    ),
}
"""What a training can be started with: name -> (what it is, the configuration)."""
