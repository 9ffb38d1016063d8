"""Other networks say whether someone else is in the picture, and whether it is a human being at all."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import pytest

from pipeline.sample_videos import SAMPLES
from pipeline.score.evidence import Evidence, beside, shows_front
from pipeline.score.looks import at_least
from pipeline.verdict import load_thresholds
from posegen.common.weights import wheel_file
from posegen.driving.humans import head_region
from posegen.driving.poses import Person, load_estimator
from posegen.driving.poses.landmarks import Body, BodyNetwork
from posegen.driving.poses.regions import Region
from posegen.driving.poses.segmentation import PersonSegmenter
from posegen.driving.skeleton import KEYPOINT_INDEX

INDEX = KEYPOINT_INDEX
FACING = {
    "nose": (300, 200),
    "left_eye": (320, 190),
    "right_eye": (280, 190),
    "left_ear": (350, 200),
    "right_ear": (250, 200),
}
SHOULDERS = {"left_shoulder": (380, 320), "right_shoulder": (220, 320)}


def person(
    points: Mapping[str, tuple[float, float]], box: tuple[float, ...] = (200, 100, 400, 500)
) -> Person:
    """Someone of whom these points are seen, and no others."""
    keypoints = np.zeros((133, 3), np.float32)
    for name, (x, y) in points.items():
        keypoints[INDEX[name]] = x, y, 1
    return Person(np.array(box, np.float32), 1.0, keypoints)


def test_the_head_is_broader_than_the_ears_are_apart():
    head = head_region(person(FACING | SHOULDERS))
    assert (head.x, head.y, head.size) == pytest.approx((300, 196, 160))


def test_seen_from_the_side_the_shoulders_say_how_large_the_head_is():
    side = FACING | {"left_ear": (300, 200), "right_ear": (300, 200)}
    broad = {"left_shoulder": (100, 320), "right_shoulder": (500, 320)}
    assert head_region(person(side | broad)).size == pytest.approx(200)


def test_only_who_faces_the_camera_shows_their_front():
    assert shows_front(person(FACING))
    swapped = FACING | {"left_ear": FACING["right_ear"], "right_ear": FACING["left_ear"]}
    assert not shows_front(person(swapped))
    assert not shows_front(person({name: point for name, point in FACING.items() if name != "nose"}))


@pytest.mark.parametrize(
    ("size", "columns", "spans"),
    [
        ((640, 360), (200, 300), [(0, 200), (300, 640)]),
        ((1920, 360), (900, 1000), [(540, 900), (1000, 1360)]),
        ((640, 360), (50, 600), []),
        ((640, 360), (-20, 300), [(300, 640)]),
        ((640, 360), (200, 700), [(0, 200)]),
        ((360, 640), (100, 200), [(0, 360)]),
    ],
)
def test_others_are_looked_for_beside_the_person(
    size: tuple[int, int], columns: tuple[int, int], spans: list[tuple[int, int]]
):
    assert beside(*size, columns) == spans


@pytest.fixture(scope="module")
def talker() -> tuple[np.ndarray, Person]:
    """A frame (432, 528, 3) of a man in a car, head and shoulders, and how BlazePose sees him."""
    video = cv2.VideoCapture(str(wheel_file(*SAMPLES["talk.mp4"])))
    frame = cv2.resize(video.read()[1], None, fx=3, fy=3)[..., ::-1]
    ((man, *_),) = load_estimator("blazepose")(frame[None])
    return np.ascontiguousarray(frame), man


@pytest.fixture(scope="module")
def networks() -> Evidence:
    return Evidence()


def said(evidence: Evidence, *frames: np.ndarray, someone: Person) -> dict[str, float]:
    """What a clip of 4 s of these frames, all with this person, comes to; each is shown in turn for a half second."""
    evidence.begin(4.0)
    for number in range(40):
        frame = frames[number // 5 % len(frames)]
        evidence.update(frame[None], [[someone]], np.array([number / 10]))
    return evidence.result()


def test_a_man_alone_is_human_and_alone(networks: Evidence, talker: tuple[np.ndarray, Person]):
    frame, man = talker
    found = said(networks, frame, someone=man)
    assert found["second_person"] == 0
    assert found["human_evidence"] > 0.9
    assert networks.sighting is None


def test_another_face_beside_is_a_second_person(networks: Evidence, talker: tuple[np.ndarray, Person]):
    frame, man = talker
    beside = np.concatenate([frame, frame[:, ::-1]], axis=1)
    assert said(networks, beside, someone=man)["second_person"] > 0.7
    assert networks.sighting is not None
    x0, _, x1, _ = networks.sighting.box
    assert networks.sighting.time == 0 and (x0 + x1) / 2 > frame.shape[1]


def test_someone_close_behind_is_a_second_person(networks: Evidence, talker: tuple[np.ndarray, Person]):
    """The same man, cut out of his frame and pasted a head's width aside, behind himself."""
    frame, man = talker
    head = head_region(man)
    behind = np.roll(frame, round(1.2 * head.size), axis=1)
    rows, columns = np.mgrid[: frame.shape[0] : 4, : frame.shape[1] : 4]
    points = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(float)
    human = PersonSegmenter().at(frame, man.box, points).reshape(rows.shape)
    probability = cv2.resize(human, frame.shape[1::-1])[..., None]
    both = (frame * probability + behind * (1 - probability)).astype(np.uint8)
    assert said(networks, both, someone=man)["second_person"] > 0.1


def test_a_skeleton_on_no_one_is_not_human(networks: Evidence, talker: tuple[np.ndarray, Person]):
    frame, man = talker
    found = said(networks, np.full_like(frame, 127), someone=man)
    assert found == {"second_person": 0, "human_evidence": pytest.approx(0, abs=0.05)}


def test_what_is_said_does_not_depend_on_the_clip_before(
    networks: Evidence, talker: tuple[np.ndarray, Person]
):
    frame, man = talker
    first = said(networks, frame, someone=man)
    said(networks, np.concatenate([frame, frame[:, ::-1]], axis=1), someone=man)
    assert said(networks, frame, someone=man) == first


def test_a_look_asks_about_the_whole_frame_once_and_about_one_body_nothing_more(
    networks: Evidence, talker: tuple[np.ndarray, Person], monkeypatch: pytest.MonkeyPatch
):
    frame, man = talker
    asked: list[str] = []
    find, points = BodyNetwork.find, BodyNetwork.__call__

    def counted_find(bodies: BodyNetwork, picture: np.ndarray, *part: Region) -> list[Region]:
        asked.append("whole" if picture.shape == frame.shape else "beside")
        return find(bodies, picture, *part)

    def counted_points(bodies: BodyNetwork, picture: np.ndarray, region: Region) -> Body:
        asked.append("points" if picture.shape == frame.shape else "points beside")
        return points(bodies, picture, region)

    monkeypatch.setattr(BodyNetwork, "find", counted_find)
    monkeypatch.setattr(BodyNetwork, "__call__", counted_points)
    back = Person(man.box, man.score, man.keypoints * np.array([1, 1, 0.4], np.float32))  # no face is seen
    networks.begin(1.0)
    networks.update(frame[None], [[back]], np.zeros(1))
    assert asked.count("whole") == 1 and "points" not in asked


class Boxes:
    """A detector that sees the same in every frame, or in turn what it is given, and counts how often it is asked."""

    def __init__(self, *heights: float, scores: tuple[float, ...] = ()):
        self.boxes = np.array(
            [[200 * n, 100, 200 * n + 200, 100 + height] for n, height in enumerate(heights)]
        ).reshape(-1, 4)
        self.scores = np.array(scores or [1.0] * len(heights))
        self.asked = 0

    def __call__(self, frames: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        self.asked += len(frames)
        return [(self.boxes, self.scores)] * len(frames)


BLACK = np.zeros((500, 600, 3), np.uint8)
SOMEONE = person(FACING | SHOULDERS)


@pytest.mark.parametrize(
    ("boxes", "second"),
    [
        (Boxes(400), False),
        (Boxes(400, 390), True),
        (Boxes(400, 150), False),
        (Boxes(400, 390, scores=(0.9, 0.4)), False),
        (Boxes(), False),
    ],
)
def test_a_person_detector_counts_boxes_of_comparable_height(boxes: Boxes, second: bool):
    found = said(Evidence(boxes), BLACK, someone=SOMEONE)["second_person"]
    assert (found > 0.7) if second else (found == 0)


class Now:
    """A detector that sees a second box in some of its answers."""

    def __init__(self, seconds: list[bool], moves: bool = False):
        self.answers, self.moves = iter(seconds), moves
        self.shift = 0.0

    def __call__(self, frames: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        own = [200.0, 100, 400, 500]
        self.shift += 300 * self.moves
        other = [450 + self.shift, 100, 650 + self.shift, 500]
        boxes = np.array([own, other] if next(self.answers) else [own])
        return [(boxes, np.ones(len(boxes)))]


def second(seconds: list[bool], moves: bool = False) -> float:
    evidence = Evidence(Now([*seconds, *[False] * 40], moves))
    return said(evidence, BLACK, someone=SOMEONE)["second_person"]


def test_what_is_not_seen_again_is_nobody():
    assert second([True, False, False]) == 0


def test_what_is_elsewhere_the_next_time_is_nobody():
    assert second([True] * 40, moves=True) == 0


def test_one_look_that_holds_is_within_the_uncertainty_and_more_are_not():
    (rule,) = [rule for rule in load_thresholds().rules if rule.score == "second_person"]
    once, twice = second([True] * 3), second([True] * 6)
    assert 0 < once < twice
    assert rule.reason(once) is None and rule.reason(twice) is not None


@pytest.mark.parametrize(("seconds", "looks"), [(2.0, 8), (5.0, 8), (8.0, 8), (20.0, 20)])
def test_short_clips_are_looked_at_as_often_as_longer_ones(seconds: float, looks: int):
    boxes = Boxes(400)
    evidence = Evidence(boxes)
    evidence.begin(seconds)
    for number in range(round(seconds * 30)):
        evidence.update(BLACK[None], [[SOMEONE]], np.array([number / 30]))
    assert boxes.asked == looks


def test_without_anyone_there_is_nothing_to_say(networks: Evidence):
    networks.begin(1.0)
    networks.update(np.zeros((2, 100, 100, 3), np.uint8), [[], []], np.array([0, 0.1]))
    assert networks.result() == {}


def test_the_least_share_is_wilsons():
    assert at_least(0, 8) == 0 and at_least(0, 0) == 0
    assert at_least(5, 10) == pytest.approx(0.2692, abs=5e-4)
    assert at_least(1, 5) < at_least(12, 60) < 0.2
