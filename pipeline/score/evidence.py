"""Is it one real human being? Networks other than the one that draws the pose are asked, again and again.

The body model alone misses second people and draws a skeleton on a cartoon rabbit, so some frames of each clip are
looked at closely (pipeline/score/looks.py says which):

- **second person**: another face of comparable size, a body beside the person, who is painted over, or two bodies with
  heads apart where people stand close. Each needs a second network's word: the face landmark model's on a face, the
  person segmentation's on a body, without which bare arms and clutter are taken for people. What is found must be found
  at the same place in a frame shortly after. With YOLOX's weights, simply another box, likewise seen again;
- **human**: the face networks see a face, as they must where a large head is turned to the camera, or the body detector
  finds this person in the single frame, without having tracked them there (the rabbit is tracked, but seldom found);
  and the person segmentation covers the joints (it does not on birds and machines).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np

from pipeline.score.faces import FaceDetector
from pipeline.score.looks import Looks, at_least
from pipeline.score.person import COUNTS_FROM
from posegen.driving.humans import HEAD, SURE, HumanEvidence, head_region, head_size
from posegen.driving.poses import Person
from posegen.driving.poses.landmarks import Body, FaceNetwork
from posegen.driving.poses.regions import Region, overlap
from posegen.driving.skeleton import FACE, VISIBLE

SEEN_POINTS = 0.25
"""Least share of a body's 33 points that are seen for it to be one; clutter shows none or two."""
SAME_PLACE = 0.3
"""Least IoU of the boxes of one person in two looks a tenth of a second apart."""
LEAST_FACE = 64
"""Pixels of head below which no face can be asked for."""

BLAZEPOSE_HEAD = slice(11)
"""BlazePose's points of the face; 7 and 8 are the ears, 11 and 12 the shoulders."""

Detector = Callable[[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Sighting:
    """A second person: when (seconds in the clip), the frame (H, W, 3) and their box (4,) in its pixels."""

    time: float
    frame: np.ndarray
    box: np.ndarray


class Evidence:
    """The networks, loaded once; `begin` starts a clip. `detector` is YOLOX, where its weights were given."""

    def __init__(self, detector: Detector | None = None):
        self._detector = detector
        self._faces, self._face_points = FaceDetector(threshold=SURE), FaceNetwork()
        self._opinion = HumanEvidence()
        self.begin(0.0)

    def begin(self, seconds: float) -> None:
        """Begins a new clip of this length."""
        self._looks = Looks(seconds)
        self._claims: list[Sighting] = []  # the second people of the look that is being checked
        self._second = 0
        self._human: list[float] = []
        self.sighting: Sighting | None = None
        """The first second person that was seen twice."""

    def update(self, frames: np.ndarray, people: list[list[Person]], times: np.ndarray) -> None:
        """Looks at the frames (N, H, W, 3) uint8 RGB that are due; people: of each, the clip's person first."""
        for frame, present, time in zip(frames, people, times.tolist(), strict=True):
            if not present or not self._looks.due(time):
                continue
            bodies = self._opinion.bodies.find(frame) if self._detector is None else None
            found = list(self._others(frame, present[0], bodies))
            if self._looks.further:
                self._check(found)
                continue
            self._human.append(self._human_share(frame, present[0], bodies))
            self._claims = [Sighting(time, frame.copy(), box) for box in found]
            if found:
                self._looks.found(time)

    def result(self) -> dict[str, float]:
        """The scores `second_person` and `human_evidence`; none where there was nobody to look at."""
        if not self._human:
            return {}
        second = at_least(self._second, len(self._human))
        return {"second_person": second, "human_evidence": float(np.mean(self._human))}

    def _check(self, found: list[np.ndarray]) -> None:
        """Counts the look that is being checked, once, where one of its people is among those found now."""
        for claim in self._claims:
            if any(overlap(claim.box, box[None])[0] >= SAME_PLACE for box in found):
                self._second += 1
                self._claims = []
                self.sighting = self.sighting or claim
                return

    def _others(self, frame: np.ndarray, person: Person, bodies: list[Region] | None) -> list[np.ndarray]:
        """Boxes (4,) of second people in a frame. bodies: where MediaPipe's body detector, if it is asked, saw any."""
        if self._detector is None:
            return [*self._other_faces(frame, person), *self._other_bodies(frame, person, bodies or [])]
        boxes, scores = self._detector(frame[None])[0]
        tall = boxes[:, 3] - boxes[:, 1] >= COUNTS_FROM * (person.box[3] - person.box[1])
        boxes = boxes[(scores >= SURE) & tall]
        if len(boxes) < 2:
            return []
        return list(np.delete(boxes, overlap(person.box, boxes).argmax(), axis=0))

    def _other_faces(self, frame: np.ndarray, person: Person) -> Iterator[np.ndarray]:
        head = head_region(person)
        for box in (face.box for face in self._faces(frame)):
            x, y = ((box[:2] + box[2:]) / 2).tolist()
            face = Region(x, y, float(max(box[2:] - box[:2])))
            apart = np.hypot(face.x - head.x, face.y - head.y)
            if apart < head.size or face.size < COUNTS_FROM * head.size:
                continue
            near = self._face_points.find(frame, face.scaled(1.6))
            if near is not None and self._face_points(frame, near)[1] >= SURE:
                yield box

    def _other_bodies(self, frame: np.ndarray, person: Person, bodies: list[Region]) -> Iterator[np.ndarray]:
        least = COUNTS_FROM * (person.box[3] - person.box[1])
        x0, y0, x1, y1 = person.box.astype(int).tolist()
        painted = frame.copy()
        cv2.rectangle(painted, (x0, y0), (x1, y1), frame[::16, ::16].mean((0, 1)).tolist(), -1)
        for left, right in beside(frame.shape[1], frame.shape[0], (x0, x1)):
            part = np.ascontiguousarray(painted[:, left:right])
            for body in self._people(part, self._opinion.bodies.find(part)):
                box = body_box(body) + np.array([left, 0, left, 0])
                if box[3] - box[1] >= least and overlap(person.box, box[None])[0] < SAME_PLACE:
                    yield box
        if len(bodies) < 2:
            return
        for one, other in combinations(self._people(frame, bodies), 2):
            if heads_apart(one, other):
                # Of two who stand close, the second is the one who is less like the clip's person.
                yield min(body_box(one), body_box(other), key=lambda box: overlap(person.box, box[None])[0])

    def _people(self, frame: np.ndarray, regions: list[Region]) -> list[Body]:
        """The bodies in regions of a frame that the segmentation agrees are human beings."""
        bodies = [self._opinion.bodies(frame, region) for region in regions]
        return [body for body in bodies if body.presence >= SURE and self._is_human(frame, body)]

    def _is_human(self, frame: np.ndarray, body: Body) -> bool:
        seen = body.confidence[:33] >= SURE
        if seen.mean() < SEEN_POINTS:
            return False
        share = self._opinion.segments.at(frame, body_box(body), body.points[:33, :2][seen]).mean()
        return bool(share >= SURE)

    def _human_share(self, frame: np.ndarray, person: Person, bodies: list[Region] | None) -> float:
        """How much of this person the other networks confirm, 0..1. bodies: as for `_others`."""
        head, face = head_region(person), bool(person.keypoints[FACE, 2].mean() >= SURE)
        if not face and shows_front(person) and head.size >= LEAST_FACE:
            face = bool(self._faces(frame, [head.scaled(3)]))
            if not face:
                return 0.0
        return self._opinion(frame, person, face, bodies)


def body_box(body: Body) -> np.ndarray:
    """The box (4,) around a body's points, on the frame or off it."""
    points = body.points[:33, :2]
    return np.concatenate([points.min(0), points.max(0)])


def heads_apart(one: Body, other: Body) -> bool:
    """Whether two bodies of comparable height have their heads at different places, so that they are two people."""
    between = one.points[BLAZEPOSE_HEAD, :2].mean(0) - other.points[BLAZEPOSE_HEAD, :2].mean(0)
    size = max(head_size(body.points[7:9, :2], body.points[11:13, :2]) for body in (one, other))
    shorter, taller = sorted(box[3] - box[1] for box in (body_box(one), body_box(other)))
    return bool(np.hypot(*between) > size and shorter >= COUNTS_FROM * taller)


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
