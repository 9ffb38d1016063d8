"""A tiny model folder and a tiny dataset of puppets, to train on in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

from mini_model.puppets import Puppet, Scene, motion, render
from posegen.dataset import CLIPS, KEPT, MEDIA, pack_keypoints, table
from posegen.mini.codec import PrincipalVideoCodec
from posegen.mini.text import make_text_encoder, make_tokenizer
from posegen.video import save_video
from training.config import (
    AdapterConfig,
    DataConfig,
    EngineConfig,
    OptimizerConfig,
    RecordConfig,
    TrainConfig,
)

SIZE, FRAMES, RATE, CHANNELS = (32, 48), 9, 12.0, 6
MINI: dict[str, Any] = {
    "patch_size": (1, 1, 1),
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "text_dim": 64,
    "ffn_dim": 512,
    "num_layers": 6,
}
"""The bundled mini model's transformer, for what is measured at its size."""


def write_tiny_model(folder: Path, prediction: str = "sample") -> Path:
    """A model folder in Wan's image-to-video layout with random weights; 6 latent channels."""
    torch.manual_seed(0)
    video = torch.rand(8, 3, 5, *SIZE[::-1]) * 2 - 1
    tokenizer = make_tokenizer(["A woman walks in a room.", "A man dances in the street."])
    text_encoder = make_text_encoder(tokenizer)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=2 * CHANNELS + 4,
        out_channels=CHANNELS,
        text_dim=text_encoder.config.d_model,
        freq_dim=32,
        ffn_dim=96,
        num_layers=2,
    )
    transformer.register_to_config(prediction=prediction)
    PrincipalVideoCodec.fit([video], CHANNELS).save_pretrained(folder / "vae")
    tokenizer.save_pretrained(folder / "tokenizer")
    text_encoder.save_pretrained(folder / "text_encoder")
    transformer.save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "WanImageToVideoPipeline",
        "vae": ["posegen.mini.codec", "PrincipalVideoCodec"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_tiny_dataset(folder: Path, clips: int = 10) -> Path:
    """Curated tables of so many puppets, 9 frames of 32x48."""
    rows = [puppet_rows(folder, seed) for seed in range(clips)]
    for name, schema, part in (("clips", CLIPS, 0), ("media", MEDIA, 1)):
        (folder / name).mkdir(parents=True)
        pq.write_table(table([row[part] for row in rows], schema), folder / name / "part-0.parquet")
    return folder


def puppet_rows(folder: Path, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A puppet's row of clips/ and its row of media/; the folder is for its video."""
    keypoints = motion(seed, FRAMES, RATE, SIZE)
    clip = render(Puppet.sample(seed), Scene.sample(seed), keypoints, SIZE, RATE)
    path = folder / "clip.mp4"
    folder.mkdir(parents=True, exist_ok=True)
    save_video(clip.frames, path, RATE)
    media = {"media": path.read_bytes(), "media_start": 0.0, "seconds": FRAMES / RATE, "rate": RATE}
    clip_id = f"clip-{seed:03}"
    place = {"clip_id": clip_id, "video_id": clip_id, "path": "puppets", "status": KEPT, "reasons": []}
    shown = {"rate": RATE, "width": SIZE[0], "height": SIZE[1], "caption": clip.caption}
    return place | shown | pack_keypoints(keypoints), {"clip_id": clip_id, **media}


def tiny_config(folder: Path, output: Path, **changes: Any) -> TrainConfig:
    """A training on `folder`/model and `folder`/dataset."""
    data = DataConfig(
        dataset=str(folder / "dataset"),
        model=str(folder / "model"),
        sizes=(SIZE,),
        frames=(FRAMES,),
        batch_size=4,
        validation_clips=2,
    )
    return TrainConfig(
        **{
            "data": data,
            "output": str(output),
            "steps": 12,
            "adapter": AdapterConfig(rank=4, alpha=4.0),
            "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
            "engine": EngineConfig(
                precision="float32", gradient_checkpointing=False, reduce_bucket_size=200_000
            ),
            "record": RecordConfig(log_every=1, checkpoint_every=4, validate_every=4, num_to_keep=2),
            **changes,
        }
    )
