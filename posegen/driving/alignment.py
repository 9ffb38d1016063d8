"""Where a picture or a person lands in the target picture: a scale and a shift, the same for pixels and keypoints.

Nothing is rotated or sheared: a driving video that is tilted stays so. Pixel centres have whole coordinates. The scale
between two people is that of their standing heights, which does not ask them to stand alike; then the middles of their
torsos are laid on each other, shot by shot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as functional

from posegen.driving.skeleton import BODY, FEET, KEYPOINT_INDEX, VISIBLE, standing_height

Fit = Literal["crop", "pad"]

STAYS = 5
"""Frames before and after a cut in which the person stays where they are."""
JUMP = 0.3
"""Standing heights that joints move from one frame to the next at a cut: 4.8 a second and more, at 16 frames/s."""

_TORSO = [KEYPOINT_INDEX[f"{side}_{joint}"] for side in ("left", "right") for joint in ("shoulder", "hip")]


@dataclass(frozen=True)
class Similarity:
    """Pixel (x, y) goes to `scale * (x, y) + shift`."""

    scale: float
    shift: tuple[float, float]

    def keypoints(self, keypoints: np.ndarray) -> np.ndarray:
        """The poses (..., 133, 3) float32 where they land."""
        moved = keypoints.astype(np.float32, copy=True)
        moved[..., :2] = moved[..., :2] * self.scale + np.array(self.shift, np.float32)
        return moved

    def pictures(self, pictures: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Pictures (N, H, W, 3) uint8 where they land in ones of `size` (width, height), on black."""
        smaller = min(1.0, self.scale)  # first and by areas, as sampling alone would leave pixels out
        reduced = max(1, round(pictures.shape[2] * smaller)), max(1, round(pictures.shape[1] * smaller))
        rest = self.scale / smaller
        across, down = (shift - rest * (smaller - 1) / 2 for shift in self.shift)
        matrix = np.array([[rest, 0, across], [0, rest, down]])
        return np.stack(
            [
                cv2.warpAffine(cv2.resize(picture, reduced, interpolation=cv2.INTER_AREA), matrix, size)
                for picture in pictures
            ]
        )

    def after(self, first: Similarity) -> Similarity:
        """Both in one, `first` before this."""
        across, down = (
            self.scale * early + late for early, late in zip(first.shift, self.shift, strict=True)
        )
        return Similarity(self.scale * first.scale, (across, down))


def fit(source: tuple[int, int], target: tuple[int, int], how: Fit = "crop") -> Similarity:
    """A picture of size `source` (width, height) centred in one of `target`: filling it, or (pad) wholly inside."""
    ratios = [wanted / there for wanted, there in zip(target, source, strict=True)]
    scale = max(ratios) if how == "crop" else min(ratios)
    across, down = (
        (scale - 1) / 2 + (wanted - scale * there) / 2 for wanted, there in zip(target, source, strict=True)
    )
    return Similarity(scale, (across, down))


def fit_picture(picture: np.ndarray, size: tuple[int, int], how: Fit = "crop") -> np.ndarray:
    """The picture (H, W, 3) uint8 as `fit` puts it into one of size (width, height), to a pixel; padded with black.

    Cropping is what the authors do to reference pictures and driving frames: the central box of the target's ratio,
    resized bilinearly with antialiasing. Raises ValueError for another shape or type.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"The picture is {picture.dtype} {picture.shape}; give uint8 (height, width, 3).")
    if how == "crop":
        left, top, width, height = _central_box((picture.shape[1], picture.shape[0]), size)
        return _resized(picture[top : top + height, left : left + width], size)
    width, height = _central_box(size, (picture.shape[1], picture.shape[0]))[2:]
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    padded = np.zeros((size[1], size[0], 3), np.uint8)
    padded[top : top + height, left : left + width] = _resized(picture, (width, height))
    return padded


def _central_box(outer: tuple[int, int], ratio: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, width and height of the largest box within `outer` (width, height) that has the sides' ratio."""
    width, height = outer
    wanted = ratio[0] / ratio[1]
    if width / height > wanted:
        width = max(1, round(height * wanted))
    elif width / height < wanted:
        height = max(1, round(width / wanted))
    return (outer[0] - width) // 2, (outer[1] - height) // 2, width, height


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    pixels = torch.tensor(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    pixels = functional.interpolate(pixels, size[::-1], mode="bilinear", antialias=True)
    return pixels.round()[0].permute(1, 2, 0).to(torch.uint8).contiguous().numpy()


@dataclass(frozen=True)
class Placed:
    """Where the frames [start, stop) of a driving video land."""

    start: int
    stop: int
    where: Similarity


def align(driving: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The driving poses (T, 133, 3) laid onto the person of a picture, (133, 3), each shot by its placement."""
    return moved(driving, placements(driving, reference))


def moved(driving: np.ndarray, placed: Sequence[Placed]) -> np.ndarray:
    """The poses (T, 133, 3) where they land."""
    return np.concatenate([span.where.keypoints(driving[span.start : span.stop]) for span in placed])


def placements(driving: np.ndarray, reference: np.ndarray) -> list[Placed]:
    """What lays the driving poses (T, 133, 3) onto the person of a picture, (133, 3): a placement for each shot.

    A shot's median height and pose decide, so a few wrong poses do not, and a close-up and a whole person come out
    alike in size. A shot that has nothing in common with the picture is laid as the one before it, or the one after.
    Raises ValueError where that holds for every shot.
    """
    spans = shots(driving)
    found = [placement(driving[start:stop], reference) for start, stop in spans]
    known = [place for place in found if place is not None]
    if not known:
        raise ValueError(
            "The person in the driving video cannot be laid onto the one in the picture, as no part of the body is "
            'seen in both: choose align="none", or another picture.'
        )
    last, placed = known[0], []
    for (start, stop), place in zip(spans, found, strict=True):
        last = place or last
        placed.append(Placed(start, stop, last))
    return placed


def placement(shot: np.ndarray, reference: np.ndarray) -> Similarity | None:
    """What lays poses (T, 133, 3) onto that of a picture; None without a limb and a joint that are visible in both."""
    typical = _typical(shot)
    joints = _shared_joints(typical, reference)
    heights = [height for pose in shot if (height := standing_height(pose))]
    wanted = standing_height(reference)
    if not joints or not heights or not wanted:
        return None
    # Not the height of the median pose: limbs that swing are short in it.
    scale = wanted / float(np.median(heights))
    shift = reference[joints, :2].mean(axis=0) - scale * typical[joints, :2].mean(axis=0)
    return Similarity(scale, (float(shift[0]), float(shift[1])))


def lay_torso(driving: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Poses (T, 133, 3), moved so that their typical torso lies on the picture's, as `align` does, but not scaled."""
    typical = _typical(driving)
    joints = _shared_joints(typical, reference)
    shift = (reference[joints, :2] - typical[joints, :2]).mean(axis=0)
    return Similarity(1.0, (float(shift[0]), float(shift[1]))).keypoints(driving)


def _shared_joints(pose: np.ndarray, reference: np.ndarray) -> list[int]:
    """What is seen in both poses (133, 3): of the torso or, if that is not, of the body."""
    shared = (pose[:, 2] >= VISIBLE) & (reference[:, 2] >= VISIBLE)
    return [joint for joint in _TORSO if shared[joint]] or np.flatnonzero(shared[: FEET.stop]).tolist()


def shots(poses: np.ndarray) -> list[tuple[int, int]]:
    """Spans [start, stop) of poses (T, 133, 3) between cuts, where the person jumps and stays there.

    A jump is a step of the body's joints, in their median, by `JUMP` standing heights or more, which the typical poses
    of `STAYS` frames before and after show as well: no one moves so fast, and a single wrong pose does not stay.
    """
    cuts: list[int] = []
    for frame in range(STAYS, len(poses) - STAYS + 1):
        if frame - (cuts[-1] if cuts else 0) < STAYS or not _jumps(poses[frame - 1], poses[frame]):
            continue
        if _jumps(_typical(poses[frame - STAYS : frame]), _typical(poses[frame : frame + STAYS])):
            cuts.append(frame)
    return list(zip([0, *cuts], [*cuts, len(poses)], strict=True))


def _jumps(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether two poses (133, 3) cannot follow each other in one shot."""
    shared = ((before[:, 2] >= VISIBLE) & (after[:, 2] >= VISIBLE))[BODY]
    height = min(standing_height(before), standing_height(after))
    if not shared.any() or not height:
        return False
    steps = np.linalg.norm(after[BODY, :2] - before[BODY, :2], axis=1)[shared]
    return bool(np.median(steps) >= JUMP * height)


def outside(keypoints: np.ndarray, size: tuple[int, int]) -> float:
    """Share of poses (T, 133, 3) of which most visible body joints lie outside a picture of (width, height), 0..1."""
    body = keypoints[:, BODY]
    visible = body[..., 2] >= VISIBLE
    off = ((body[..., :2] < 0) | (body[..., :2] >= size)).any(axis=-1) & visible
    return float(np.mean(off.sum(axis=1) * 2 > visible.sum(axis=1)))


def _typical(poses: np.ndarray) -> np.ndarray:
    """The median pose (133, 3) of poses (T, 133, 3), each point over those in which it is visible."""
    visible = poses[..., 2] >= VISIBLE
    points = np.where(visible[..., None], poses[..., :2], np.nan)
    typical = np.zeros(poses.shape[1:], np.float32)
    seen = visible.any(axis=0)
    typical[seen, :2] = np.nanmedian(points[:, seen], axis=0)
    typical[:, 2] = np.where(visible, poses[..., 2], 0).max(axis=0)
    return typical
