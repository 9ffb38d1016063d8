"""Whole-body pose estimators behind one signature: frames in, people with 133 keypoints out.

An estimator is called with consecutive frames of one video and may track; `reset` begins another video. Estimators are
loaded by name, and only then import their runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from posegen.driving.poses.runtime import OpenModel


@dataclass
class Person:
    """One person in one frame.

    box: (4,) float32 x0, y0, x1, y1 in pixels of the frame. score: 0..1.
    keypoints: (133, 3) float32 x, y in pixels of the frame and confidence 0..1, in COCO-WholeBody order: 17 body,
    6 feet, 68 face, 21 left hand, 21 right hand (left and right are the person's own).
    track_id: the same number for as long as an estimator follows the person from frame to frame, another one for
    each person found anew; -1 from an estimator that does not track.
    """

    box: np.ndarray
    score: float
    keypoints: np.ndarray
    track_id: int = -1


class PoseEstimator(Protocol):
    """Finds people in the frames of a video."""

    def __call__(self, frames: np.ndarray) -> list[list[Person]]:
        """People of each frame, best first; frames (N, H, W, 3) uint8 RGB that continue the same video."""

    def reset(self) -> None:
        """A new video begins: forget all people."""


def load_estimator(
    name: str, weights: str | Path | None = None, open_model: OpenModel | None = None, **options: Any
) -> PoseEstimator:
    """The estimator called "blazepose", "dwpose" or "sapiens", with that class' options.

    weights: folder or hub repository of dwpose's or sapiens'; by default those of the hub. open_model: where their
    networks run, by default on the CPU, as blazepose's do in any case. Raises ValueError for another name or for
    weights that blazepose has no use for, and posegen.common.weights.WeightsError where weights cannot be had.
    """
    if name == "blazepose":
        if weights is not None:
            raise ValueError(
                f"blazepose brings its own weights: leave {weights} out, or choose dwpose or sapiens."
            )
        from posegen.driving.poses.blazepose import BlazePose

        return BlazePose(**options)
    if open_model is not None:
        options["open_model"] = open_model
    if name == "dwpose":
        from posegen.driving.poses.dwpose import DWPose

        return DWPose(weights=weights, **options)
    if name == "sapiens":
        from posegen.driving.poses.sapiens import Sapiens

        return Sapiens(weights=weights, **options)
    raise ValueError(f"There is no pose estimator {name!r}: choose blazepose, dwpose or sapiens.")
