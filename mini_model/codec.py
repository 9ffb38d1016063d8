"""The mini model's video codec: the principal components of the clips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mini_model.clips import read_clips, to_unit
from posegen.mini.codec import PrincipalVideoCodec

FIT_CLIPS = 400
SHOWN_CLIPS = 32


@dataclass(frozen=True)
class CodecConfig:
    """Fit the video codec."""

    folder: Path = Path("build/mini")
    """Where everything lies."""
    channels: int = 96
    """Dimensions of the latents."""
    threads: int = 2
    """CPU threads."""


@torch.no_grad()
def fit_codec(config: CodecConfig) -> None:
    """Fits the components and writes vae/, unless it is there: all that is trained later is trained on them."""
    folder = vae_folder(config.folder)
    if folder.exists():
        print(f"{folder} is there already", flush=True)
        return
    frames, _ = read_clips(config.folder)
    fitted = frames[:: max(1, len(frames) // FIT_CLIPS)]
    codec = PrincipalVideoCodec.fit(map(to_unit, fitted.split(20)), config.channels)
    codec.save_pretrained(folder)
    validation = to_unit(read_clips(config.folder, validation=True)[0][:SHOWN_CLIPS])
    shown = codec.decode(codec.encode(validation).latent_dist.mode()).sample
    print(f"codec: {psnr(shown, validation):.1f} dB", flush=True)


def vae_folder(folder: Path) -> Path:
    return folder / "vae"


def psnr(video: Tensor, truth: Tensor) -> float:
    """In dB, of pixels in -1..1, from the mean squared error of all clips together."""
    return -10 * (((video - truth) / 2).square().mean()).log10().item()
