"""Measures of a clip's picture and motion that need no network; each is a class that is fed one chunk after another.

Each looks at a few frames a second, picked by the clip's own clock, so almost all time goes to decoding and the pose
models, and it does not matter where chunks end. What cannot be measured is None, which passes no threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import cv2
import numpy as np

from posegen.driving.poses import Person
from posegen.driving.skeleton import BODY, VISIBLE, standing_height

People = list[list[Person]]  # of each frame, best first; the first one is the subject
SMALL_SIDE = 320  # long side, in pixels, of the small grey pictures


class Measure(Protocol):
    """One kind of score. frames (n, H, W, 3) uint8 RGB that continue the clip; times (n,) seconds in it."""

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None: ...
    def result(self) -> dict[str, Any]: ...


class Ticks:
    """Picks the first frame of each period of the clip's time."""

    def __init__(self, period: float) -> None:
        self.period, self.next = period, -np.inf

    def pick(self, times: np.ndarray) -> list[int]:
        """Positions in `times` of the frames to look at."""
        picked = []
        for index, time in enumerate(times.tolist()):
            if time >= self.next:
                picked.append(index)
                self.next = (np.floor(time / self.period + 1e-6) + 1) * self.period - 1e-6
        return picked


def thinned(frame: np.ndarray, step: int) -> np.ndarray:
    """Every so many rows and columns of a frame (H, W, 3) uint8, in one piece.

    Copied as pixels of three bytes, which takes NumPy half of the time that it takes over single values.
    """
    pixels = np.ascontiguousarray(frame).view("V3")[::step, ::step, 0]
    return pixels.copy()[..., None].view(np.uint8)


def small_grey(frame: np.ndarray) -> np.ndarray:
    """The frame as luma, uint8, its long side at most `SMALL_SIDE`.

    Large frames lose pixels between the rows and columns first, down to twice that side: a quarter of the time.
    """
    step = max(1, max(frame.shape[:2]) // (2 * SMALL_SIDE))
    frame = thinned(frame, step)
    scale = min(1.0, SMALL_SIDE / max(frame.shape[:2]))
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    return cv2.cvtColor(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)


def crop(frame: np.ndarray, box: np.ndarray, grow: float = 0.0) -> np.ndarray:
    """The part of the frame in a box x0, y0, x1, y1, grown by a share of its size on each side; may be
    empty."""
    margin = grow * (box[2:] - box[:2])
    x0, y0 = np.floor(np.maximum(box[:2] - margin, 0)).astype(int)
    x1, y1 = np.ceil(np.maximum(box[2:] + margin, 0)).astype(int)
    return frame[y0:y1, x0:x1]


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return float(np.mean(values)) if len(values) else None


class RepeatedFrames:
    """repeated_frames, 0..1: share of frames (after the first) that equal the one before, as in a frozen
    video; still_seconds: the longest time that they do so in a row.

    Equal: on a grid of pixels, fewer than one in a thousand values differ by more than 2 of 255.
    """

    def __init__(self) -> None:
        self.last: np.ndarray | None = None
        self.equal: list[bool] = []
        self.since, self.longest = (
            0.0,
            0.0,
        )  # when the picture last changed, and the longest time that it did not

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        step = max(1, frames.shape[1] // 64)
        for frame, time in zip(frames, times.tolist(), strict=True):
            grid = thinned(frame, step)
            if self.last is not None:
                self.equal.append(bool((cv2.absdiff(grid, self.last) > 2).mean() < 0.001))
            if not self.equal or not self.equal[-1]:
                self.since = time
            self.longest = max(self.longest, time - self.since)
            self.last = grid

    def result(self) -> dict[str, Any]:
        return {
            "repeated_frames": mean(self.equal),
            "still_seconds": None if self.last is None else self.longest,
        }


class Blur:
    """blur, 0 (sharp) .. 1 (no detail): loss of detail in the subject's box, median of 2 frames a second.

    The box is brought to a height of 256 pixels first, so that near and far people compare.
    """

    def __init__(self) -> None:
        self.ticks, self.values = Ticks(0.5), list[float]()

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        for index in self.ticks.pick(times):
            if people[index]:
                part = crop(frames[index], people[index][0].box)
                if min(part.shape[:2]) >= 8:
                    grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
                    width = max(16, round(256 * grey.shape[1] / grey.shape[0]))
                    self.values.append(blur_effect(_resized(grey, (width, 256))))

    def result(self) -> dict[str, Any]:
        return {"blur": float(np.median(self.values)) if self.values else None}


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = image.shape[0] > size[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def blur_effect(grey: np.ndarray) -> float:
    """How little a picture (H, W) uint8 changes by blurring it once more, 0..1; 1 for one without any detail.

    Source: Crete, Dolmiere, Ladret, Nicolas, The blur effect, SPIE 2007, with its filter of 9 pixels.
    """
    image = grey.astype(np.float32)
    shares = []
    for axis, kernel in ((0, (1, 9)), (1, (9, 1))):
        sharp = np.abs(np.diff(image, axis=axis))
        blurred = np.abs(np.diff(cv2.blur(image, kernel), axis=axis))
        total = float(sharp.sum())
        lost = float(np.maximum(0, sharp - blurred).sum())
        shares.append((total - lost) / total if total > 0 else 1.0)
    return max(shares)


class Brightness:
    """brightness, 0 (black) .. 1 (white): mean luma of 2 frames a second. background_brightness: the same
    outside all people's boxes, None where they fill the picture."""

    def __init__(self) -> None:
        self.ticks, self.whole, self.background = Ticks(0.5), list[float](), list[float]()

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        for index in self.ticks.pick(times):
            grey = small_grey(frames[index])
            self.whole.append(grey.mean() / 255)
            outside = outside_people(grey.shape, people[index], frames.shape[1])
            if outside.mean() > 0.05 * 255:
                self.background.append(cv2.mean(grey, outside)[0] / 255)

    def result(self) -> dict[str, Any]:
        return {"brightness": mean(self.whole), "background_brightness": mean(self.background)}


def outside_people(shape: tuple[int, ...], people: list[Person], frame_height: int) -> np.ndarray:
    """A mask (h, w) uint8 of a small picture: 255 outside the people's boxes grown by a tenth, else 0."""
    mask = np.full(shape[:2], 255, np.uint8)
    for person in people:
        crop(mask, person.box * (shape[0] / frame_height), grow=0.1)[:] = 0
    return mask


class SubjectMotion:
    """subject_motion: mean speed of the subject's visible body joints in the picture, person heights a
    second.

    Measured over steps of a tenth of a second, in which pose noise weighs less than between two frames.
    """

    def __init__(self) -> None:
        self.ticks = Ticks(0.1)
        self.poses: list[tuple[float, int, np.ndarray, float]] = []  # time, track, body (17, 3), height

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        for index in self.ticks.pick(times):
            if people[index]:
                person = people[index][0]
                height = standing_height(person.keypoints)
                self.poses.append((float(times[index]), person.track_id, person.keypoints[BODY], height))

    def result(self) -> dict[str, Any]:
        speeds = []
        for (t0, track0, body0, height0), (t1, track1, body1, height1) in pairwise(self.poses):
            seen = (body0[:, 2] >= VISIBLE) & (body1[:, 2] >= VISIBLE)
            height = max(height0, height1)
            if track0 == track1 and t1 - t0 < 0.3 and seen.any() and height > 0:
                moved = np.linalg.norm(body1[seen, :2] - body0[seen, :2], axis=1).mean()
                speeds.append(moved / height / (t1 - t0))
        return {"subject_motion": mean(speeds)}


class CameraMotion:
    """camera_motion: how fast the background moves, picture diagonals a second; mean over 2 moments a second.

    Corners outside all people's boxes are followed for 0.15 s (pyramidal Lucas-Kanade, there and back); the
    median of their ways stands for the moment. None where no background with corners is seen.
    """

    STEP = 0.15

    def __init__(self) -> None:
        self.ticks = Ticks(0.5)
        self.start: tuple[float, np.ndarray, np.ndarray] | None = None  # time, small grey picture, corners
        self.speeds: list[float] = []

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        begins = set(self.ticks.pick(times))
        for index, time in enumerate(times.tolist()):
            if self.start is not None and time >= self.start[0] + self.STEP - 1e-6:
                self._finish(frames[index], time)
            if index in begins:
                grey = small_grey(frames[index])
                outside = outside_people(grey.shape, people[index], frames.shape[1])
                corners = cv2.goodFeaturesToTrack(grey, 60, 0.02, 8, mask=outside)
                self.start = None if corners is None else (time, grey, corners)

    def _finish(self, frame: np.ndarray, time: float) -> None:
        assert self.start is not None
        (began, before, corners), self.start = self.start, None
        after = small_grey(frame)
        there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, corners.copy())
        back, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, there, corners.copy())
        returned = np.linalg.norm(back - corners, axis=2).ravel() < 0.5
        sure = np.logical_and(found, found_back).ravel() & returned
        if sure.sum() >= 6:
            way = np.median(np.linalg.norm(there - corners, axis=2).ravel()[sure])
            self.speeds.append(float(way) / float(np.hypot(*before.shape)) / (time - began))

    def result(self) -> dict[str, Any]:
        return {"camera_motion": mean(self.speeds)}
