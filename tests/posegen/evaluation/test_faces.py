"""Faces of a real video: near to one another, whatever the head does, and only where there is one."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from pipeline.sample_videos import SAMPLES
from posegen.common.weights import wheel_file
from posegen.driving.poses import load_estimator
from posegen.driving.skeleton import FACE, LEFT_HAND
from posegen.evaluation.faces import LEAST_FACE, FaceDistance, face_box
from posegen.video import probe, read_frames

BORDER = 0.6
"""From which on dlib takes two faces for two people."""


@pytest.fixture(scope="module")
def talking() -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames and poses of a man who talks in a car."""
    info, estimator = probe(Path(wheel_file(*SAMPLES["talk.mp4"]))), load_estimator("blazepose")
    numbers = np.linspace(0, len(info.frame_times) - 1, 5).astype(int)
    frames = np.concatenate(list(read_frames(info, numbers)))
    return [
        (frame, people[0].keypoints)
        for frame, people in zip(frames, estimator(frames), strict=True)
        if people
    ]


def test_one_person_stays_one(talking: list[tuple[np.ndarray, np.ndarray]]) -> None:
    faces = FaceDistance()
    found = [faces.embedding(*frame) for frame in talking]
    embeddings = [embedding for embedding in found if embedding is not None]
    assert len(embeddings) >= 4
    distances = [np.linalg.norm(one - other) for one, other in combinations(embeddings, 2)]
    assert np.mean(distances) < 0.75 * BORDER
    assert faces.embedding(*talking[0]) == pytest.approx(embeddings[0])


def test_no_face_is_no_embedding(talking: list[tuple[np.ndarray, np.ndarray]]) -> None:
    frame, pose = talking[0]
    away = pose.copy()
    away[:, 0] += 10_000
    assert FaceDistance().embedding(frame, away) is None


def test_a_box_is_around_the_face_alone() -> None:
    pose = np.zeros((133, 3))
    pose[:, :2], pose[:, 2] = 50, 0.9
    pose[FACE, 0] = np.linspace(30, 70, 68)
    pose[LEFT_HAND, :2] = 500
    box = face_box(pose)
    assert box is not None and (box < 100).all()
    assert box[2] - box[0] == pytest.approx(box[3] - box[1])
    hidden = pose.copy()
    hidden[FACE, 2] = 0.1
    assert face_box(hidden) is None
    small = pose.copy()
    small[:, :2] *= 0.5 * LEAST_FACE / 40
    assert face_box(small) is None
