"""The upkeep deletes what this database's own jobs have left, and nothing of anybody else's."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from posegen.common.storage import Folder
from serving.api.upkeep import Sweep
from serving.state.artifacts import MARKER, Artifacts
from serving.state.database import Database
from serving.state.rows import NewJob, new_job_id


@pytest.fixture(params=["folder", "bucket"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "data") if request.param == "folder" else request.getfixturevalue("bucket")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'serving.db'}")


def files(uri: str) -> set[str]:
    """Everything in a folder or bucket that is a file."""
    return {name for name, _, _ in Folder(uri).walk()}


def keep_video(database: Database, uri: str) -> str:
    """A job with a file; returns its id."""
    artifacts, job_id = Artifacts(uri, database.id), new_job_id()
    artifacts.mark()
    artifacts.write(f"{job_id}/video.mp4", b"a video")
    database.jobs.create(NewJob(job_id, "somebody", {}))
    return job_id


def sweep_for_hours(database: Database, artifacts: Artifacts) -> None:
    sweep = Sweep(database, artifacts)
    for _ in range(3):
        sweep()


def test_orphans_are_deleted_once_they_were_seen_twice(database: Database, uri: str) -> None:
    artifacts, kept, orphan = Artifacts(uri, database.id), keep_video(database, uri), new_job_id()
    artifacts.write(f"{orphan}/input_reference", b"of a copy that died")
    sweep = Sweep(database, artifacts)
    sweep()
    assert artifacts.jobs() == sorted([kept, orphan])
    sweep()
    assert artifacts.jobs() == [kept]


def test_strangers_files_stay(database: Database, uri: str) -> None:
    job_id, old = keep_video(database, uri), new_job_id()
    strangers = ["thesis/chapter.tex", "photos/2019/sea.jpg", f"{old}/video.mp4", f"posegen-{old}/model.bin"]
    for name in strangers:
        Folder(uri).write(name, b"dear to somebody")
    artifacts = Artifacts(uri, database.id)
    artifacts.write("notes/read me", b"put among the jobs by hand")
    before = files(uri)
    sweep_for_hours(database, artifacts)
    assert files(uri) == before
    database.jobs.delete(job_id)
    sweep_for_hours(database, artifacts)
    assert before - files(uri) == {f"posegen-{database.id}/{job_id}/video.mp4"}


def test_videos_of_another_database_stay(database: Database, uri: str, tmp_path: Path) -> None:
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    keep_video(database, uri)
    keep_video(other, uri)
    before = files(uri)
    for one in (database, other):
        sweep_for_hours(one, Artifacts(uri, one.id))
    assert files(uri) == before


@pytest.mark.parametrize("marker", [b"another database", None])
def test_without_its_marker_nothing_is_deleted(
    database: Database, uri: str, marker: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    artifacts, job_id = Artifacts(uri, database.id), keep_video(database, uri)
    database.jobs.delete(job_id)
    artifacts.delete(MARKER) if marker is None else artifacts.write(MARKER, marker)
    with caplog.at_level(logging.WARNING):
        sweep_for_hours(database, artifacts)
        artifacts.delete_job(job_id)
    assert artifacts.jobs() == [job_id] and "does not name this database" in caplog.text


@pytest.mark.parametrize("name", ["", ".", "..", "notes", "video_1", MARKER])
def test_only_jobs_are_deleted(database: Database, uri: str, name: str) -> None:
    keep_video(database, uri)
    before = files(uri)
    with pytest.raises(ValueError, match="no id of a job"):
        Artifacts(uri, database.id).delete_job(name)
    assert files(uri) == before
