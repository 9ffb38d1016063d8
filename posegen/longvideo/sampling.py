"""One segment from noise to latents: flow matching, Euler steps, classifier-free guidance.

The latents and the arithmetic between passes are float32, whatever the network computes in. Guidance may be limited to
an interval of noise levels (Kynkaanniemi et al., arXiv 2404.07724); outside it there is no unguided pass at all. The
initial noise depends on the seed alone: it is drawn on the CPU, so it is the same on every device and in every process.
A callback ends the steps by raising `Cancelled`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from posegen.longvideo.conditions import Conditions
from posegen.sharing import Branch, Position, SegmentSharing, SharedRange


class Cancelled(Exception):  # noqa: N818 - a wish, not an error
    """Raised by a callback that wants no further step."""


@dataclass(frozen=True)
class Guidance:
    """How strongly the text is followed: 1 means no unguided pass.

    interval: lowest and highest noise level (sigma, 0..1) at which guidance is on.
    """

    scale: float = 5.0
    interval: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def between(
        cls, prompt: str, negative_prompt: str, scale: float, interval: tuple[float, float] = (0.0, 1.0)
    ) -> Guidance:
        """Guidance towards one text and away from another; none where both are the same and it would do nothing."""
        return cls(1.0 if prompt == negative_prompt else scale, interval)

    def applies(self, sigma: float) -> bool:
        """Whether a step at this noise level has an unguided pass."""
        return self.scale != 1 and self.interval[0] <= sigma <= self.interval[1]


@dataclass(frozen=True)
class Step:
    """What is told after a step: the index-th of `steps`, from noise level `sigma` on.

    latents: (B, z, f, h, w) float32, after the step. preview: of the same shape, the clean latents as the network now
    guesses them.
    """

    index: int
    steps: int
    sigma: float
    latents: torch.Tensor
    preview: torch.Tensor


class Schedule(NamedTuple):
    """Noise levels from 1 down to and with 0, one more than there are steps, and each step's timestep, 0..1000."""

    sigmas: Sequence[float]
    timesteps: Sequence[float]

    def first(self, steps: int) -> Schedule:
        """The first few steps alone."""
        return Schedule(self.sigmas[: steps + 1], self.timesteps[:steps])


def schedule(steps: int, shift: float, timestep_dtype: torch.dtype = torch.float32) -> Schedule:
    """The schedule of Wan's flow matching.

    shift: how far steps are moved towards noise; s becomes shift s / (1 + (shift - 1) s). timestep_dtype: what the
    timesteps that the transformer is given are rounded to. The published PoseGen weights know those of bfloat16, which
    above 512 are multiples of 4; the noise levels themselves are never rounded.
    """
    if steps < 1:
        raise ValueError(f"{steps} denoising steps are too few; ask for 1 or more.")
    sigmas = np.linspace(1, 0, steps + 1)
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    timesteps = torch.from_numpy(1000 * sigmas[:-1]).to(torch.float32).to(timestep_dtype)
    return Schedule(sigmas.tolist(), timesteps.tolist())


def shared_positions(shared: SharedRange, schedule: Schedule, guidance: Guidance) -> list[Position]:
    """The shared positions in the order in which `denoise` comes to them."""
    return [
        position
        for position in shared.positions()
        if position.branch == "guided" or guidance.applies(schedule.sigmas[position.step])
    ]


def flow_shift(scheduler_config: Mapping[str, Any]) -> float:
    """The shift that a model folder's scheduler is set to: UniPC's setting, or flow matching Euler's."""
    return scheduler_config.get("flow_shift", scheduler_config.get("shift", 1.0))


def initial_noise(seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal noise, float32 on the CPU, the same for the same seed everywhere."""
    return torch.randn(tuple(shape), generator=torch.Generator("cpu").manual_seed(seed))


Passes = Callable[[Callable[[Branch], torch.Tensor], tuple[Branch, ...], bool], list[torch.Tensor]]
"""Computes the passes of a step: what the function gives for each branch; whether the step shares the background."""


def one_by_one(
    predict: Callable[[Branch], torch.Tensor], branches: tuple[Branch, ...], shares: bool
) -> list[torch.Tensor]:
    """The passes of a step one after the other, as one process does them."""
    return [predict(branch) for branch in branches]


@torch.no_grad()
def denoise(
    transformer: Any,
    conditions: Conditions,
    noise: torch.Tensor,
    schedule: Schedule,
    guidance: Guidance,
    sharing: SegmentSharing | None = None,
    callback: Callable[[Step], object] | None = None,
    passes: Passes = one_by_one,
) -> torch.Tensor:
    """The latents (B, z, f, h, w) float32 that the noise of that shape becomes at the end of the schedule.

    callback: called after each step; may raise `Cancelled`, which then leaves this function. passes: how the passes of
    a step are computed.
    """
    if conditions.negative_text is None and any(guidance.applies(sigma) for sigma in schedule.sigmas[:-1]):
        raise ValueError(
            "Guidance needs conditions.negative_text: encode a negative prompt, or set its scale to 1."
        )
    transformer._reset_stateful_cache()  # of First Block Cache and the like: nothing of another segment
    latents = noise.to(conditions.pose.device, torch.float32)
    for index, (sigma, following) in enumerate(pairwise(schedule.sigmas)):
        predict = partial(_velocity, transformer, conditions, latents, schedule, sharing, index)
        branches: tuple[Branch, ...] = ("guided", "unguided") if guidance.applies(sigma) else ("guided",)
        shares = sharing is not None and index in sharing.shared.steps
        velocity, *unguided = passes(predict, branches, shares)
        if unguided:
            velocity = unguided[0] + guidance.scale * (velocity - unguided[0])
        preview = latents - sigma * velocity
        latents = latents + (following - sigma) * velocity
        if callback is not None:
            callback(Step(index, len(schedule.timesteps), sigma, latents, preview))
    return latents


def _velocity(
    transformer: Any,
    conditions: Conditions,
    latents: torch.Tensor,
    schedule: Schedule,
    sharing: SegmentSharing | None,
    step: int,
    branch: Branch,
) -> torch.Tensor:
    """Noise - clean latents (B, z, f, h, w) float32, as one pass of the network sees it."""

    def cast(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(latents.device, transformer.dtype)

    with transformer.cache_context(branch):
        output = transformer(
            hidden_states=cast(torch.cat([latents, conditions.pose], dim=1)),
            timestep=torch.full((len(latents),), schedule.timesteps[step], device=latents.device),
            encoder_hidden_states=cast(conditions.text if branch == "guided" else conditions.negative_text),
            encoder_hidden_states_image=cast(conditions.image),
            reference_latents=cast(conditions.reference),
            hand_latents=cast(conditions.hands),
            sharing=sharing.at(step, branch) if sharing else None,
        ).sample.float()
    if transformer.config.prediction == "sample":
        return (latents - output) / schedule.sigmas[step]
    return output
