"""Who is the clip's one person, in which frames they are alone, and how well they are seen."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.score.person import (
    BREADTH_OVER_HEIGHT,
    EYES,
    EYES_OVER_BREADTH,
    HIPS,
    LEAST_BREADTH,
    MOUTH,
    SHOULDERS,
    PersonTrack,
    face_oddity,
    tilt,
    upright_turn,
)
from posegen.driving.poses import Person
from posegen.driving.skeleton import BODY, FACE, KEYPOINT_INDEX, LEFT_HAND, RIGHT_HAND, standing_height

SIZE = (640, 480)


def person(x: float = 100, height: float = 200, track_id: int = -1) -> Person:
    """Someone of this height standing at column x, all points seen and spread over their box."""
    box = np.array([x, 100, x + height / 2, 100 + height], np.float32)
    points = np.random.default_rng(0).uniform(box[:2], box[2:], (133, 2))
    return Person(box, 1.0, np.column_stack([points, np.ones(133)]).astype(np.float32), track_id)


def tracked(
    people: list[list[Person]], times: list[float] | None = None
) -> tuple[dict[str, float], np.ndarray]:
    """What a track makes of these people, at 10 frames a second unless other times are given."""
    track = PersonTrack(SIZE)
    track.update(people, np.arange(len(people)) / 10 if times is None else np.array(times))
    return track.result()


def there(keypoints: np.ndarray) -> list[bool]:
    """In which frames there are keypoints."""
    return (~np.isnan(keypoints).any((1, 2))).tolist()


def test_one_person_is_the_share_of_frames_with_exactly_one():
    scores, keypoints = tracked([[person()]] * 7 + [[]] + [[person(), person(400)]] * 2)
    assert scores["one_person"] == pytest.approx(0.7)
    assert there(keypoints) == [True] * 7 + [False] + [True] * 2


def test_nobody_is_no_person():
    scores, keypoints = tracked([[], [], []])
    assert scores == {"one_person": 0.0}
    assert keypoints.shape == (3, 133, 3) and np.isnan(keypoints).all()


def turned(degrees: float, seen: slice) -> np.ndarray:
    """Someone with head, face, shoulders and hips above each other, turned clockwise; of these some parts are seen."""
    keypoints = np.zeros((133, 3), np.float32)
    keypoints[HIPS, 1], keypoints[SHOULDERS, 1] = 300, 100
    keypoints[FACE][EYES, 1], keypoints[FACE][MOUTH, 1] = 20, 60
    angle = np.radians(degrees)
    keypoints[:, :2] = keypoints[:, :2] @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    keypoints[seen, 2] = 1
    return keypoints


@pytest.mark.parametrize("degrees", [0, 30, 90, 180])
@pytest.mark.parametrize("seen", [BODY, FACE])
def test_the_body_or_in_a_close_up_the_face_tells_what_is_up(degrees: float, seen: slice):
    assert tilt(turned(degrees, seen)[None]) == pytest.approx(degrees, abs=0.01)
    assert tilt(turned(-degrees, seen)[None]) == pytest.approx(degrees, abs=0.01)


@pytest.mark.parametrize(
    ("degrees", "back"),
    [(0, 0), (40, 0), (-40, 0), (80, 270), (-100, 90), (140, 180), (180, 180), (-175, 180)],
)
@pytest.mark.parametrize("seen", [BODY, FACE])
def test_pictures_are_turned_by_the_quarters_that_make_the_person_upright(
    degrees: float, back: int, seen: slice
):
    assert upright_turn(turned(degrees, seen)[None]) == back


def test_most_moments_decide_how_pictures_are_turned():
    poses = np.stack([turned(90, BODY), turned(100, BODY), turned(180, BODY), turned(5, BODY)])
    assert upright_turn(poses) == 270
    assert upright_turn(turned(90, LEFT_HAND)[None]) == 0


def test_a_moment_upside_down_is_none_and_hands_tell_nothing():
    poses = np.stack([turned(180, BODY), turned(5, BODY), turned(10, BODY)])
    assert tilt(poses) == pytest.approx(10, abs=0.01)
    assert np.isnan(tilt(turned(90, LEFT_HAND)[None]))


def test_without_frames_there_is_nothing_to_say():
    scores, keypoints = tracked([])
    assert scores == {} and keypoints.shape == (0, 133, 3)


@pytest.mark.parametrize(("height", "share"), [(79, 1.0), (81, 0.0)])
def test_who_is_under_two_fifths_as_tall_does_not_count(height: float, share: float):
    scores, _ = tracked([[person(400, height), person()]] * 4)
    assert scores["one_person"] == share


def test_those_who_count_come_with_the_clips_person_first():
    track = PersonTrack(SIZE)
    one, other, small = person(100), person(400), person(300, 50)
    track.update([[one]], np.array([0.0]))
    assert track.update([[other, small, one]], np.array([0.1])) == [[one, other]]


def test_another_person_counts_against_the_clip():
    scores, keypoints = tracked([[person(100)]] * 3 + [[person(400)]] * 7)
    assert scores["one_person"] == pytest.approx(0.7)
    assert there(keypoints) == [False] * 3 + [True] * 7


def test_who_moves_by_less_than_their_breadth_is_the_same():
    scores, _ = tracked([[person(100 + 40 * step)] for step in range(8)])
    assert scores["one_person"] == 1.0


def test_the_estimators_word_on_who_it_is_counts_more_than_the_place():
    jumping = [[person(100, track_id=5)], [person(400, track_id=5)]] * 3
    assert tracked(jumping)[0]["one_person"] == 1.0
    crossing = [[person(100, track_id=5)], [person(100, track_id=6), person(400, track_id=5)]]
    np.testing.assert_array_equal(tracked(crossing)[1][1], crossing[1][1].keypoints)


@pytest.mark.parametrize(("gap", "share"), [(0.9, 1.0), (1.1, 0.75)])
def test_who_comes_back_within_a_second_is_the_same(gap: float, share: float):
    times = [0.0, 0.1, 0.2, 0.2 + gap]
    assert tracked([[person()]] * 4, times)[0]["one_person"] == share


def test_chunks_change_nothing():
    people = [[person(100 + 5 * step)] for step in range(7)] + [[]] + [[person(400), person(130)]] * 4
    times = np.arange(len(people)) / 10
    track = PersonTrack(SIZE)
    for first in range(0, len(people), 5):
        track.update(people[first : first + 5], times[first : first + 5])
    scores, keypoints = tracked(people)
    assert track.result()[0] == pytest.approx(scores, nan_ok=True, abs=0)
    np.testing.assert_array_equal(track.result()[1], keypoints)


def test_visibility_is_told_in_shares():
    someone = person(height=240)
    body = someone.keypoints[BODY]
    body[:5, 2] = 0.1  # the head
    body[15, 0] = -3  # an ankle left of the picture
    body[16, 1] = 480  # the other below it
    someone.keypoints[LEFT_HAND, 2] = 0.4
    someone.keypoints[RIGHT_HAND, 2] = 0.9
    body[KEYPOINT_INDEX["right_wrist"], 2] = 0.2
    scores, _ = tracked([[someone]] * 3 + [[person(height=240)]])
    assert scores["head_visible"] == 0.25
    assert scores["person_height"] == 0.5
    assert scores["truncation"] == pytest.approx(0.75 * 2 / 17)
    assert scores["visible_joints"] == pytest.approx((0.75 * 9 + 0.25 * 17) / 17)
    assert scores["hand_confidence"] == pytest.approx((3 * 0.4 + 2 * 1.0) / 5)


def test_hands_without_a_seen_wrist_are_not_measured():
    someone = person()
    someone.keypoints[BODY, 2] = 0.1
    assert np.isnan(tracked([[someone]])[0]["hand_confidence"])


def moved(by: list[float]) -> list[list[Person]]:
    people = [person() for _ in by]
    for someone, step in zip(people, by, strict=True):
        someone.keypoints[:, 0] += step
    return [[someone] for someone in people]


def test_even_motion_is_no_jitter():
    assert tracked(moved([4.0 * step for step in range(9)]))[0]["pose_jitter"] == pytest.approx(0, abs=1e-6)


def test_jitter_is_the_shake_in_person_heights():
    tall = standing_height(person().keypoints)
    assert tracked(moved([0.0, 6.0] * 5))[0]["pose_jitter"] == pytest.approx(6 / tall, rel=1e-4)


def test_jitter_takes_three_frames():
    assert "pose_jitter" not in tracked([[person()]] * 2)[0]


def face(eyes: float = 0.0, shape: float = 0.0, breadth: float = 100.0, turn: float = 0.0) -> np.ndarray:
    """A face (68, 2), by deviations from real proportions; turn: how far the nose is off the middle, in breadths."""
    height = breadth / (BREADTH_OVER_HEIGHT[0] + shape * BREADTH_OVER_HEIGHT[1])
    apart = breadth * (EYES_OVER_BREADTH[0] + eyes * EYES_OVER_BREADTH[1])
    points = np.zeros((68, 2))
    points[[0, 16], 0] = -breadth / 2, breadth / 2
    points[[36, 45], 0] = -apart / 2, apart / 2
    points[8, 1] = height
    points[30, 0] = turn * breadth / 2
    return points


def test_real_proportions_are_not_odd():
    assert face_oddity(face()[None]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("eyes", "shape"), [(2, 2), (4, 0), (0, 4), (-2, 6)])
def test_oddity_is_the_mean_deviation_of_eyes_and_shape(eyes: float, shape: float):
    assert face_oddity(face(eyes, shape)[None]) == pytest.approx(2)


def test_oddity_does_not_depend_on_size_and_is_the_median_over_frames():
    faces = np.stack([face(1, 1), face(3, 3, breadth=300), face(9, 9, breadth=50)])
    assert face_oddity(faces) == pytest.approx(3)


def test_turned_and_tiny_faces_are_left_out():
    frontal, turned, tiny = face(1, 1), face(9, 9, turn=0.5), face(9, 9, breadth=LEAST_BREADTH - 1)
    assert face_oddity(np.stack([turned, frontal, tiny])) == pytest.approx(1)
    assert np.isnan(face_oddity(np.stack([turned, tiny])))


def test_faces_are_measured_where_they_are_seen():
    someone = person()
    someone.keypoints[FACE, :2] = face(1, 1) + np.array([200, 150])
    scores, _ = tracked([[someone]])
    assert scores["face_oddity"] == pytest.approx(1, abs=0.01)
    assert scores["face_size"] == pytest.approx(np.ptp(face(1, 1)[:, 1]) / 480, rel=1e-4)
    someone.keypoints[FACE, 2] = 0.4
    assert "face_oddity" not in tracked([[someone]])[0]
