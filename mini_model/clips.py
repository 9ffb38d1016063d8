"""Puppet clips to pretrain on: drawn once, kept as small pictures, read whole.

Clip i is made from seed i and nothing else, in files of a hundred, so that drawing can be stopped and
gone on with, and be spread over processes. Seeds from FIRST_VALIDATION_SEED on are for validation, in no training.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mini_model.puppets import ACTIONS, Puppet, Scene, calm_start, kind_of, motion, render

SIZE = (64, 96)
RATE = 12.0
FRAMES = 33
CALM = 9
"""Frames at the start in which a person stands and moves over into the motion."""
FIRST_VALIDATION_SEED = 1_000_000
VALIDATION_CLIPS = 100
CLIPS_A_FILE = 100


@dataclass(frozen=True)
class ClipsConfig:
    """Draw the puppet clips."""

    folder: Path = Path("build/mini")
    """Where everything lies."""
    clips: int = 4000
    """How many clips to train on, in hundreds; a hundred more are for validation."""
    size: tuple[int, int] = SIZE
    """Width and height in pixels."""
    threads: int = 2
    """Processes that draw."""


def write_clips(config: ClipsConfig) -> None:
    """Draws the clips that are not there yet."""
    folder = clips_folder(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    firsts = [FIRST_VALIDATION_SEED, *range(0, config.clips, CLIPS_A_FILE)]
    missing = [first for first in firsts if not _file(folder, first).exists()]
    start = time.monotonic()
    with ProcessPoolExecutor(config.threads) as pool:
        files = [pool.submit(_write_file, folder, first, config.size) for first in missing]
        for done, file in enumerate(as_completed(files), 1):
            file.result()
            left = (time.monotonic() - start) / done * (len(files) - done)
            print(
                f"data {done}/{len(files)} files of {CLIPS_A_FILE} clips, {left / 60:.1f} min left",
                flush=True,
            )


def read_clips(folder: Path, validation: bool = False) -> tuple[Tensor, list[str]]:
    """Frames (N, 3, FRAMES, H, W) uint8 and captions, of the validation clips or of all others."""
    first = _file(clips_folder(folder), FIRST_VALIDATION_SEED)
    files = [first] if validation else sorted(set(clips_folder(folder).glob("*.npz")) - {first})
    if not files or not files[0].exists():
        raise FileNotFoundError(f"No clips in {folder}; draw them with: python mini_model/pretrain.py data")
    frames, captions = [], []
    for file in files:
        with np.load(file) as clips:
            frames.append(torch.from_numpy(clips["frames"]).movedim(-1, 1).contiguous())
            captions += clips["captions"].tolist()
    return torch.cat(frames), captions


def to_unit(frames: Tensor) -> Tensor:
    """0..255 -> -1..1."""
    return frames.float() / 127.5 - 1


def clips_folder(folder: Path) -> Path:
    return folder / "clips"


def _file(folder: Path, first: int) -> Path:
    return folder / f"{first:07d}.npz"


def _write_file(folder: Path, first: int, size: tuple[int, int]) -> None:
    clips = [draw_clip(seed, size) for seed in range(first, first + CLIPS_A_FILE)]
    frames, captions = zip(*clips, strict=True)
    part = _file(folder, first).with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, frames=np.stack(frames), captions=np.array(captions))
    part.rename(_file(folder, first))


def draw_clip(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, str]:
    """Frames (FRAMES, H, W, 3) uint8 of the seed's puppet, scene and motion, and their caption."""
    keypoints = calm_start(motion(seed, FRAMES, rate=RATE, size=size), CALM, seed, size)
    clip = render(Puppet.sample(seed), Scene.sample(seed), keypoints, size, RATE, ACTIONS[kind_of(seed)])
    return clip.frames, clip.caption
