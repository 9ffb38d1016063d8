"""Noise and noise level of an item: a function of (seed, clip_id, epoch) and of nothing else.

So a run that goes on with another number of workers sees the same items at the same noise. On the validation clips both
are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.data.augment import random_of


@dataclass(frozen=True)
class NoiseConfig:
    """Noise levels: logit-normal (Esser et al., arXiv 2403.03206), then shifted to noise as in sampling."""

    mean: float = 0.0
    """Of the normal distribution before its sigmoid; above zero draws more noise."""
    deviation: float = 1.0
    """Of the same; larger draws more levels near 0 and 1."""
    shift: float = 5.0
    """s becomes shift s / (1 + (shift - 1) s)."""
    validation_levels: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 0.95)
    """Noise levels of the validation loss, a curve each."""


def noise(seed: int, keys: Sequence[tuple[str, int]], shape: Sequence[int]) -> torch.Tensor:
    """Standard normal noise (B, *shape) float32 of B items, given as (clip_id, epoch)."""
    drawn = [
        torch.from_numpy(random_of(seed, *key, "noise").standard_normal(tuple(shape), "float32"))
        for key in keys
    ]
    return torch.stack(drawn)


def sigmas(seed: int, keys: Sequence[tuple[str, int]], config: NoiseConfig) -> torch.Tensor:
    """Noise levels (B,) float32 in 0..1 of B items."""
    levels = [sigma(random_of(seed, *key, "timestep").standard_normal(), config) for key in keys]
    return torch.tensor(levels, dtype=torch.float32)


def sigma(normal: float, config: NoiseConfig) -> float:
    """The noise level of a standard normal number: logit-normal, then shifted."""
    level = 1 / (1 + math.exp(-(config.mean + config.deviation * normal)))
    return config.shift * level / (1 + (config.shift - 1) * level)
