"""What training data is made of: the settings of the stream, and one batch of it.

A size and a length in frames form a bucket, and a step sees one bucket only. Everything random about an item follows
from (seed, clip_id, epoch). Settings are checked when they are made, so that no mistake is found hours later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import torch
import tyro

from posegen.dataset import OPTIONAL_SCORES, SCORES
from training.data.augment import PoseAugmentation

PIXELS_A_TOKEN = 16
"""Sides must be multiples of this: 8 pixels a latent, 2 latents a patch."""

Range = tuple[float | None, float | None]
"""Lowest and highest value that is let through; None is no limit."""


class Bucket(NamedTuple):
    """Clips that are trained on together: a picture size in pixels and a length in frames, 4k + 1."""

    width: int
    height: int
    frames: int


@dataclass(frozen=True)
class DataConfig:
    """The clips, and what is made of them."""

    dataset: str
    """Folder of curated tables (clips/, media/): local, s3:// or gs://."""
    model: str
    """Folder with vae, text_encoder, tokenizer and, where the model has one, image_encoder and image_processor."""
    dataset_versions: Mapping[str, int] = field(default_factory=dict)
    """Datasets -> number of the version, as in their folder versions/; by default the newest as a training begins."""
    new_versions: bool = False
    """Go on with the newest versions from the next epoch's beginning, instead of with those the training is on."""
    later_versions: Annotated[tuple[tuple[int, Mapping[str, int]], ...], tyro.conf.Suppress] = ()
    """The steps before it and the versions of each part of the run after its first, as the program found them."""
    mix: Mapping[str, float] = field(default_factory=dict)
    """Further datasets -> how often an epoch shows each of their clips: 2 twice, 0.5 half of them."""
    sizes: tuple[tuple[int, int], ...] = ((64, 96),)
    """(width, height) of the buckets; a clip goes to the one nearest in aspect."""
    frames: tuple[int, ...] = (17,)
    """Lengths of the buckets, 4k + 1; a clip goes to the longest that it fills."""
    rate: float = 12.0
    """Frames a second that the model sees."""
    scores: Mapping[str, Range] = field(default_factory=dict)
    """Of kept clips only those with these scores are used: name in `posegen.dataset.SCORES` -> (low, high)."""
    batch_size: int = 8
    """Items of a step, over all workers."""
    adapter: Literal["base", "cond"] = "base"
    """Which adapter is trained: base has no given frames, cond has some at both ends."""
    given_head: tuple[int, int] = (21, 21)
    """Least and most given first frames of cond; every 4a + 1 between is drawn equally often."""
    given_tail: tuple[int, int] = (20, 20)
    """Least and most given last frames of cond; every 4b between."""
    augmentation: PoseAugmentation = field(default_factory=PoseAugmentation)
    drop_text: float = 0.1
    """Share of items with the empty prompt."""
    drop_pose: float = 0.05
    """Share of items whose pose video is black."""
    drop_reference: float = 0.05
    """Share of items whose reference latents and image features are zero."""
    spans: int = 4
    """Most spans that are taken from a clip, evenly spread; each epoch takes one of them."""
    references: int = 4
    """Reference pictures of each span; each epoch takes one of them."""
    pose_oversampling: int = 1
    """How many times as large poses are drawn before they are shrunk: the model folder's `pose_oversampling`."""
    hands: bool = False
    """Whether the model has hand patches. Curated tables hold no hand pictures: their latents are those of black."""
    cache: str | None = None
    """Folder of index/, latents/ and text/, which trainings may share; None for the dataset's own."""
    cache_gb: float = 200.0
    """Most that latents and texts in it take; those not needed for longest leave first."""
    window: int = 8
    """Steps that are encoded ahead."""
    encode_workers: int = 0
    """Ray actors that encode for all training workers; 0 encodes in the training's own processes."""
    encode_cpus: float = 1.0
    """CPU cores of each of them."""
    encode_gpus: float = 0.0
    """GPUs of each of them."""
    text_gpus: float = 0.0
    """GPUs of the one more actor that encodes captions, where there are encode_workers."""
    validation_clips: int = 0
    """Clips kept for validation; no other clip of their videos is trained on either."""
    seed: int = 0
    """Of the order of the clips, and of everything random about an item."""

    def __post_init__(self) -> None:
        """Raise ValueError, a sentence, for settings that cannot work together."""
        if not self.sizes or any(side % PIXELS_A_TOKEN or side <= 0 for size in self.sizes for side in size):
            raise ValueError(f"sizes {self.sizes}: give sides in multiples of {PIXELS_A_TOKEN} pixels.")
        if not self.frames or any(frames % 4 != 1 for frames in self.frames):
            raise ValueError(f"frames {self.frames}: give lengths of 4k + 1, such as 17 or 81.")
        known = [*SCORES, *OPTIONAL_SCORES]
        if unknown := set(self.scores) - set(known):
            raise ValueError(f"scores {sorted(unknown)} are unknown; take some of {', '.join(known)}.")
        if min(self.batch_size, self.spans, self.references, self.window) < 1 or self.rate <= 0:
            raise ValueError("batch_size, spans, references, window and rate must be above zero.")
        if self.cache_gb <= 0:
            raise ValueError(f"cache_gb {self.cache_gb}: give gigabytes above zero.")
        if self.dataset in self.mix or any(repeats <= 0 for repeats in self.mix.values()):
            raise ValueError("mix: name datasets beside the first one, with numbers above zero.")
        for name in ("drop_text", "drop_pose", "drop_reference"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: give a share from 0 to 1.")
        for frames in self.frames:
            if self.adapter == "cond" and not self.given_lengths(frames):
                raise ValueError(
                    f"given_head {self.given_head} and given_tail {self.given_tail} leave nothing to make of "
                    f"{frames} frames: allow a head of 4a + 1 and a tail of 4b that leave 4 frames or more."
                )

    @property
    def cache_folder(self) -> str:
        return self.cache or self.dataset

    @property
    def datasets(self) -> dict[str, float]:
        """All datasets, with how often an epoch shows each clip."""
        return {self.dataset: 1.0, **self.mix}

    @property
    def device(self) -> str:
        """What encoders compute on."""
        return "cuda" if self.encode_gpus > 0 else "cpu"

    def given_lengths(self, frames: int) -> list[tuple[int, int]]:
        """The (head, tail) that may be given of so many frames; those of base are (0, 0)."""
        if self.adapter == "base":
            return [(0, 0)]
        heads = [head for head in range(self.given_head[0], self.given_head[1] + 1) if head % 4 == 1]
        tails = [tail for tail in range(self.given_tail[0], self.given_tail[1] + 1) if tail % 4 == 0]
        return [(head, tail) for head in heads for tail in tails if head + tail <= frames - 4]


@dataclass
class Batch:
    """Items of one step and one bucket, float32 on the CPU; z channels of latents, f = (frames - 1) / 4 + 1.

    keys: (clip_id, epoch) of each item, no two alike in a run: noise and timestep are to be drawn from them. clip_ids:
    of the clips that are shown, which are others where a clip could not be used. replaced: a sentence for each such.
    """

    keys: list[tuple[str, int]]
    clip_ids: list[str]
    replaced: list[str]
    latents: torch.Tensor  # (b, z, f, h, w)
    reference_latents: torch.Tensor  # (b, z, 1, h, w)
    pose_latents: torch.Tensor  # (b, 4 + z, f, h, w): frame mask, latents of drawn poses and given frames
    hand_latents: torch.Tensor | None  # (b, z, f, h, w)
    text: torch.Tensor  # (b, tokens, text_dim)
    image: torch.Tensor | None  # (b, tokens, image_dim)
    person: torch.Tensor  # (b, 1, f, h, w): 1 where the person is in any of a latent's pixels, else 0
    encode_seconds: float
    """What making it took, in whichever process."""

    @property
    def epoch(self) -> int:
        """The latest epoch among the items."""
        return max(epoch for _, epoch in self.keys)
