"""A puppet that moves in a scene: the picture sequence with its exact truth, and the picture of who it is.

Keypoints, silhouette and background belong to a frame exactly, as they are what it was made of; nothing
of the person, not even a shadow, falls outside the silhouette's soft rim.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mini_model.puppets.calm import standing_in_the_middle, standing_like
from mini_model.puppets.draw import draw
from mini_model.puppets.motions import SIZE
from mini_model.puppets.people import Puppet
from mini_model.puppets.scenes import Scene


@dataclass(frozen=True)
class PuppetClip:
    """frames, background (T, H, W, 3) uint8 RGB; silhouettes (T, H, W) bool, true where the person covers at least half
    of the pixel; keypoints (T, 133, 3) float32; caption: a sentence with exactly one subject word."""

    frames: np.ndarray
    silhouettes: np.ndarray
    keypoints: np.ndarray
    background: np.ndarray
    caption: str


def render(
    puppet: Puppet,
    scene: Scene,
    keypoints: np.ndarray,
    size: tuple[int, int] = SIZE,
    rate: float = 12.0,
    action: str = "moves",
) -> PuppetClip:
    """The clip of a puppet in a scene in the poses (T, 133, 3) of a picture of size (width, height).

    Every point's place must be finite, whatever its confidence: it is drawn where it is; raises ValueError otherwise.
    rate: frames a second, for the camera; action: the caption's verb, as in `motions.ACTIONS`.
    """
    if not np.isfinite(keypoints[..., :2]).all():
        raise ValueError("a puppet cannot be drawn at keypoints that are not finite; fill them first")
    background = scene.backgrounds(len(keypoints), size, rate)
    person = draw(puppet, keypoints, size)
    caption = f"{puppet.description} {action} {scene.description}."
    return PuppetClip(
        frames=over(person, background),
        silhouettes=person[..., 3] > 127,
        keypoints=keypoints.astype(np.float32),
        background=background,
        caption=caption[0].upper() + caption[1:],
    )


def reference(
    puppet: Puppet,
    scene: Scene,
    seed: int,
    size: tuple[int, int] = SIZE,
    like: np.ndarray | None = None,
) -> np.ndarray:
    """One picture (H, W, 3) uint8 of who: the puppet standing calmly in the scene, seen from the front.

    like: poses (133, 3) or (T, 133, 3), as those of the clip, whose scale and ground the picture takes over; without
    them the puppet stands in the middle, from head to foot.
    """
    pose = standing_in_the_middle(seed, size) if like is None else standing_like(seed, like)
    background = scene.backgrounds(1, size)
    return over(draw(puppet, pose[None], size), background)[0]


def over(person: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The person (T, H, W, 4), colours times opacity, over the background (T, H, W, 3)."""
    rest = 255 - person[..., 3:]
    behind = cv2.multiply(background, np.broadcast_to(rest, background.shape).copy(), scale=1 / 255)
    return cv2.add(behind, np.ascontiguousarray(person[..., :3]))
