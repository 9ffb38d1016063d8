"""Other networks say whether someone else is in the picture, and whether it is a human being at all."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import pytest

from pipeline.sample_videos import SAMPLES
from pipeline.score.evidence import Evidence, beside, head_region, shows_front
from posegen.common.weights import wheel_file
from posegen.driving.poses import Person, load_estimator
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


def said(evidence: Evidence, frame: np.ndarray, someone: Person) -> dict[str, float]:
    evidence.begin()
    evidence.update(frame[None], [[someone]], np.zeros(1))
    return evidence.result()


def test_a_man_alone_is_human_and_alone(networks: Evidence, talker: tuple[np.ndarray, Person]):
    found = said(networks, *talker)
    assert found["second_person"] == 0
    assert found["human_evidence"] > 0.9


def test_another_face_beside_is_a_second_person(networks: Evidence, talker: tuple[np.ndarray, Person]):
    frame, man = talker
    assert said(networks, np.concatenate([frame, frame[:, ::-1]], axis=1), man)["second_person"] == 1


def test_a_skeleton_on_no_one_is_not_human(networks: Evidence, talker: tuple[np.ndarray, Person]):
    frame, man = talker
    grey = np.full_like(frame, 127)
    assert said(networks, grey, man) == {"second_person": 0, "human_evidence": pytest.approx(0, abs=0.05)}


def test_what_is_said_does_not_depend_on_the_clip_before(
    networks: Evidence, talker: tuple[np.ndarray, Person]
):
    first = said(networks, *talker)
    said(networks, np.full_like(talker[0], 127), talker[1])
    assert said(networks, *talker) == first


class Boxes:
    """A detector that always sees the same, and counts how often it is asked."""

    def __init__(self, *heights: float, scores: tuple[float, ...] = ()):
        self.boxes = np.array(
            [[100 * n, 0, 100 * n + 50, height] for n, height in enumerate(heights)]
        ).reshape(-1, 4)
        self.scores = np.array(scores or [1.0] * len(heights))
        self.asked = 0

    def __call__(self, frames: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        self.asked += len(frames)
        return [(self.boxes, self.scores)] * len(frames)


@pytest.mark.parametrize(
    ("boxes", "second"),
    [
        (Boxes(400), 0.0),
        (Boxes(400, 390), 1.0),
        (Boxes(400, 150), 0.0),
        (Boxes(400, 390, scores=(0.9, 0.4)), 0.0),
        (Boxes(), 0.0),
    ],
)
def test_a_person_detector_counts_boxes_of_comparable_height(
    talker: tuple[np.ndarray, Person], boxes: Boxes, second: float
):
    frame = np.zeros((500, 600, 3), np.uint8)
    assert said(Evidence(boxes), frame, person(FACING | SHOULDERS))["second_person"] == second


def test_the_networks_are_asked_once_a_second_while_there_is_someone():
    boxes = Boxes(400)
    evidence = Evidence(boxes)
    someone, frames = person(FACING | SHOULDERS), np.zeros((5, 500, 600, 3), np.uint8)
    for chunk in range(15):  # 2.5 s at 30 frames/s, nobody before 0.5 s
        times = (np.arange(5) + 5 * chunk) / 30
        evidence.update(frames, [[someone] if time >= 0.5 else [] for time in times], times)
    assert boxes.asked == 2


def test_without_anyone_there_is_nothing_to_say(networks: Evidence):
    networks.begin()
    networks.update(np.zeros((2, 100, 100, 3), np.uint8), [[], []], np.array([0, 0.1]))
    assert networks.result() == {}
