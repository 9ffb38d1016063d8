"""Who is followed where something that is no person stands in the picture for longer, with the real networks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mini_model.puppets import Puppet, Scene, render
from pipeline.sample_videos import SAMPLES
from posegen.common.weights import wheel_file
from posegen.driving.driving_video import Driving, read_driving
from posegen.driving.humans import HumanEvidence
from posegen.driving.main_person import Track, main_tracks
from posegen.driving.poses import Person, load_estimator
from posegen.video import probe, read_frames, save_video
from testkit.tiny_model import walking, whole

RATE, SIDE = 12, 320
LATE = 12
"""Frames after which the estimator has found a new person, at most."""
EMPTY, FRAMES = 30, 54
"""Until when nobody is there, and the end, in frames."""
DARK = 4
"""Frames without a picture before somebody comes, or the estimator may take them for the toy that it follows."""


@pytest.fixture(scope="module")
def toy() -> np.ndarray:
    """A drawn rabbit that hangs upside down, (SIDE, SIDE, 3), which BlazePose takes for a person at 0.9 or more."""
    (frames,) = read_frames(probe(wheel_file(*SAMPLES["rabbit.mp4"])), [66])
    return cv2.resize(frames[0][7:300, 175:468], (SIDE, SIDE))[::-1]


@pytest.fixture(scope="module")
def dancer() -> np.ndarray:
    """A drawn person, (n, SIDE, SIDE, 3)."""
    poses = walking(FRAMES - EMPTY, (SIDE, SIDE))
    return np.asarray(render(Puppet.sample(3), Scene.sample(3), whole(poses), (SIDE, SIDE)).frames)


@pytest.fixture(scope="module")
def video(toy: np.ndarray, dancer: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy alone, and then the person."""
    path = tmp_path_factory.mktemp("room") / "room.mp4"
    room = np.repeat(toy[None], EMPTY, axis=0)
    room[-DARK:] = 0
    save_video(np.concatenate([room, dancer]), path, RATE)
    return path


@pytest.fixture(scope="module")
def driving(video: Path) -> Driving:
    return read_driving(video, RATE, load_estimator("blazepose"))


def test_what_the_detector_said_before_is_not_asked_again(toy: np.ndarray, dancer: np.ndarray) -> None:
    evidence, estimator = HumanEvidence(), load_estimator("blazepose")
    for frames in (toy[None], dancer):
        estimator.reset()
        frame, person = next(
            (frame, people[0]) for frame, people in zip(frames, estimator(frames), strict=True) if people
        )
        seen = evidence.bodies.find(frame)
        assert evidence(frame, person, regions=seen) == evidence(frame, person)


def test_the_estimator_takes_the_toy_for_a_person_and_other_networks_do_not(
    toy: np.ndarray, dancer: np.ndarray
) -> None:
    evidence, estimator = HumanEvidence(), load_estimator("blazepose")
    found = []
    for frames in (toy[None], dancer):
        estimator.reset()
        (person,) = estimator(frames)[-1]
        assert person.score > 0.9
        found.append(evidence(frames[-1], person))
    assert found[0] < 0.1 and found[1] > 0.9


def test_a_video_that_begins_without_a_person_follows_who_comes(driving: Driving) -> None:
    ((start, stop),) = driving.gaps
    assert start == 0 and EMPTY <= stop <= EMPTY + LATE and driving.others == ()
    (note,) = driving.notes(RATE)
    assert note.startswith(f"Nobody was seen at 0.0 to {stop / RATE:.1f} s")
    assert (driving.keypoints[:EMPTY] == driving.keypoints[stop]).all(), "the person waits where they come in"


def person(left: float, width: float) -> Person:
    return Person(np.array([left, 0, left + width, 90], np.float32), 1.0, np.ones((133, 3), np.float32))


def followed(people: list[list[Person]], human: float, thing: float) -> list[float]:
    """Where the people stand who are followed; the thing stands at 100."""

    def evidence(track: Track) -> float:
        return thing if track.people[0].box[0] == 100 else human

    return [track.people[0].box[0] for track in main_tracks(people, 4, 100, evidence)]


@pytest.mark.parametrize(
    ("human", "thing", "expected"),
    [(0.9, 0.1, [0]), (0.9, 0.8, [100]), (0.2, 0.1, [100])],
    ids=["one is a person", "both are", "neither is"],
)
def test_evidence_decides_only_where_it_tells_them_apart(
    human: float, thing: float, expected: list[float]
) -> None:
    here, there = person(0, 20), person(100, 60)
    assert followed([[there]] * 8 + [[there, here]] * 8, human, thing) == expected


def test_of_a_single_track_nobody_is_asked() -> None:
    def evidence(track: Track) -> float:
        raise AssertionError("asked")

    assert len(main_tracks([[person(100, 60)]] * 8, 4, 100, evidence)) == 1
