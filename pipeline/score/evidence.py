"""Is it one real human being? Networks other than the one that draws the pose are asked, once a second.

The body model alone misses second people and draws a skeleton on a cartoon rabbit, so a few frames of each clip are
looked at again:

- **second person**: another face of comparable size that the face landmark model confirms, or another body in a part of
  the frame beside the person, with the person painted over; with YOLOX's weights, simply another box;
- **human**: the face networks see a face, as they must where a large head is turned to the camera, or the body detector
  finds this person in the single frame, without having tracked them there (the rabbit is tracked, but seldom found);
  and the person segmentation covers the joints (it does not on birds and machines).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from pipeline.score.faces import FaceDetector
from pipeline.score.person import COUNTS_FROM, HEAD
from pipeline.score.segmentation import PersonSegmenter
from posegen.driving.poses import Person
from posegen.driving.poses.landmarks import BodyNetwork, FaceNetwork
from posegen.driving.poses.regions import Region, overlap
from posegen.driving.skeleton import BODY, FACE, KEYPOINT_INDEX, VISIBLE

EVERY_S = 1.0
SURE = 0.5
"""Least presence or score for a network's answer to count."""
LEAST_FACE = 64
"""Pixels of head below which no face can be asked for."""

Detector = Callable[[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]


class Evidence:
    """The networks, loaded once; `begin` starts a clip. `detector` is YOLOX, where its weights were given."""

    def __init__(self, detector: Detector | None = None):
        self._detector = detector
        self._faces, self._face_points = FaceDetector(threshold=SURE), FaceNetwork()
        self._bodies, self._segments = BodyNetwork(), PersonSegmenter()
        self.begin()

    def begin(self) -> None:
        """Begins a new clip."""
        self._next = -np.inf
        self._second: list[bool] = []
        self._human: list[float] = []

    def update(self, frames: np.ndarray, people: list[list[Person]], times: np.ndarray) -> None:
        """Looks at the frames (N, H, W, 3) uint8 RGB that are due; people: of each, the clip's person first."""
        for frame, present, time in zip(frames, people, times, strict=True):
            if time >= self._next and present:
                person = present[0]
                self._next = time + EVERY_S
                self._second.append(self._sees_second(frame, person))
                self._human.append(self._human_share(frame, person))

    def result(self) -> dict[str, float]:
        """The scores `second_person` and `human_evidence`; none where there was nobody to look at."""
        if not self._human:
            return {}
        return {"second_person": float(np.mean(self._second)), "human_evidence": float(np.mean(self._human))}

    def _sees_second(self, frame: np.ndarray, person: Person) -> bool:
        least = COUNTS_FROM * (person.box[3] - person.box[1])
        if self._detector is not None:
            boxes, scores = self._detector(frame[None])[0]
            others = boxes[(scores >= SURE) & (boxes[:, 3] - boxes[:, 1] >= least)]
            return len(others) > 1
        return self._another_face(frame, person) or self._another_body(frame, person, least)

    def _another_face(self, frame: np.ndarray, person: Person) -> bool:
        head = head_region(person)
        for box in (face.box for face in self._faces(frame)):
            x, y = ((box[:2] + box[2:]) / 2).tolist()
            face = Region(x, y, float(max(box[2:] - box[:2])))
            apart = np.hypot(face.x - head.x, face.y - head.y)
            if apart < head.size or face.size < COUNTS_FROM * head.size:
                continue
            near = self._face_points.find(frame, face.scaled(1.6))
            if near is not None and self._face_points(frame, near)[1] >= SURE:
                return True
        return False

    def _another_body(self, frame: np.ndarray, person: Person, least: float) -> bool:
        painted = frame.copy()
        x0, y0, x1, y1 = person.box.astype(int).tolist()
        cv2.rectangle(painted, (x0, y0), (x1, y1), frame[::16, ::16].mean((0, 1)).tolist(), -1)
        for left, right in beside(frame.shape[1], frame.shape[0], (x0, x1)):
            part = np.ascontiguousarray(painted[:, left:right])
            for region in self._bodies.find(part):
                body = self._bodies(part, region)
                points = body.points[:33, :2] + (left, 0)
                box = np.concatenate([points.min(0), points.max(0)])
                tall = box[3] - box[1] >= least
                if body.presence >= SURE and tall and overlap(person.box, box[None])[0] < 0.3:
                    return True
        return False

    def _human_share(self, frame: np.ndarray, person: Person) -> float:
        """How much of this person the other networks confirm, 0..1."""
        head = head_region(person)
        face = person.keypoints[FACE, 2].mean() >= SURE
        if shows_front(person) and head.size >= LEAST_FACE and not face:
            face = bool(self._faces(frame, [head.scaled(3)]))
            if not face:
                return 0.0
        if not face and not any(is_of(region, person) for region in self._bodies.find(frame)):
            return 0.0
        joints = person.keypoints[BODY]
        joints = joints[joints[:, 2] >= SURE, :2]
        return float(self._segments.at(frame, person.box, joints).mean()) if len(joints) else 0.0


def head_region(person: Person) -> Region:
    """A square about as large as the head, on its middle."""
    points = person.keypoints[HEAD, :2]
    centre = points.mean(0)
    ears = np.linalg.norm(points[3] - points[4])
    shoulders = person.keypoints[[KEYPOINT_INDEX["left_shoulder"], KEYPOINT_INDEX["right_shoulder"]], :2]
    # The head is about as high as the shoulders are wide apart, halved; seen from the side the ears say nothing.
    size = max(1.6 * ears, 0.5 * np.linalg.norm(shoulders[0] - shoulders[1]))
    return Region(float(centre[0]), float(centre[1]), float(size))


def is_of(region: Region, person: Person) -> bool:
    """Whether a region that a body was found for is that person's: it holds the head and is about as large.

    Regions go round the whole body, boxes end at the frame: that of a close-up is several times its box.
    """
    head, side = head_region(person), max(person.box[2:] - person.box[:2])
    near = max(abs(head.x - region.x), abs(head.y - region.y)) <= 0.6 * region.size
    return bool(near and 0.5 * side <= region.size <= 5 * side)


def shows_front(person: Person) -> bool:
    """Whether the body faces the camera: nose and eyes seen, and the left ear to the right of the right one."""
    head = person.keypoints[HEAD]
    nose, left_ear, right_ear = head[0], head[3], head[4]
    return bool((head[:3, 2] >= VISIBLE).all() and left_ear[0] > nose[0] > right_ear[0])


def beside(width: int, height: int, person: tuple[int, int]) -> list[tuple[int, int]]:
    """Square-ish column spans of a frame to look for others in: left of, right of, and (narrow frames) around a person.

    person: the columns (from, to) the person covers. A span narrower than a quarter of the height shows nobody.
    """
    if width < height:
        return [(0, width)]
    spans = [(max(0, person[0] - height), person[0]), (person[1], min(width, person[1] + height))]
    return [(left, right) for left, right in spans if right - left >= height / 4]
