"""Pictures, poses, hands and words -> the tensors that the transformer is conditioned on.

These are plain functions of one model and arrays, always for a batch, so that training and generation condition alike.
Pixels are uint8 RGB (..., H, W, 3) up to the VAE's door and after it; latents are float32, normalised with the mean and
deviation of the VAE's config, whichever VAE it is. The text has no tokens to hide: after the last real one stand zeros,
as in Wan.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as functional
from diffusers.utils.torch_utils import get_module_execution_device

from posegen.driving.drawing import draw

MAX_TEXT_TOKENS = 512
"""Wan's text length; a tokenizer with a smaller `model_max_length` gives fewer."""

SUBJECT_WORDS = re.compile(
    r"\b(wom[ae]n|girls?|m[ae]n|boys?|lad(y|ies)|guys?|persons?|people|child(ren)?|kids?|dancers?)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Conditions:
    """What the transformer sees beside the noisy latents, for a batch of B segments.

    pose: (B, 4 + z, f, h, w), the frame mask, then latents of the pose video. reference: (B, z, 1, h, w) latents.
    text, negative_text: (B, tokens, text_dim); the second is only needed for guidance. image: (B, tokens, image_dim)
    of CLIP, and hands: (B, z, f, h, w) latents, where the model has those inputs.
    """

    pose: torch.Tensor
    reference: torch.Tensor
    text: torch.Tensor
    negative_text: torch.Tensor | None = None
    image: torch.Tensor | None = None
    hands: torch.Tensor | None = None


def draw_poses(keypoints: np.ndarray, size: tuple[int, int], oversampling: int = 1) -> np.ndarray:
    """The pose pictures (F, height, width, 3) uint8 of poses (F, 133, 3) in their pixels; size: (width, height).

    Lines have the width in pixels that the published model knows. A model for much smaller pictures draws them
    `oversampling` times as large and shrinks them, so that limbs stay apart. NaN poses, of frames without a person,
    are black.
    """
    large = (size[0] * oversampling, size[1] * oversampling)
    scale = np.array([oversampling, oversampling, 1], np.float32)
    pictures = (draw(pose, large) for pose in np.nan_to_num(keypoints) * scale)
    if oversampling == 1:
        return np.stack(list(pictures))
    return np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures])


def encode_frames(vae: Any, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
    """The latents (B, z, f, h, w) of videos (B, F, H, W, 3) uint8, F = 4 (f - 1) + 1; the VAE's mean, not a sample."""
    device = get_module_execution_device(vae)
    video = torch.as_tensor(frames).to(device).permute(0, 4, 1, 2, 3)  # (B, 3, F, H, W)
    video = (video.float() / 127.5 - 1).to(vae.dtype)
    mean, std = _statistics(vae, device)
    return (vae.encode(video).latent_dist.mode().float() - mean) / std


def decode_latents(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The videos (B, F, H, W, 3) uint8 of latents (B, z, f, h, w), on the CPU."""
    device = get_module_execution_device(vae)
    mean, std = _statistics(vae, device)
    video = vae.decode((latents.to(device) * std + mean).to(vae.dtype)).sample  # (B, 3, F, H, W)
    frames = ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return frames.permute(0, 2, 3, 4, 1).cpu().contiguous()


def _statistics(vae: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the VAE's latents, (z, 1, 1, 1) float32."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std


def frame_mask(given: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The mask (B, 4, f, height, width) float32 in latent pixels, 1 where a frame is given; given: (B, F) bool.

    A latent frame holds four frames, the first one only the first: that is repeated four times.
    """
    mask = torch.cat([given[:, :1].expand(-1, 4), given[:, 1:]], dim=1)  # (B, 4 f)
    mask = mask.unflatten(1, (-1, 4)).transpose(1, 2)  # (B, 4, f)
    return mask[..., None, None].float().expand(-1, -1, -1, height, width)


def pose_condition(vae: Any, pictures: np.ndarray | torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """`Conditions.pose` of pose videos (B, F, H, W, 3) uint8 in which the given frames (B, F) bool stand themselves."""
    latents = encode_frames(vae, pictures)
    return torch.cat([frame_mask(given.to(latents.device), *latents.shape[3:]), latents], dim=1)


def encode_text(tokenizer: Any, text_encoder: Any, prompts: Sequence[str]) -> torch.Tensor:
    """`Conditions.text` of B prompts; what is too long for the tokenizer is cut off at its end."""
    tokens = tokenizer(
        [_cleaned(prompt) for prompt in prompts],
        padding="max_length",
        **_limits(tokenizer),
        return_attention_mask=True,
        return_tensors="pt",
    )
    device = get_module_execution_device(text_encoder)
    mask = tokens.attention_mask.to(device)
    states = text_encoder(tokens.input_ids.to(device), mask).last_hidden_state
    return states.masked_fill(mask[..., None] == 0, 0)


def encode_image(image_processor: Any, image_encoder: Any, pictures: np.ndarray) -> torch.Tensor:
    """`Conditions.image` of pictures (B, H, W, 3) uint8: CLIP's layer before the last."""
    pixels = clip_pixels(image_processor, pictures, image_encoder.config.image_size)
    pixels = pixels.to(get_module_execution_device(image_encoder), image_encoder.dtype)
    return image_encoder(pixels, output_hidden_states=True).hidden_states[-2]


def clip_pixels(image_processor: Any, pictures: np.ndarray, side: int) -> torch.Tensor:
    """What CLIP sees of pictures (B, H, W, 3) uint8: (B, 3, side, side) float32, normalised as its processor says.

    The whole picture squashed into the square, as Wan's models were trained: the processor itself would cut off the
    head and feet of a portrait. Bicubic without antialiasing, and what that overshoots is kept.
    """
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    pixels = functional.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False)
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (image_processor.image_mean, image_processor.image_std)
    )
    return (pixels * 0.5 + 0.5 - mean) / std


def subject_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """Places among the text's tokens of the first word for a person in a prompt, none where there is no such word.

    Whole words count, in singular or plural and in any case, however many tokens the tokenizer makes of them.
    """
    prompt = _cleaned(prompt)
    if (word := SUBJECT_WORDS.search(prompt)) is None:
        return []
    offsets = tokenizer(prompt, return_offsets_mapping=True, **_limits(tokenizer))["offset_mapping"]
    return [
        place
        for place, (start, stop) in enumerate(offsets)
        if max(start, word.start()) < min(stop, word.end())
    ]


def _cleaned(prompt: str) -> str:
    return " ".join(prompt.split())


def _limits(tokenizer: Any) -> dict[str, Any]:
    return {"max_length": min(tokenizer.model_max_length, MAX_TEXT_TOKENS), "truncation": True}
