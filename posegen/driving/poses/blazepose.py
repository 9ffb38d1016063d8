"""BlazePose: a fast tracker of people on a CPU, with body, feet, face and hands.

The networks and region rules are those of MediaPipe's Holistic (Apache-2.0, weights from its wheel). A tracked body
costs one network run a frame: the detector only runs once in a while, and when all are lost. It tends to see only the
most prominent person, and nobody small, so it looks at the whole frame for the first person and then at overlapping
squares, people already found painted over. Hands and face are followed from their own last points while those agree
with the body, and found anew from the body otherwise. Whoever is found late is followed back through the frames of the
same call where nobody was seen. Nothing is smoothed over time: what is given is what was seen in that frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from posegen.driving.poses import Person
from posegen.driving.poses.landmarks import WRISTS, Body, BodyNetwork, FaceNetwork, HandNetwork
from posegen.driving.poses.regions import Region, overlap, tiles
from posegen.driving.poses.wholebody import FACE, FACE_68, LEFT_HAND, RIGHT_HAND, body_keypoints

PRESENT = 0.5
"""Least presence of a body, hand or face for it to be followed into the next frame (MediaPipe's threshold)."""

VISIBLE_WRIST = 0.1
"""Least confidence of a wrist for its hand to be looked for (MediaPipe's threshold)."""

SMALL_HAND = 24.0
"""Least side in pixels of the region around a hand for it to be looked for: fingers of a smaller one are guesses."""

RETRY = 5
"""Frames from one search to the next while nobody is found; who is found then is followed back."""


@dataclass(kw_only=True)
class TrackedPerson(Person):
    """A person as BlazePose sees it; keypoints' confidence is 0 for parts that were not looked at.

    presence: 0..1, that the tracked region holds a body. face_presence, hand_presence (left, right): 0..1, likewise;
    0 where not looked at. region: the square that the body is tracked in.
    """

    presence: float
    face_presence: float
    hand_presence: tuple[float, float]
    region: Region


@dataclass
class _Track:
    """One followed person: its latest body, and where its hands and face will be looked for."""

    number: int
    body: Body
    hands: list[Region | None] = field(default_factory=lambda: [None, None])
    face: Region | None = None


class BlazePose:
    """Whole-body pose of up to `max_people` people in consecutive frames of a video.

    max_people: how many are followed at once. whole: for how many of them, the largest first, hands and face are
    found too. search: frames from one search for further people to the next.
    """

    def __init__(self, max_people: int = 2, whole: int = 1, search: int = 30) -> None:
        self.max_people, self.whole, self.search = max_people, whole, search
        self._bodies, self._hands, self._faces = BodyNetwork(), HandNetwork(), FaceNetwork()
        self.reset()

    def reset(self) -> None:
        """A new video begins: forget all people."""
        self._tracks: list[_Track] = []
        self._seen = 0
        self._search_in = 0

    def __call__(self, frames: np.ndarray) -> list[list[Person]]:
        """People of each frame, each a TrackedPerson, the largest first (as of the last search).

        frames: (N, H, W, 3) uint8 RGB that continue the same video.
        """
        people = [self._people(frame) for frame in frames]
        self._look_back(frames, people)
        return [list(present) for present in people]

    def _people(self, frame: np.ndarray) -> list[TrackedPerson]:
        anybody = bool(self._tracks)
        self._follow(frame)
        all_lost = anybody and not self._tracks
        if all_lost or self._search_in == 0:
            self._find(frame)
            self._search_in = self.search if self._tracks else RETRY
        self._search_in -= 1
        return [self._person(frame, track, rank < self.whole) for rank, track in enumerate(self._tracks)]

    def _follow(self, frame: np.ndarray) -> None:
        """Moves each track to this frame; drops those that lost their body or ran into an older one."""
        followed: list[_Track] = []
        for track in self._tracks:
            track.body = self._bodies(frame, track.body.region())
            if track.body.presence >= PRESENT and not _is_known(track.body, followed):
                followed.append(track)
        self._tracks = followed

    def _find(self, frame: np.ndarray) -> None:
        """Begins tracks of people not followed yet, the largest first, where there is room for more."""
        if len(self._tracks) == self.max_people:
            return
        if not self._tracks:
            self._begin(frame, self._bodies.find(frame))
        height, width = frame.shape[:2]
        for part in tiles(width, height, min(width, height)):
            self._begin(frame, self._bodies.find(_without(frame, self._tracks), part))
        self._tracks.sort(key=lambda track: -track.body.region().size)
        del self._tracks[self.max_people :]

    def _begin(self, frame: np.ndarray, regions: list[Region]) -> None:
        """Begins tracks of the people in these regions, as far as they are people, and new ones."""
        for region in regions:
            # A second look, at the region that the body itself asks for, is what a tracked frame would give.
            body = self._bodies(frame, region)
            if body.presence >= PRESENT:
                body = self._bodies(frame, body.region())
            if body.presence >= PRESENT and not _is_known(body, self._tracks):
                self._tracks.append(_Track(self._seen, body))
                self._seen += 1

    def _look_back(self, frames: np.ndarray, people: list[list[TrackedPerson]]) -> None:
        """Follows people to the frames before they were found, as far as nobody was seen there."""
        for number in range(len(frames) - 1, 0, -1):
            if people[number - 1]:
                continue
            for rank, person in enumerate(people[number]):
                body = self._bodies(frames[number - 1], person.region)
                if body.presence >= PRESENT:
                    track = _Track(person.track_id, body)
                    people[number - 1].append(self._person(frames[number - 1], track, rank < self.whole))

    def _person(self, frame: np.ndarray, track: _Track, whole: bool) -> TrackedPerson:
        keypoints = np.zeros((133, 3), np.float32)
        keypoints[:23] = body_keypoints(track.body.points[:33], track.body.confidence[:33])
        face, hands = 0.0, [0.0, 0.0]
        if whole:
            face = self._face(frame, track, keypoints[FACE_68])
            hands = [self._hand(frame, track, side, keypoints[part]) for side, part in enumerate(HANDS)]
        presence = track.body.presence
        return TrackedPerson(
            box=_box(track.body, frame),
            score=presence,
            keypoints=keypoints,
            track_id=track.number,
            presence=presence,
            face_presence=face,
            hand_presence=(hands[0], hands[1]),
            region=track.body.region(),
        )

    def _hand(self, frame: np.ndarray, track: _Track, side: int, keypoints: np.ndarray) -> float:
        """Writes a hand's keypoints (21, 3) and returns its presence; remembers where it goes on."""
        region, track.hands[side] = track.hands[side], None
        near = track.body.hand_region(side)
        if track.body.confidence[WRISTS[side]] < VISIBLE_WRIST or near.size < SMALL_HAND:
            return 0.0
        if region is None or not near.agrees(region, shift=0.35, growth=0.7, turn=np.pi):
            region = self._hands.find(frame, near)
        points, presence = self._hands(frame, region)
        keypoints[:, :2], keypoints[:, 2] = points, presence
        if presence >= PRESENT:
            track.hands[side] = self._hands.region(points)
        return presence

    def _face(self, frame: np.ndarray, track: _Track, keypoints: np.ndarray) -> float:
        """Writes a face's keypoints (68, 3) and returns its presence; remembers where it goes on."""
        near = track.body.face_region()
        region, track.face = track.face, None
        if region is None or not near.agrees(region, shift=0.2, growth=0.8, turn=np.pi):
            region = self._faces.find(frame, near)
        if region is None:
            return 0.0
        points, presence = self._faces(frame, region)
        keypoints[:, :2], keypoints[:, 2] = points[FACE], presence
        if presence >= PRESENT:
            track.face = self._faces.region(points)
        return presence


HANDS = (LEFT_HAND, RIGHT_HAND)


def _extent(body: Body) -> np.ndarray:
    """The box (4,) around a body's 33 points and its crown, on the frame or off it."""
    eyes, mouth = body.points[[2, 5], :2].mean(0), body.points[[9, 10], :2].mean(0)
    crown = eyes + 1.7 * (eyes - mouth)  # the eyes lie halfway from chin to crown
    points = np.vstack([body.points[:33, :2], crown])
    return np.concatenate([points.min(0), points.max(0)])


def _box(body: Body, frame: np.ndarray) -> np.ndarray:
    """The body's box (4,) on the frame."""
    height, width = frame.shape[:2]
    return np.clip(_extent(body), 0, [width, height, width, height]).astype(np.float32)


def _is_known(body: Body, tracks: list[_Track]) -> bool:
    """Whether a track follows this very body already."""
    return any(overlap(_extent(body), _extent(track.body)[None])[0] > 0.5 for track in tracks)


def _without(frame: np.ndarray, tracks: list[_Track]) -> np.ndarray:
    """The frame, or where people are followed a copy with their boxes painted in its mean colour."""
    if not tracks:
        return frame
    painted = frame.copy()
    colour = frame[::16, ::16].mean((0, 1))
    for track in tracks:
        x0, y0, x1, y1 = _box(track.body, frame).astype(int).tolist()
        cv2.rectangle(painted, (x0, y0), (x1, y1), colour.tolist(), -1)
    return painted
