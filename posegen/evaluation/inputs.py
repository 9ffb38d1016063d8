"""The files of an evaluation -> its subject: a video, the picture and driving video it was made from, and any truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from posegen.driving.alignment import Fit, fit, fit_picture
from posegen.driving.driving_video import (
    Align,
    Driving,
    VideoFrames,
    picture_pose,
    place_on_picture,
    read_driving,
)
from posegen.driving.poses import PoseEstimator
from posegen.evaluation.measure import Silhouettes, Subject
from posegen.evaluation.silhouettes import person_colours
from posegen.longvideo.job import Frames
from posegen.longvideo.segments import plan
from posegen.video import VideoError, probe
from posegen.video.pictures import read_picture

DRIVER_HEIGHT = 480
"""Pixels to which a driving video is reduced where its own person's curves are measured."""
TOLERANCE_S = 1.0
"""By how much the lengths of the videos may differ; what is longer is cut."""


@dataclass(frozen=True)
class Inputs:
    """Files of an evaluation; a video of silhouettes, white on black, goes with a picture of the place without anybody.

    segments: the longest segment, head and tail that the video was made with, as in `posegen.longvideo.segments.plan`.
    """

    video: Path
    reference: Path
    driving: Path
    truth: Path | None = None
    silhouettes: Path | None = None
    background: Path | None = None
    segments: tuple[int, int, int] | None = None
    planner: Literal["fitted", "published"] = "fitted"
    align: Align = "reference"
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        if (self.silhouettes is None) != (self.background is None):
            raise ValueError(
                f"{self.video}: silhouettes need the picture of the background too, and the other way round; give both."
            )

    def load(self, estimator: PoseEstimator) -> tuple[Subject, Subject]:
        """What is to be measured, and the driving video as one of its own, whose curves are the best to be had.

        The driver's reference is its first frame. Raises ValueError or VideoError, a sentence.
        """
        info = probe(self.video)
        size, rate = (info.width, info.height), info.rate
        picture = read_picture(self.reference)
        driving = read_driving(self.driving, rate, estimator)
        keypoints = place_on_picture(driving, picture, size, rate, estimator, self.align, self.fit)
        pose = fit(picture.shape[1::-1], size, self.fit).keypoints(picture_pose(picture, estimator))
        video = VideoFrames(self.video, rate, size)
        truth = VideoFrames(self.truth, rate, size) if self.truth else None
        reference = fit_picture(picture, size, self.fit)
        silhouettes = self._silhouettes(rate, size, reference)
        others = {self.driving: len(keypoints)}
        others |= {self.truth: len(truth)} if self.truth and truth else {}
        others |= {self.silhouettes: len(silhouettes.masks)} if self.silhouettes and silhouettes else {}
        for path, length in others.items():
            if abs(length - len(video)) > TOLERANCE_S * rate:
                raise VideoError(
                    f"{path}: it is {length / rate:.1f} s long and {self.video} {len(video) / rate:.1f} s; give those "
                    "that belong together."
                )
        frames = min(len(video), *others.values())
        timeline = plan(frames, *self.segments, planner=self.planner) if self.segments else None
        subject = Subject(
            self.video.stem,
            video,
            rate,
            reference,
            pose,
            keypoints[:frames],
            timeline.segments if timeline else (),
            truth,
            silhouettes,
        )
        return subject, self._driver(driving, rate)

    def _silhouettes(self, rate: float, size: tuple[int, int], reference: np.ndarray) -> Silhouettes | None:
        if self.silhouettes is None or self.background is None:
            return None
        background = fit_picture(read_picture(self.background), size, self.fit)
        masks: Frames = VideoFrames(self.silhouettes, rate, size)
        return Silhouettes(masks, background, person_colours(reference, background))

    def _driver(self, driving: Driving, rate: float) -> Subject:
        scale = min(1.0, DRIVER_HEIGHT / driving.size[1])
        size = max(1, round(scale * driving.size[0])), max(1, round(scale * driving.size[1]))
        keypoints = driving.keypoints.copy()
        keypoints[..., :2] *= np.array(size) / driving.size
        video = VideoFrames(self.driving, rate, size)
        first = video[np.zeros(1, int)][0]
        return Subject("driver", video, rate, first, keypoints[0], keypoints)
