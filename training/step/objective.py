"""What is minimised: the squared error of the velocity, noise - clean latents, whatever the network predicts.

Each item has a loss of its own, so that items can be weighed by the batch of all workers. Noisy latents and errors are
float32; only the network computes in its own precision. Errors where the person is can be given more weight: the
background is soon copied from the reference, and what is left to learn of the pose is a small part of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

from training.data.items import Batch

LEAST_SIGMA = 0.2
"""The least that the error of a clean prediction is divided by, for its velocity: without it nearly clean clips, from
which little is learnt, outweigh all others."""


@dataclass(frozen=True)
class LossConfig:
    """How errors are weighed."""

    person_weight: float = 1.0
    """How many times as much they count where the person is."""


@dataclass(frozen=True)
class Examples:
    """Items of a batch with their noise (B, z, f, h, w) and noise levels `sigmas` (B,).

    person: (B, 1, f, h, w), 1 where the person is, else 0.
    """

    latents: torch.Tensor
    reference_latents: torch.Tensor
    pose_latents: torch.Tensor
    hand_latents: torch.Tensor | None
    text: torch.Tensor
    image: torch.Tensor | None
    person: torch.Tensor
    noise: torch.Tensor
    sigmas: torch.Tensor

    @classmethod
    def of(cls, batch: Batch, noise: torch.Tensor, sigmas: torch.Tensor) -> Examples:
        names = [field.name for field in fields(cls)][:-2]
        tensors: dict[str, Any] = {name: getattr(batch, name) for name in names}
        return cls(**tensors, noise=noise, sigmas=sigmas)

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, items: slice) -> Examples:
        return self._each(lambda tensor: tensor[items])

    def to(self, device: torch.device) -> Examples:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Examples:
        tensors: dict[str, Any] = {}
        for field in fields(self):
            tensor = getattr(self, field.name)
            tensors[field.name] = None if tensor is None else change(tensor)
        return Examples(**tensors)


def velocity_losses(
    network: Any, prediction: str, dtype: torch.dtype, examples: Examples, person_weight: float
) -> torch.Tensor:
    """The mean squared error of each item's velocity, (B,) float32.

    network: a `PoseGenTransformer3DModel`, or what wraps it. prediction: its config's. dtype: its weights'.
    person_weight: how many times as much a latent pixel counts in the mean where the person is.
    """

    def cast(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(dtype)

    clean, sigma = examples.latents, examples.sigmas.view(-1, 1, 1, 1, 1)
    noisy = (1 - sigma) * clean + sigma * examples.noise
    output = network(
        hidden_states=cast(torch.cat([noisy, examples.pose_latents], dim=1)),
        timestep=1000 * examples.sigmas,
        encoder_hidden_states=cast(examples.text),
        encoder_hidden_states_image=cast(examples.image),
        reference_latents=cast(examples.reference_latents),
        hand_latents=cast(examples.hand_latents),
    ).sample.float()
    if prediction == "sample":
        error = (clean - output) / sigma.clamp(min=LEAST_SIGMA)
    else:
        error = output - (examples.noise - clean)
    weights = 1 + (person_weight - 1) * examples.person
    weights = weights / weights.flatten(1).mean(1).view(-1, 1, 1, 1, 1)
    return (weights * error.square()).flatten(1).mean(1)
