"""Videos of validation clips made with a checkpoint while training goes on, in a Ray task of its own.

They are made with the EMA, which is what will be exported, and with the guidance that the model's folder names, as
`PoseGenPipeline` generates. Each stands beside its pose and the reference; its noise
follows from the clip, so it is the same at every checkpoint.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import ray
import torch

from posegen.common.storage import Folder
from posegen.loading import Placement
from posegen.longvideo.conditions import Conditions, decode_latents, encode_text
from posegen.longvideo.sampling import Guidance, denoise, schedule
from posegen.model.checkpoints import load_adapter
from posegen.pipeline import PoseGenPipeline
from posegen.source import ModelSource
from posegen.video import save_video
from training.checkpoint import EMA
from training.config import TrainConfig
from training.data.stream import Batch
from training.model import frozen
from training.output import fetched
from training.step.noise import noise

FOLDER = "samples"
ENCODERS = ("text_encoder", "tokenizer", "image_encoder", "image_processor")
ADAPTER = "sampled"
"""What the checkpoint's is called beside those that the model's folder may have."""


def sample_later(config: TrainConfig, batch: Batch, checkpoint: str, step: int) -> ray.ObjectRef:
    """Starts the task; its failures go to its own log and do not affect the training."""
    task = ray.remote(num_cpus=config.record.sample_cpus, num_gpus=config.record.sample_gpus)(sample)
    return task.remote(config, batch, checkpoint, step)


def sample(config: TrainConfig, batch: Batch, checkpoint: str, step: int) -> list[str]:
    """Generates the first validation clips and writes `samples/step-N-CLIP.mp4` to the output folder."""
    with fetched(config.output, f"{checkpoint}/{EMA}") as adapter:
        pipeline = load_pipeline(config, adapter)
    count = min(config.record.sample_clips, len(batch.keys))
    latents = generate(pipeline, batch, count, config)
    shown = [latents, batch.pose_latents[:count, 4:], batch.reference_latents[:count].expand_as(latents)]
    frames = torch.cat([decode_latents(pipeline.vae, part) for part in shown], dim=3).numpy()  # side by side
    return [_write(config, clip, frames[i], step) for i, clip in enumerate(batch.clip_ids[:count])]


def load_pipeline(config: TrainConfig, adapter: Path) -> PoseGenPipeline:
    """The model as it generates, with a checkpoint's adapter on; a batch is encoded already, so it has no encoders."""
    placement = Placement.here("cuda" if config.record.sample_gpus else "cpu", config.engine.precision)
    pipeline = placement.load(ModelSource(config.data.model), leave_out=ENCODERS)
    load_adapter(pipeline.transformer, adapter, ADAPTER)
    return pipeline


@torch.no_grad()
def generate(pipeline: PoseGenPipeline, batch: Batch, count: int, config: TrainConfig) -> torch.Tensor:
    """Latents (count, z, f, h, w) on the CPU of a batch's first items, with the pipeline's guidance."""
    transformer, settings = pipeline.transformer, pipeline.config
    device, model = transformer.device, config.data.model
    guidance, away = Guidance(settings.guidance_scale), None
    if guidance.scale != 1:
        # On the CPU: beside the transformer a device may have no room for a text encoder.
        encoders = frozen.load(model, "tokenizer"), frozen.load(model, "text_encoder")
        away = encode_text(*encoders, [settings.negative_prompt]).float().expand(count, -1, -1).to(device)

    def first(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor[:count].to(device)

    conditions = Conditions(
        pose=batch.pose_latents[:count].to(device),
        reference=batch.reference_latents[:count].to(device),
        text=batch.text[:count].to(device),
        negative_text=away,
        image=first(batch.image),
        hands=first(batch.hand_latents),
    )
    start = noise(config.data.seed, batch.keys[:count], batch.latents.shape[1:])
    levels = schedule(config.record.num_inference_steps, config.noise.shift)
    return denoise(transformer, conditions, start, levels, guidance).cpu()


def _write(config: TrainConfig, clip_id: str, frames: np.ndarray, step: int) -> str:
    name = f"{FOLDER}/step-{step:08}-{clip_id}.mp4"
    with tempfile.TemporaryDirectory(prefix="posegen-") as scratch:
        save_video(frames, Path(scratch) / "sample.mp4", config.data.rate)
        Folder(config.output).save(name, Path(scratch) / "sample.mp4")
    return name
