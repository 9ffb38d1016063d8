"""Frames of jobs in a folder and in a bucket, and how results are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posegen.video.lossless import decompress_frames
from serving.state.artifacts import Artifacts, segment_artifacts, video_artifact
from serving.state.rows import new_job_id
from testkit.jobs import job_plan

SEEDS = dict.fromkeys(range(5), 7)


@pytest.fixture(params=["folder", "bucket"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    if request.param == "folder":
        return Artifacts(str(tmp_path / "results"), "a-database")
    return Artifacts(request.getfixturevalue("bucket"), "a-database")


def test_frames_come_back_as_they_were(artifacts: Artifacts) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    artifacts.save_frames("video_1/frames.safetensors", frames)
    assert np.array_equal(artifacts.load_frames("video_1/frames.safetensors"), frames)
    artifacts.save_frames("video_1/turned.safetensors", frames.transpose(0, 2, 1, 3))
    assert np.array_equal(artifacts.load_frames("video_1/turned.safetensors"), frames.transpose(0, 2, 1, 3))


def test_frames_are_read_from_cut_to_cut(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 7, 5, 3), np.uint8)
    decoded: list[int] = []

    def counted(content: bytes) -> np.ndarray:
        found = decompress_frames(content)
        decoded.append(len(found))
        return found

    monkeypatch.setattr("serving.state.artifacts.decompress_frames", counted)
    artifacts.save_frames("video_1/frames.safetensors", frames, cuts=(4, 8, 9, 20))
    for start, stop, parts in (
        (0, None, [4, 4, 1]),
        (-1, None, [1]),
        (0, 4, [4]),
        (5, 6, [4]),
        (3, 5, [4, 4]),
    ):
        decoded.clear()
        assert np.array_equal(
            artifacts.load_frames("video_1/frames.safetensors", start, stop), frames[start:stop]
        )
        assert decoded == parts


def test_frames_that_resemble_each_other_take_little_room(artifacts: Artifacts) -> None:
    frames = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 96, 64, 3), np.uint8), 20, axis=0)
    artifacts.save_frames(f"{(job_id := new_job_id())}/frames.safetensors", frames)
    artifacts.write("somebody/elses", b"12345")
    assert list(artifacts.job_bytes()) == [job_id]
    assert artifacts.job_bytes()[job_id] < frames.nbytes / 5


def test_a_name_tells_everything_that_frames_depend_on() -> None:
    plan = job_plan()
    names = segment_artifacts("video_1", plan, SEEDS)
    assert names == segment_artifacts("video_1", plan, SEEDS)
    assert len(set(names.values())) == 5
    other = segment_artifacts("video_1", replace(plan, content_id="other"), SEEDS)
    assert not set(names.values()) & set(other.values())
    reseeded = segment_artifacts("video_1", plan, {**SEEDS, 2: 8})
    assert [index for index in names if names[index] != reseeded[index]] == [1, 2, 3]
    assert video_artifact("video_1", names) != video_artifact("video_1", reseeded)


def test_with_sharing_all_frames_depend_on_the_anchor() -> None:
    for shared_steps, changed in ((2, [0, 1, 2, 3, 4]), (0, [0, 1])):
        plan = job_plan(shared_steps=shared_steps)
        names = segment_artifacts("video_1", plan, SEEDS)
        reseeded = segment_artifacts("video_1", plan, {**SEEDS, 0: 8})
        assert [index for index in names if names[index] != reseeded[index]] == changed
