"""CLIP vision models and aesthetic heads laid out like the published ones, but tiny and random."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

SIDE, HIDDEN, WIDTH = 16, 16, 12
"""Pixels of the picture's sides; numbers of the pooled output and of the embedding."""


def vision_config() -> CLIPVisionConfig:
    """Two layers of four patches."""
    return CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=8,
        projection_dim=WIDTH,
        initializer_range=0.5,
    )


def save_processor(folder: Path, side: int = SIDE) -> None:
    """The processor that makes pictures of so many pixels."""
    size = {"height": side, "width": side}
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=size).save_pretrained(folder)


def save_tiny_clip(folder: Path) -> Path:
    """A vision model with its projection and processor in one folder; returns it."""
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(vision_config()).save_pretrained(folder)
    save_processor(folder)
    return folder


def save_whole_clip(folder: Path) -> Path:
    """A folder like openai/clip-vit-large-patch14, with the text model in it."""
    torch.manual_seed(0)
    text = CLIPTextConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=9,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    both = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision_config().to_dict(), projection_dim=WIDTH
    )
    CLIPModel(both).save_pretrained(folder)
    save_processor(folder)
    return folder


def save_wan_folders(folder: Path) -> Path:
    """`image_encoder` without a projection and `image_processor` beside it, as in Wan's folders; returns the first."""
    torch.manual_seed(0)
    CLIPVisionModel(vision_config()).save_pretrained(folder / "image_encoder")
    save_processor(folder / "image_processor")
    return folder / "image_encoder"


def predictor(width: int = WIDTH) -> torch.nn.Sequential:
    """LAION's predictor with smaller layers, under the published numbers."""
    torch.manual_seed(1)
    sizes = (width, 8, 6, 5, 4, 1)
    linear = [torch.nn.Linear(*pair) for pair in pairwise(sizes)]
    drops = [torch.nn.Dropout(share) for share in (0.2, 0.2, 0.1)]
    between = [part for pair in zip(linear[:3], drops, strict=True) for part in pair]
    return torch.nn.Sequential(*between, *linear[3:]).eval()


def save_head(path: Path, width: int = WIDTH) -> Path:
    """The predictor's state dict as published, `layers.0.weight` and so on; returns the path."""
    torch.save({f"layers.{name}": value for name, value in predictor(width).state_dict().items()}, path)
    return path
