"""Puppets that move as people did: a clip with its exact truth from a motion-capture file.

`python -m mini_model.real_motion motion.bvh clip.mp4 --seconds 30` writes one as a video.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from mini_model.puppets import Puppet, PuppetClip, Scene, render, retarget
from mini_model.puppets.motions import SIZE
from posegen.driving.mocap import Camera, read_motion
from posegen.video import save_video


def motion_clip(
    path: str | Path,
    seconds: float,
    seed: int,
    size: tuple[int, int] = SIZE,
    rate: float = 12.0,
    camera: Camera | None = None,
) -> PuppetClip:
    """A puppet of a seed, in that seed's scene, in the motion of a BVH file, which goes on for so many seconds.

    The clip holds frames, keypoints, silhouettes and background of `seconds * rate` frames of size (width, height).
    camera: from where the motion is seen. Raises BvhError, a sentence.
    """
    driving = read_motion(path, rate, seconds, camera=camera)
    return render(
        Puppet.sample(seed), Scene.sample(seed), retarget(driving.keypoints, rate, rate, size), size, rate
    )


@dataclass(frozen=True)
class MotionClip:
    """Draw a puppet that moves as a motion-capture file says."""

    motion: tyro.conf.Positional[Path]
    """BVH file."""
    output: tyro.conf.Positional[Path]
    """The video to write."""
    seconds: float = 10.0
    """How long the motion goes on."""
    seed: int = 0
    """Of the puppet and the scene."""
    size: tuple[int, int] = SIZE
    """Width and height in pixels."""
    rate: float = 12.0
    """Frames/s."""


if __name__ == "__main__":
    asked = tyro.cli(MotionClip)
    made = motion_clip(asked.motion, asked.seconds, asked.seed, asked.size, asked.rate)
    save_video(made.frames, asked.output, asked.rate)
