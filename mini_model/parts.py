"""Training on part of an item's tokens: those of the person, of what a person hides, and by lot some of the others.

Most of the others show a place as the picture does, which is copied and soon learnt; without them a step takes less
than half as long. Attention then spreads over fewer tokens than in use, so the last steps are to have them all. A patch
is one place of the latents, so a part is a clip of one row of places with positions of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn

from posegen.mini.codec import SPACE, TIME
from posegen.model.attention import RotaryPositions

VIDEO_SHARE, REFERENCE_SHARE = 0.4, 0.5
"""Of the tokens: how many a part has."""
CLOSE = 2
"""Grey levels by which a place may differ from the reference and still be seen there."""


@dataclass(frozen=True)
class Part:
    """Which tokens a part has: video (B, K) of f h w, reference (B, R) of h w, each in rising order."""

    video: Tensor
    reference: Tensor

    def to(self, device: str) -> Part:
        return Part(self.video.to(device), self.reference.to(device))


def choose_part(frames: np.ndarray, references: np.ndarray, generator: Generator) -> Part:
    """Of items: frames (B, F, H, W, 4) with the person's opacity, references (B, H, W, 3), all uint8."""
    person = torch.from_numpy(frames[..., 3] > 0)
    differences = np.abs(frames[..., :3].astype(np.int16) - references[:, None]).max(axis=-1)
    seen = ~person & torch.from_numpy(differences <= CLOSE)  # a place as the reference shows it
    hidden = _tokens(~seen.any(1, keepdim=True))  # (B, 1, h, w)
    wanted = torch.maximum(_tokens(person), hidden)
    return Part(_choose(wanted, VIDEO_SHARE, generator), _choose(hidden, REFERENCE_SHARE, generator))


def _tokens(there: Tensor) -> Tensor:
    """(B, F, H, W) bool -> (B, f, h, w): 2 where any pixel is, 1 beside such tokens, else 0."""
    there = torch.cat([there[:, :1].expand(-1, TIME - 1, -1, -1), there], dim=1).float()
    pooled = nn.functional.max_pool3d(there, (TIME, SPACE, SPACE))
    return pooled + nn.functional.max_pool2d(pooled, 3, stride=1, padding=1)


def _choose(wanted: Tensor, share: float, generator: Generator) -> Tensor:
    """The most wanted tokens, by lot among equals."""
    wanted = wanted.flatten(1)
    lots = torch.rand(wanted.shape, generator=generator)
    return (wanted + lots).topk(round(share * wanted.shape[1])).indices.sort().values


def gather(latents: Tensor, tokens: Tensor) -> Tensor:
    """Of latents (B, z, f, h, w), some tokens (B, K): (B, z, 1, 1, K)."""
    chosen = tokens[:, None].expand(-1, latents.shape[1], -1)
    return latents.flatten(2).gather(2, chosen)[:, :, None, None]


class PartPositions(nn.Module):
    """A network's positions, which are those of a part while one is being computed."""

    def __init__(self, whole: RotaryPositions) -> None:
        super().__init__()
        self.whole = whole
        self.grid: tuple[int, int, int] = (0, 0, 0)
        self.part: Part | None = None

    def forward(
        self, video_shape: tuple[int, int, int], reference_shape: tuple[int, int, int], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """As of `RotaryPositions`; with one table for each item of a part, (B, tokens, 1, 2 head_dim)."""
        if self.part is None:
            return self.whole(video_shape, reference_shape, device)
        video, reference = self.whole(self.grid, (1, *self.grid[1:]), device)
        return video[0, self.part.video], reference[0, self.part.reference]

    @contextmanager
    def computing(self, part: Part | None, latents: Sequence[int]) -> Iterator[None]:
        """While it lasts, inputs are a part's; latents: the shape (B, z, f, h, w) of the whole."""
        _, _, frames, height, width = latents
        self.part, self.grid = part, (frames, height, width)
        try:
            yield
        finally:
            self.part = None
