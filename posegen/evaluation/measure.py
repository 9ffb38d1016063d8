"""The figures of one video: curves over its seconds, its seams, its unseen background, and what could not be measured.

A video is read a second at a time, so memory does not grow with its length. What a figure needs and is not there, such
as the true video, leaves the figure out and is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import pyarrow as pa

from posegen.driving.drawing import foreground_mask
from posegen.driving.main_person import follow
from posegen.driving.poses import Person, PoseEstimator
from posegen.driving.skeleton import pose_distance
from posegen.evaluation.background import Backgrounds, background_error, grown
from posegen.evaluation.faces import FaceDistance
from posegen.evaluation.fidelity import WINDOW, psnr, ssim
from posegen.evaluation.identity import PLACES, identity_error, mean_of_parts, part_colours, part_distances
from posegen.evaluation.perceptual import LEAST_SIDE, PerceptualDistance
from posegen.evaluation.pose import pose_figures
from posegen.evaluation.seams import SeamFigure, matched_places, overlaps, seam_figures
from posegen.evaluation.silhouettes import find_person, iou
from posegen.evaluation.statistics import last_over_first, slope_per_minute
from posegen.longvideo.job import Frames
from posegen.longvideo.segments import Segment

METRICS = {
    "identity": "identity error to the reference picture, Lab",
    **{f"identity_{part}": f"identity error, {part} alone, Lab" for part in PLACES},
    "identity_truth": "identity error to the true video, Lab",
    "face": "distance of the face to the reference's",
    "background": "background error to the reference picture, Lab",
    "background_first": "background error to the first frame, Lab",
    "background_truth": "background error to the true video, Lab",
    "silhouette_iou": "silhouette IoU",
    "oks_body": "OKS of body and feet",
    "oks_hands": "OKS of the hands",
    "pck_body": "PCK at 0.2 of the torso, body and feet",
    "pck_hands": "PCK at 0.2 of the torso, hands",
    "joint_error": "joint error, shares of standing height",
    "missed": "share of frames in which nobody is found",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "perceptual": "ST-LPIPS (AlexNet)",
    "pose_distance": "distance of the pose to the reference's",
}
"""Curves, by name; the last is of what was asked for, not of what was made."""
JUDGED_HEIGHT = 384
"""Pixels that a frame has at least where a pose estimator looks at it."""
UNSEEN = "unseen_background"
MEASUREMENTS = pa.schema(
    [
        ("video", pa.string()),
        ("metric", pa.string()),
        ("start", pa.float64()),
        ("stop", pa.float64()),
        ("value", pa.float64()),
        ("inside", pa.float64()),
    ]
)
"""One measurement a row: of a span of seconds or, at a seam, of a frame, with what matched places inside segments have.
Of a whole video the span is all of it."""


@dataclass(frozen=True, eq=False)
class Silhouettes:
    """Where the person truly is: masks, T frames, white there; and what tells them from the place in the video.

    background: (H, W, 3) uint8, what the video would show without them; colours: those of `person_colours`.
    """

    masks: Frames
    background: np.ndarray
    colours: np.ndarray


@dataclass(frozen=True, eq=False)
class Subject:
    """A video and all that is known of what it should be.

    video: T frames or more, at `rate` a second. reference: (H, W, 3) uint8, the picture at the video's size;
    reference_pose: (133, 3), of its person. keypoints: (T, 133, 3), the poses asked for, in pixels of the video.
    segments: what it was made of, none where it is not known or only one. truth: T frames.
    """

    name: str
    video: Frames
    rate: float
    reference: np.ndarray
    reference_pose: np.ndarray
    keypoints: np.ndarray
    segments: Sequence[Segment] = ()
    truth: Frames | None = None
    silhouettes: Silhouettes | None = None

    def __post_init__(self) -> None:
        if len(self.video) < len(self.keypoints):
            raise ValueError(
                f"{self.name}: the video has {len(self.video)} frames at {self.rate:g} frames/s and the driving poses "
                f"{len(self.keypoints)}; give the driving video that it was made with."
            )

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.reference.shape[1], self.reference.shape[0]

    def seconds(self) -> Iterator[np.ndarray]:
        """The numbers of the frames of each second."""
        numbers = np.arange(len(self.keypoints))
        second = np.floor(numbers / self.rate + 1e-9).astype(int)
        for at in range(second[-1] + 1):
            yield numbers[second == at]


@dataclass(frozen=True)
class Instruments:
    """The networks that measure, each optional: an estimator of poses, a perceptual distance, a distance of faces."""

    judge: PoseEstimator | None = None
    perceptual: PerceptualDistance | None = None
    faces: FaceDistance | None = None


@dataclass(frozen=True, eq=False)
class Measured:
    """What was found. curves: by name (S,) values of seconds, NaN where there was nothing to measure.

    unseen: how much the segments' backgrounds disagree where the reference's person hides it, Lab. absent: sentences on
    what was not measured and why.
    """

    name: str
    frames: int
    rate: float
    curves: dict[str, np.ndarray]
    seams: list[SeamFigure] = field(default_factory=list)
    unseen: float = float("nan")
    absent: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """One number a figure: of curves their mean, slope a minute and last 10 s over first 10 s; of seams ratios."""
        found: dict[str, float] = {}
        for name, values in self.curves.items():
            if not np.isnan(values).all():
                found[name] = float(np.nanmean(values))
                found[f"{name}_slope"] = slope_per_minute(values)
                found[f"{name}_last_over_first"] = last_over_first(values)
        found |= {f"seam_{seam.name}_{seam.where}": seam.ratio for seam in self.seams}
        return found | {UNSEEN: self.unseen}

    def table(self) -> pa.Table:
        """Every measurement, a table `MEASUREMENTS`."""
        length, rows = self.frames / self.rate, []
        for name, values in self.curves.items():
            for second, value in enumerate(values.tolist()):
                rows.append((name, float(second), min(second + 1, length), value, None))
        for seam in self.seams:
            for frame, (value, inside) in zip(seam.frames, seam.pairs.tolist(), strict=True):
                at = frame / self.rate
                rows.append((f"seam_{seam.name}_{seam.where}", at, at, value, inside))
        rows.append((UNSEEN, 0.0, length, self.unseen, None))
        columns = [list(column) for column in zip(*((self.name, *row) for row in rows), strict=True)]
        return pa.table(columns, MEASUREMENTS)


def measure(subject: Subject, instruments: Instruments = Instruments()) -> Measured:
    """All figures of a video; raises VideoError where it cannot be read."""
    absent = list(_absent(subject, instruments))
    hidden = foreground_mask(subject.reference_pose, subject.size)
    look = _Look(subject, instruments, hidden)
    rows = [look.at(numbers) for numbers in subject.seconds()]
    if instruments.judge is not None:
        rows = [row | figures for row, figures in zip(rows, look.judged(), strict=True)]
    curves = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    curves["identity"] = mean_of_parts([curves[f"identity_{part}"] for part in PLACES])
    return Measured(
        subject.name,
        len(subject.keypoints),
        subject.rate,
        {name: curves[name] for name in METRICS if name in curves},
        seam_figures(subject.video, matched_places(subject.keypoints, subject.segments)),
        look.backgrounds.disagreement(hidden),
        absent,
    )


def _absent(subject: Subject, instruments: Instruments) -> Iterator[str]:
    if not overlaps(subject.segments, len(subject.keypoints)):
        yield "Seams were not measured: it is not known where segments meet, or there is only one."
    if subject.truth is None:
        yield "PSNR, SSIM and perceptual distance were not measured: there is no true video."
    elif instruments.perceptual is None:
        yield "The perceptual distance was not measured: its weights were not asked for, or could not be had."
    if subject.silhouettes is None:
        yield "The silhouette IoU was not measured: it is not known where the person truly is."
    if instruments.judge is None:
        yield "OKS, PCK and joint error were not measured: there is no pose estimator to judge by."
    if instruments.faces is None:
        yield "Faces were not compared: that takes the packages of `pip install 'posegen[faces]'`."


class _Look:
    """Measures second after second of a video."""

    def __init__(self, subject: Subject, instruments: Instruments, hidden: np.ndarray) -> None:
        self.subject, self.instruments = subject, instruments
        self.backgrounds = Backgrounds()
        self.hidden = grown(hidden)
        self.first = subject.video[np.zeros(1, int)][0]
        self.first_person = grown(foreground_mask(subject.keypoints[0], subject.size))
        self.wanted = part_colours(subject.reference[None], subject.reference_pose[None], self.hidden[None])
        self.people: list[list[Person]] = []  # that the judge sees, frame by frame
        self.enlarged = max(1.0, JUDGED_HEIGHT / subject.size[1])
        self.face = None
        if instruments.faces:
            self.face = instruments.faces.embedding(subject.reference, subject.reference_pose)
        if instruments.judge:
            instruments.judge.reset()

    def at(self, numbers: np.ndarray) -> dict[str, float]:
        """The figures of a second's frames."""
        subject, poses = self.subject, self.subject.keypoints[numbers]
        frames = subject.video[numbers]
        person = np.stack([foreground_mask(pose, subject.size) for pose in poses])
        around = person
        if subject.silhouettes is not None:
            masks = subject.silhouettes.masks[numbers][..., 0] > 127
            around = person | masks
        around = grown(around)
        self._gather(numbers, frames, around)
        found = {
            "background": background_error(frames, around, subject.reference, self.hidden),
            "background_first": background_error(frames, around, self.first, self.first_person),
            "pose_distance": pose_distance(poses, subject.reference_pose),
        }
        there = part_distances(part_colours(frames, poses, around), self.wanted)
        found |= {f"identity_{part}": np.array([there.get(part, np.nan)]) for part in PLACES}
        if subject.truth is not None:
            found |= self._fidelity(frames, subject.truth[numbers], poses, person, around)
        if subject.silhouettes is not None:
            seen = find_person(frames, subject.silhouettes.background, subject.silhouettes.colours)
            found["silhouette_iou"] = np.array([iou(seen, masks)])
        if self.instruments.judge is not None:
            width, height = (round(self.enlarged * side) for side in subject.size)
            shown = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in frames]
            self.people += self.instruments.judge(np.stack(shown))
        if self.instruments.faces is not None and self.face is not None:
            middle = len(numbers) // 2
            other = self.instruments.faces.embedding(frames[middle], poses[middle])
            found["face"] = np.array([np.nan if other is None else np.linalg.norm(other - self.face)])
        return {name: _mean(values) for name, values in found.items()}

    def judged(self) -> Iterator[dict[str, float]]:
        """The figures of each second's poses: those of the main person among all whom the judge saw."""
        height = self.enlarged * self.subject.size[1]
        seen = follow(self.people, round(self.subject.rate), height) / np.array([self.enlarged] * 2 + [1])
        for numbers in self.subject.seconds():
            figures = pose_figures(seen[numbers], self.subject.keypoints[numbers])
            yield {name: _mean(values) for name, values in figures.items()}

    def _gather(self, numbers: np.ndarray, frames: np.ndarray, around: np.ndarray) -> None:
        """The background of each segment, of frames that no other one shares; of seconds where none are known."""
        groups = np.full(len(numbers), numbers[0] // max(1, round(self.subject.rate)))
        if len(self.subject.segments) > 1:
            covering = [
                (numbers >= segment.start) & (numbers < segment.start + segment.frames)
                for segment in self.subject.segments
            ]
            groups = np.where(np.sum(covering, axis=0) == 1, np.argmax(covering, axis=0), -1)
        for group in np.unique(groups[groups >= 0]):
            of = groups == group
            self.backgrounds.add(int(group), frames[of], around[of])

    def _fidelity(
        self, frames: np.ndarray, truth: np.ndarray, poses: np.ndarray, person: np.ndarray, around: np.ndarray
    ) -> dict[str, np.ndarray]:
        middle = slice(len(frames) // 2, len(frames) // 2 + 1)  # what is dear is looked at once a second
        found = {
            "identity_truth": np.array([identity_error(frames, truth, poses, person)]),
            "background_truth": background_error(frames, around, truth),
            "psnr": np.array([psnr(frames, truth)]),
        }
        side = min(self.subject.size)
        if side >= WINDOW:
            found["ssim"] = np.array([ssim(frames[middle][0], truth[middle][0])])
        if self.instruments.perceptual is not None and side >= LEAST_SIDE:
            found["perceptual"] = self.instruments.perceptual(frames[middle], truth[middle])
        return found


def _mean(values: np.ndarray) -> float:
    """The mean of what could be measured, NaN where nothing could."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")
