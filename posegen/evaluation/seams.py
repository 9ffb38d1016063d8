"""Whether the places show at which segments meet: against places inside segments at which the person moves as much.

A seam is three places: where an overlap begins, its middle, and where it ends. Each is compared with the steps between
frames, outside every overlap, whose driving poses move most nearly as fast. So a seam that falls into a quick turn is
not blamed for the turn. The four frames of a latent are made together, and a step from one latent to the next shows
more than one within it, seam or not. Seams fall between latents as a rule, so each is compared with steps of its kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import cv2
import numpy as np

from posegen.driving.skeleton import BODY
from posegen.evaluation.colour import lab
from posegen.evaluation.statistics import paired_permutation_test
from posegen.longvideo.job import Frames
from posegen.longvideo.segments import Segment

Where = Literal["begin", "middle", "end"]
MATCHES = 3
"""Places inside segments that a place of a seam is compared with."""
LATENT = 4
"""Frames of each latent but a segment's first, which is one frame."""
REACH = 2
"""Frames from the middle of an overlap to those that ghosting is told by."""


@dataclass(frozen=True)
class Overlap:
    """Frames [start, stop) of a video that two segments share."""

    start: int
    stop: int

    def places(self) -> dict[Where, int]:
        """The frames t at whose step, from t - 1 to t, a seam may show."""
        return {"begin": self.start, "middle": (self.start + self.stop) // 2, "end": self.stop}


def overlaps(segments: Sequence[Segment], frames: int) -> list[Overlap]:
    """Where the segments of a plan meet in a video of so many frames; what lies past its end is left out."""
    ends = [segment.start + segment.frames for segment in segments]
    met = [Overlap(after.start, end) for after, end in zip(segments[1:], ends, strict=False)]
    return [overlap for overlap in met if overlap.stop < frames]


def pose_speed(keypoints: np.ndarray) -> np.ndarray:
    """How far the body's joints move at each step, (T - 1,) mean pixels from frame t to t + 1; poses (T, 133, 3)."""
    return np.linalg.norm(np.diff(keypoints[:, BODY, :2], axis=0), axis=-1).mean(axis=1)


@dataclass(frozen=True)
class Matched:
    """A place of a seam and the places inside segments that it is compared with, all frames t of steps t - 1 to t."""

    where: Where
    frame: int
    inside: tuple[int, ...]


def matched_places(keypoints: np.ndarray, segments: Sequence[Segment]) -> list[Matched]:
    """Every place of every seam with its matches, by the driving poses (T, 133, 3); none where no step is inside.

    Where no step inside is of a place's kind, it is compared with those of the other.
    """
    seams, speed = overlaps(segments, len(keypoints)), pose_speed(keypoints)
    inside = np.ones(len(speed), bool)  # [t - 1]: the step to frame t
    for seam in seams:
        inside[max(0, seam.start - 1) : seam.stop] = False
    inside[:REACH] = inside[len(inside) - REACH :] = False
    begins = latent_begins(segments, len(keypoints))[1:]
    found = []
    for seam in seams:
        for where, frame in seam.places().items():
            alike = inside & (begins == begins[frame - 1])
            steps = np.flatnonzero(alike if alike.any() else inside)
            nearest = np.argsort(np.abs(speed[steps] - speed[frame - 1]), kind="stable")[:MATCHES]
            if len(nearest):
                found.append(Matched(where, frame, tuple(int(step) + 1 for step in steps[nearest])))
    return found


def latent_begins(segments: Sequence[Segment], frames: int) -> np.ndarray:
    """Whether a latent of four frames begins at each frame, (T,) bool, in the segment that shows most there."""
    start = np.zeros(frames, int)
    for before, after in pairwise(segments):
        overlap = before.start + before.frames - after.start
        start[after.start + (overlap + 1) // 2 :] = after.start
    return (np.arange(frames) - start) % LATENT == 1


def step_figures(frames: np.ndarray) -> dict[str, float]:
    """What shows at a step, of 2 REACH + 1 consecutive frames (n, H, W, 3) uint8 whose middle is the step's later one.

    difference: mean change of a pixel, in grey levels. warp: what of it motion does not explain, the earlier frame
    being warped onto the later by dense optical flow. colour: Lab distance of the two frames' mean colours. ghosting:
    the share of its detail (mean gradient) that the later frame lacks beside those REACH frames before and after: two
    pictures laid over each other have less of it than either.
    """
    before, now = frames[REACH - 1], frames[REACH]
    detail = [_detail(frames[number]) for number in (0, REACH, 2 * REACH)]
    around = (detail[0] + detail[2]) / 2
    return {
        "difference": float(np.abs(now.astype(np.float32) - before).mean()),
        "warp": float(np.abs(now.astype(np.float32) - warped(before, now)).mean()),
        "colour": float(np.linalg.norm(lab(now).mean(axis=(0, 1)) - lab(before).mean(axis=(0, 1)))),
        "ghosting": max(0.0, 1 - detail[1] / around) if around else 0.0,
    }


def warped(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) uint8 moved to where its content is in the next one, by Farneback's optical flow."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (now, before)]
    still = np.zeros((*grey[0].shape, 2), np.float32)
    flow = cv2.calcOpticalFlowFarneback(grey[0], grey[1], still, 0.5, 3, 11, 3, 5, 1.1, 0)
    rows, columns = np.indices(flow.shape[:2], np.float32)
    return cv2.remap(
        before, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def _detail(frame: np.ndarray) -> float:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.abs(cv2.Sobel(grey, -1, 1, 0)).mean() + np.abs(cv2.Sobel(grey, -1, 0, 1)).mean())


FIGURES = {
    "difference": "frame difference, grey levels",
    "warp": "flow-warp error, grey levels",
    "colour": "colour jump, Lab",
    "ghosting": "ghosting, share of detail",
}


@dataclass(frozen=True)
class SeamFigure:
    """A figure at one kind of place: its mean at seams and at matched places inside segments, and p of the difference.

    frames: of each of the N places. pairs: (N, 2), each place's value and the mean of its matches.
    """

    where: Where
    name: str
    frames: tuple[int, ...]
    pairs: np.ndarray

    @property
    def ratio(self) -> float:
        """How many times as much shows at seams as inside segments; 1 is none at all."""
        seam, inside = self.pairs.mean(axis=0)
        return float(seam / inside) if inside > 0 else float("nan") if seam > 0 else 1.0

    @property
    def p(self) -> float:
        """By a paired permutation test."""
        return paired_permutation_test(*self.pairs.T)


def seam_figures(video: Frames, places: Sequence[Matched]) -> list[SeamFigure]:
    """All figures of a video's seams, by where and name; few frames of the video are read."""
    figures = {
        frame: step_figures(video[np.arange(frame - REACH, frame + REACH + 1).clip(0, len(video) - 1)])
        for frame in sorted({frame for place in places for frame in (place.frame, *place.inside)})
    }
    found = []
    for where in get_args(Where):
        here = [place for place in places if place.where == where]
        for name in FIGURES:
            pairs = [
                (figures[place.frame][name], np.mean([figures[frame][name] for frame in place.inside]))
                for place in here
            ]
            if pairs:
                found.append(SeamFigure(where, name, tuple(place.frame for place in here), np.array(pairs)))
    return found
