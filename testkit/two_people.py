"""Made videos of two people: real ones, each filmed alone, side by side in one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.sample_videos import SAMPLES
from posegen.common.weights import wheel_file
from posegen.video import probe, read_frames, save_video


def sample(name: str, size: tuple[int, int], frames: int) -> np.ndarray:
    """The first frames of a sample video at a size (width, height), (N, H, W, 3) uint8."""
    info = probe(wheel_file(*SAMPLES[name]))
    return np.concatenate(list(read_frames(info, range(min(frames, len(info.frame_times))), size)))


def write_talkers(path: Path, frames: int = 100) -> Path:
    """Two men who sit beside each other and talk, 1280 x 360, 30 frames/s; a wall between them."""
    talk = sample("talk.mp4", (480, 360), frames)
    wall = np.full((len(talk), 360, 320, 3), 120, np.uint8)
    save_video(np.concatenate([talk, wall, talk[::-1, :, ::-1]], axis=2), path, 30)
    return path


def write_walker(path: Path, frames: int = 160) -> Path:
    """A woman who walks across the picture while a man beside her keeps his balance, 2060 x 514, 30 frames/s."""
    walk = sample("walk.mp4", (1768, 994), frames)[:, 480:]  # above it another person sits on a roof
    balance = sample("balance_3.mp4", (292, 514), frames)
    balance = np.concatenate([balance, balance[::-1]])[: len(walk)]
    save_video(np.concatenate([walk, balance], axis=2), path, 30)
    return path
