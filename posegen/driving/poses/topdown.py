"""What DWPose and Sapiens share: a box becomes a window, windows of all people of all frames run in batches.

Each frame stands for itself, nothing is tracked, so `reset` has nothing to forget. One batch of windows is cropped, run
and decoded before the next is cropped, so memory does not grow with frames or people.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from posegen.driving.poses import Person
from posegen.driving.poses.boxes import Window
from posegen.driving.poses.network import PictureNetwork
from posegen.driving.skeleton import BODY, VISIBLE, bounding_box

Detector = Callable[[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]
Infer = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class TopDown:
    """Finds people with a detector, then each one's keypoints in a window around the box.

    detector: frames (N, H, W, 3) uint8 RGB -> boxes (K, 4) and scores (K,) for each frame. None takes the
    whole frame for one person's box, and believes in the person where the body points' mean confidence is at
    least 0.3. infer: network inputs (n, 3, height, width) -> points (n, 133, 2) in window pixels and
    confidences (n, 133). unbiased: how windows count lengths, see `Window.around`. batch: windows a run.
    """

    def __init__(
        self, detector: Detector | None, network: PictureNetwork, infer: Infer, unbiased: bool, batch: int
    ) -> None:
        self._detector = detector
        self._network = network
        self._infer = infer
        self._unbiased = unbiased
        self._batch = batch

    def reset(self) -> None:
        """A new video begins; nothing is remembered of the old one."""

    def __call__(self, frames: np.ndarray) -> list[list[Person]]:
        """People of each frame of (N, H, W, 3) uint8 RGB, best first."""
        found = self._detector(frames) if self._detector else [_whole_frame(frames)] * len(frames)
        numbers = [number for number, (boxes, _) in enumerate(found) for _ in boxes]
        boxes = [box for boxes, _ in found for box in boxes]
        scores = [score for _, scores in found for score in scores]
        people: list[list[Person]] = [[] for _ in frames]
        for start in range(0, len(boxes), self._batch):
            some = slice(start, start + self._batch)
            poses = self._poses([frames[number] for number in numbers[some]], boxes[some])
            for number, box, score, keypoints in zip(
                numbers[some], boxes[some], scores[some], poses, strict=True
            ):
                person = Person(box.astype(np.float32), float(score), keypoints)
                if self._detector or _found_by_pose(person):
                    people[number].append(person)
        return people

    def _poses(self, frames: list[np.ndarray], boxes: list[np.ndarray]) -> np.ndarray:
        """Keypoints (n, 133, 3) in frame pixels of the people in n boxes, each of its frame."""
        windows = [Window.around(box, self._network.size, self._unbiased) for box in boxes]
        crops = [window.crop(frame) for window, frame in zip(windows, frames, strict=True)]
        points, confidences = self._infer(self._network.inputs(crops))
        poses = np.empty((*confidences.shape, 3), np.float32)
        for pose, window, seen in zip(poses, windows, points, strict=True):
            pose[:, :2] = window.to_frame(seen)
        poses[..., 2] = confidences.clip(0, 1)
        return poses


def _whole_frame(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.array([[0, 0, frames.shape[2], frames.shape[1]]], np.float32), np.ones(1, np.float32)


def _found_by_pose(person: Person) -> bool:
    """Whether there is a person in a whole frame; sets its score and box to those of its keypoints."""
    person.score = float(person.keypoints[BODY, 2].mean())
    box = bounding_box(person.keypoints)
    if person.score < VISIBLE or box is None:
        return False
    person.box = box
    return True
