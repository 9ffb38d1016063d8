"""AdamW or Muon that also keep a running average of the weights, and the learning rate over the steps.

Choices made: the average is one more state of the optimiser, beside its two moments. So DeepSpeed splits it among the
workers, and saving and restoring treat it, like them. Muon's momentum is the first moment; its second stays zero, so
that all weights have the same states. The learning rate is a function of the step, without a state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import AdamW

from training.config import OptimizerConfig
from training.step.muon import Slices

STATES = ("exp_avg", "exp_avg_sq", "average")
"""Of each weight, beside the number of steps: two moments and the running average."""


class AveragingOptimizer(AdamW):
    """torch's AdamW with `state[weight]["average"]`, moved to the weight by 1 - average_decay after each step.

    matrices: weights that Muon steps instead. Once ZeRO has made flat slices of them, `slices` must say how they lie.
    """

    def __init__(
        self, weights: Iterable[torch.Tensor], matrices: Iterable[torch.Tensor], config: OptimizerConfig
    ) -> None:
        parts = ((list(weights), False), (list(matrices), True))
        super().__init__(
            [{"params": part, "muon": muon} for part, muon in parts if part],
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self.config = config
        self.slices: dict[torch.Tensor, Slices] = {}

    def prepare(self, weights: Iterable[torch.Tensor]) -> None:
        """Give weights that have taken no step the state that AdamW starts them with."""
        for weight in weights:
            if not self.state[weight]:
                moments = {name: torch.zeros_like(weight) for name in STATES[:2]}
                self.state[weight].update(moments, step=torch.tensor(0.0), average=weight.detach().clone())

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        stepped = [
            (weight, group)
            for group in self.param_groups
            for weight in group["params"]
            if weight.grad is not None
        ]
        self.prepare(weight for weight, _ in stepped)
        for weight, group in stepped:
            if group["muon"]:
                self._muon_step(weight, group)
        super().step(closure)
        for weight, _ in stepped:
            state = self.state[weight]
            done = float(state["step"])
            decay = min(self.config.average_decay, (1 + done) / (10 + done))
            state["average"].lerp_(weight, 1 - decay)

    def _muon_step(self, weight: torch.Tensor, group: dict[str, Any]) -> None:
        """Steps and takes the gradient away, so that AdamW leaves the weight alone."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - self.config.muon_momentum)
        update = gradient.lerp(state["exp_avg"], self.config.muon_momentum)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.sub_(self.slices[weight].orthogonalise(update), alpha=group["lr"])
        weight.grad = None


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Of a step, counted from 0, of `steps`: a linear warm-up, times a cosine down to the final share."""
    warm = min(1.0, (step + 1) / max(1, config.warm_up_steps))
    fall = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))
    return config.learning_rate * warm * (config.final_share + (1 - config.final_share) * fall)
