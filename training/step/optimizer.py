"""AdamW that also keeps an EMA of the weights, and the learning rate over the steps.

The EMA is one more state of the optimiser, beside its two moments, so DeepSpeed splits, saves and restores it like
them. The learning rate is a function of the step, without a state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import AdamW

STATES = ("exp_avg", "exp_avg_sq", "ema")
"""Of each weight, beside the number of steps: two moments and the EMA."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, the learning rate over the steps, and the EMA of what is trained."""

    learning_rate: float = 1e-4
    """The highest, after the warm-up."""
    warmup_steps: int = 100
    """Steps in which the learning rate rises from zero."""
    min_lr_factor: float = 1.0
    """The learning rate falls along a cosine to this share of the highest at the last step; 1 keeps it."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of the two moments."""
    weight_decay: float = 0.01
    """AdamW's, decoupled from the gradient."""
    max_grad_norm: float = 1.0
    """The norm of all gradients together is clipped to this."""
    ema_decay: float = 0.999
    """Decay of the EMA, which is what is exported; it is lower in the first steps."""


class EMAAdamW(AdamW):
    """torch's AdamW with `state[weight]["ema"]`, moved to the weight by 1 - ema_decay after each step."""

    def __init__(self, weights: Iterable[torch.Tensor], config: OptimizerConfig) -> None:
        super().__init__(
            weights, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        self.ema_decay = config.ema_decay

    def prepare(self, weights: Iterable[torch.Tensor]) -> None:
        """Gives weights that have taken no step the state that AdamW starts them with."""
        for weight in weights:
            if not self.state[weight]:
                moments = {name: torch.zeros_like(weight) for name in STATES[:2]}
                self.state[weight].update(moments, step=torch.tensor(0.0), ema=weight.detach().clone())

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        weights = [
            weight for group in self.param_groups for weight in group["params"] if weight.grad is not None
        ]
        self.prepare(weights)
        super().step(closure)
        for weight in weights:
            state = self.state[weight]
            done = float(state["step"])
            decay = min(self.ema_decay, (1 + done) / (10 + done))
            state["ema"].lerp_(weight, 1 - decay)


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """The learning rate of a step, counted from 0: a linear warm-up times a cosine down to the final share."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fall = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))
    return config.learning_rate * warm * (config.min_lr_factor + (1 - config.min_lr_factor) * fall)
