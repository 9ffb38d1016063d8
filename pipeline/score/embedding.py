"""A clip's embedding, of a few of its frames, and what a head says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.score.measures import People

FRAMES = 4
"""Frames of a clip that are embedded, spread evenly."""

Embed = Callable[[np.ndarray], np.ndarray]
"""Prepared pictures (n, 3, side, side) float32 -> their embeddings (n, width) float32 of unit length."""


@dataclass(frozen=True)
class Embedder:
    """prepare: a frame (H, W, 3) uint8 RGB -> (3, side, side) float32. score: embeddings (n, width) -> (n,), where a
    head was given."""

    prepare: Callable[[np.ndarray], np.ndarray]
    embed: Embed
    score: Callable[[np.ndarray], np.ndarray] | None = None


class Embedding:
    """embedding: (width,) float16, the mean over frames, of unit length; aesthetics: the mean of the frames' scores.

    None for a clip without frames. seconds: length of the clip.
    """

    def __init__(self, embedder: Embedder, seconds: float) -> None:
        self.embedder = embedder
        self.moments = [(number + 0.5) * seconds / FRAMES for number in range(FRAMES)]
        self.pictures: list[np.ndarray] = []

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        for frame, time in zip(frames, times.tolist(), strict=True):
            due = [moment for moment in self.moments if moment <= time + 1e-6]
            if due:
                self.moments = self.moments[len(due) :]
                self.pictures.append(self.embedder.prepare(frame))

    def result(self) -> dict[str, Any]:
        if not self.pictures:
            return {"embedding": None, "aesthetics": None}
        vectors = self.embedder.embed(np.stack(self.pictures))
        mean = vectors.mean(axis=0)
        score = None if self.embedder.score is None else float(self.embedder.score(vectors).mean())
        return {"embedding": (mean / np.linalg.norm(mean)).astype(np.float16), "aesthetics": score}
