"""The video codec of the mini model: principal components of the clips, then the refiner by gradient.

Choices made: absolute error, as drawn edges are sharp; and latents a little off, by a random amount for each clip,
because the refiner has to deal with what a diffusion model makes, not only with what the encoder does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from mini_model.clips import read_clips, to_unit
from mini_model.loop import Loop, LoopConfig
from posegen.mini.codec import PrincipalVideoCodec

FIT_CLIPS = 400
MOST_NOISE = 0.2
"""Of the latents' standard deviation."""


@dataclass(frozen=True)
class CodecConfig(LoopConfig):
    """Fit the video codec."""

    steps: int = 400
    validate_every: int = 100
    channels: int = 96
    """Dimensions of the latents."""


def train_codec(config: CodecConfig) -> None:
    """Fits the components, trains the refiner, writes vae/."""
    frames, _ = read_clips(config.folder)
    validation = to_unit(read_clips(config.folder, validation=True)[0][:32])
    codec = _start(config, frames)

    def loss(generator: Generator) -> Tensor:
        clips = torch.randint(len(frames), (config.batch,), generator=generator)
        video = to_unit(frames[clips])
        latents = codec.encode(video, return_dict=False)[0].mode()
        size = torch.rand(config.batch, 1, 1, 1, 1, generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        noisy = latents + MOST_NOISE * size * codec.config.latents_std[0] * noise
        return (codec.refine(codec.project(noisy)) - video).abs().mean()

    def measure() -> dict[str, float]:
        latents = codec.encode(validation, return_dict=False)[0].mode()
        return {
            "components_psnr": psnr(codec.project(latents).clamp(-1, 1), validation),
            "psnr": psnr(codec.decode(latents, return_dict=False)[0], validation),
        }

    Loop("codec", codec, loss, config).run(measure, lambda: codec.save_pretrained(vae_folder(config.folder)))


def _start(config: CodecConfig, frames: Tensor) -> PrincipalVideoCodec:
    """The codec to go on with, or a fitted one: more clips must not move components already trained on."""
    if (config.folder / "codec.pt").exists():
        return PrincipalVideoCodec.from_pretrained(vae_folder(config.folder))
    torch.manual_seed(config.seed)
    fitted = frames[:: max(1, len(frames) // FIT_CLIPS)]
    return PrincipalVideoCodec.fit(map(to_unit, fitted.split(20)), config.channels)


def vae_folder(folder: Path) -> Path:
    return folder / "vae"


def psnr(video: Tensor, truth: Tensor) -> float:
    """In dB, of pixels in -1..1, from the mean squared error of all clips together."""
    return -10 * (((video - truth) / 2).square().mean()).log10().item()
