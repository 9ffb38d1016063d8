"""Files of jobs in a folder and in a bucket, and how results are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jobs import job_plan

from serving.artifacts import Artifacts, ArtifactsError, segment_artifacts, video_artifact

SEEDS = dict.fromkeys(range(5), 7)


@pytest.fixture(params=["folder", "bucket"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    if request.param == "folder":
        return Artifacts(str(tmp_path / "results"))
    return Artifacts(request.getfixturevalue("bucket"))


def test_files_are_kept(artifacts: Artifacts, tmp_path: Path) -> None:
    assert not artifacts.exists("video_1/a.bin")
    artifacts.write("video_1/a.bin", b"first")
    (tmp_path / "b.bin").write_bytes(b"second")
    artifacts.save("video_2/b.bin", tmp_path / "b.bin")
    assert artifacts.exists("video_1/a.bin") and not artifacts.exists("video_1")
    assert artifacts.read("video_1/a.bin") == b"first"
    with artifacts.local_copy("video_2/b.bin") as path:
        assert path.read_bytes() == b"second"
    with artifacts.open("video_2/b.bin") as stream:
        stream.seek(3)
        assert (stream.size(), stream.read()) == (6, b"ond")
    with pytest.raises(FileNotFoundError):
        artifacts.read("video_1/c.bin")


def test_a_jobs_files_go_with_it(artifacts: Artifacts) -> None:
    assert artifacts.folders() == []
    artifacts.write("video_1/a.bin", b"one")
    artifacts.write("video_2/a.bin", b"other")
    assert artifacts.folders() == ["video_1", "video_2"]
    artifacts.delete("video_1")
    artifacts.delete("video_1")
    assert artifacts.folders() == ["video_2"]


def test_frames_come_back_as_they_were(artifacts: Artifacts) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    artifacts.save_frames("video_1/frames.safetensors", frames)
    assert np.array_equal(artifacts.load_frames("video_1/frames.safetensors"), frames)


def test_what_was_not_written_whole_is_not_there(artifacts: Artifacts, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        artifacts.save("video_1/a.bin", tmp_path)
    with pytest.raises(RuntimeError), artifacts._sink("video_1/a.bin") as stream:
        stream.write(b"half")
        raise RuntimeError
    assert not artifacts.exists("video_1/a.bin")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "video_1/../../a", ".."])
def test_names_stay_inside(tmp_path: Path, name: str) -> None:
    artifacts = Artifacts(str(tmp_path))
    for use in (artifacts.exists, artifacts.read, artifacts.delete):
        with pytest.raises(ValueError, match="relative path"):
            use(name)


def test_what_is_no_folder_is_refused() -> None:
    with pytest.raises(ArtifactsError, match="nonsense://"):
        Artifacts("nonsense://bucket")


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
