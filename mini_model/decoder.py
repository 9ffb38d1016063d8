"""Trains the codec's refiner on what the network makes, so that decoding is the last step of denoising.

Choices made: a predicted latent is a mean over what it could be, and components alone decode it to soft squares; with
the true pixels as its target the refiner draws edges where the network's guess has them. Errors are absolute, of pixels
and of their differences to their neighbours, as drawn edges are sharp.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from mini_model.codec import psnr
from mini_model.items import Items, read_items
from mini_model.loop import Loop, LoopConfig
from mini_model.posed import PERSON_WEIGHT, Encoder, guesses, merged
from posegen.longvideo.sampling import flow_shift, schedule
from posegen.mini.codec import PrincipalVideoCodec
from posegen.model.transformer import PoseGenTransformer3DModel
from training.model import frozen

STAGE = "decoder"
MOST_STEPS = 3
"""Of sampling, whose last latents are decoded."""
HELD = 64
"""Validation items."""
EDGE_WEIGHT = 1.0


@dataclass(frozen=True)
class DecoderConfig(LoopConfig):
    """Train the codec's refiner on the network's latents."""

    steps: int = 2000
    batch: int = 4
    learning_rate: float = 1e-3
    validate_every: int = 200
    model: Path = Path("build/mini/base")
    """Folder of the base model, whose codec's refiner is trained."""
    adapter: Path = Path("build/mini/adapters/base")
    """Folder of the adapter with which the network makes the latents."""
    compile: bool = True
    """Compile the network's blocks, which needs a C++ compiler."""


def train_decoder(config: DecoderConfig) -> None:
    """Trains the refiner and writes the codec over that of the model."""
    network = merged(config.model, config.adapter).requires_grad_(False)
    if config.compile:
        network.compile_repeated_blocks()
    training, validation = (
        Makes(read_items(config.folder, validation=held), config, network) for held in (False, True)
    )
    torch.manual_seed(config.seed)
    codec = unrefined(training.encoder.vae)

    def refined(latents: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return codec.refine(latents).float()

    def loss(generator: Generator) -> Tensor:
        chosen = torch.randint(len(training.encoder.items), (config.batch,), generator=generator).tolist()
        steps = int(torch.randint(1, MOST_STEPS + 1, (1,), generator=generator))
        latents, video, weight = training(chosen, steps, generator)
        return pixel_loss(refined(latents), video, weight)

    held = [
        validation(part.tolist(), 2, torch.Generator().manual_seed(0))
        for part in torch.arange(HELD).split(config.batch)
    ]

    def measure() -> dict[str, float]:
        pairs = [(refined(latents).clamp(-1, 1), video) for latents, video, _ in held]
        rough = [(codec.project(latents).clamp(-1, 1), video) for latents, video, _ in held]
        both = {"psnr": pairs, "components_psnr": rough}
        return {name: psnr(*map(torch.cat, zip(*found, strict=True))) for name, found in both.items()}

    Loop(STAGE, codec, loss, config).run(measure, lambda: codec.save_pretrained(config.model / "vae"))


class Makes:
    """Latents that the network makes of items, beside the truth."""

    def __init__(self, items: Items, config: DecoderConfig, network: PoseGenTransformer3DModel) -> None:
        self.encoder, self.network = Encoder(items, config.model), network
        self.shift = flow_shift(frozen.load(str(config.model), "scheduler").config)

    @torch.no_grad()
    def __call__(self, chosen: list[int], steps: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents as the codec decodes them (B, z, f, h, w), true video (B, 3, F, H, W), weights (B, 1, F, H, W)."""
        examples = self.encoder(chosen, False, np.ones(len(chosen), bool))
        noise = torch.randn(examples.latents.shape, generator=generator)
        made = deque(guesses(self.network, examples, noise, schedule(steps, self.shift)[:-1]), maxlen=1).pop()
        vae = self.encoder.vae
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        frames = (
            torch.from_numpy(self.encoder.items.pictures("frames", chosen)).permute(0, 4, 1, 2, 3).float()
        )
        weight = 1 + (PERSON_WEIGHT - 1) * (frames[:, 3:] / 255)
        return made * std + mean, frames[:, :3] / 127.5 - 1, weight / weight.mean((1, 2, 3, 4), keepdim=True)


def unrefined(codec: PrincipalVideoCodec) -> PrincipalVideoCodec:
    """A codec of the same components with a new refiner."""
    new = PrincipalVideoCodec(
        codec.config.z_dim, latents_mean=codec.config.latents_mean, latents_std=codec.config.latents_std
    )
    new.first_basis.copy_(codec.first_basis)
    new.group_basis.copy_(codec.group_basis)
    return new


def pixel_loss(video: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted absolute error of pixels (B, 3, F, H, W) and of their differences across and down."""
    error = video - truth
    across, down = error.diff(dim=-1), error.diff(dim=-2)
    edges = (weight[..., 1:] * across.abs()).mean() + (weight[..., 1:, :] * down.abs()).mean()
    return (weight * error.abs()).mean() + EDGE_WEIGHT * edges
