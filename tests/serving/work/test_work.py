"""The server's work in plain processes: killed anywhere it ends in the same video, cancelled it stops within a step."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import pytest
from PIL import Image

from posegen.sharing import Position, SharedEntry
from posegen.video import probe
from serving.state.artifacts import preview_artifact
from serving.state.database import Database
from serving.state.rows import Claim, Job, JobPlan, Kind, QueueLimits, Role
from serving.state.transitions import JobStatus
from serving.work.generate import Generate
from serving.work.loop import Beat, Work, Worker
from serving.work.records import RecordId, RecordLost
from testkit.serving_workers import FRAMES, LEASE, FileRecords, Moment, Place, at, die, empty_place
from testkit.tiny_model import STEPS


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A server with nothing to do."""
    return empty_place(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def planned(empty: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A server with one job, which is planned."""
    place = empty.copy(tmp_path_factory.mktemp("planned") / "server")
    place.post(FRAMES)
    assert place.finish(Role.PREPARE) == 0
    return place


@pytest.fixture(scope="module")
def undisturbed(planned: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What becomes of the job when nothing happens."""
    place = planned.copy(tmp_path_factory.mktemp("undisturbed") / "server")
    assert place.finish(Role.GENERATE) == 0
    assert place.finish(Role.STITCH) == 0
    return results(place)


def only_job(place: Place) -> Job:
    (job,) = place.database.jobs.page()
    return job


def results(place: Place) -> dict[str, bytes]:
    """The committed artifacts of the only job, by name."""
    job = only_job(place)
    assert job.status is JobStatus.COMPLETED, job.error_message
    tasks = place.database.jobs.tasks(job.id)
    return {task.artifact: place.artifacts.read(task.artifact) for task in tasks if task.artifact}


def attempts(place: Place) -> dict[tuple[str, int], int]:
    """How often each task was claimed, where more than once."""
    tasks = place.database.jobs.tasks(only_job(place).id)
    return {(task.kind, task.index): task.attempt for task in tasks if task.attempt > 1}


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(Moment("segment", 0, 0), id="anchor before it publishes"),
        pytest.param(Moment("segment", 0, 1), id="anchor after it has published"),
        pytest.param(Moment("segment", 0, None), id="anchor before it commits"),
        pytest.param(Moment("segment", 2, 1), id="base"),
        pytest.param(Moment("segment", 1, 1), id="bridge"),
    ],
)
def test_a_killed_generator_costs_one_segment(
    planned: Place, undisturbed: dict[str, bytes], tmp_path: Path, moment: Moment
) -> None:
    place = planned.copy(tmp_path / "server")
    assert place.finish(Role.GENERATE, at(moment, die)) == -signal.SIGKILL
    place.expire()
    assert place.finish(Role.GENERATE) == 0
    assert place.finish(Role.STITCH) == 0
    assert results(place) == undisturbed
    assert attempts(place) == {("segment", moment.index): 2}


@pytest.mark.parametrize(
    ("role", "moment", "last"),
    [
        pytest.param(Role.GENERATE, Moment("segment", 0, STEPS), 2, id="segment"),
        pytest.param(Role.STITCH, Moment("stitch", 0, FRAMES), 1, id="video"),
    ],
)
def test_a_worker_that_was_replaced_does_not_write_over_the_result(
    planned: Place, tmp_path: Path, role: Role, moment: Moment, last: int
) -> None:
    """Another machine's result may differ in bits; what was built on the first must go on seeing that."""
    place = planned.copy(tmp_path / "server")
    if role is Role.STITCH:
        place.finish(Role.GENERATE)
    job = only_job(place)
    beats: list[int] = []

    def replaced() -> None:
        beats.append(1)
        if len(beats) == last:  # when there is something to be stored
            place.expire()
            other = place.database.queue.claim(role, "other", LEASE)
            assert other is not None
            place.artifacts.write(other.task.artifact, b"the other's")
            assert place.database.queue.release(other)

    worker = place.worker(role, at(moment, replaced))
    assert worker.turn() and len(beats) == last
    (task,) = (
        task for task in place.database.jobs.tasks(job.id, Kind(moment.kind)) if task.index == moment.index
    )
    assert place.artifacts.read(task.artifact) == b"the other's"


def test_a_killed_stitcher_writes_the_same_video(
    planned: Place, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    place = planned.copy(tmp_path / "server")
    place.finish(Role.GENERATE)
    (stitch,) = place.database.jobs.tasks(only_job(place).id, Kind.STITCH)
    assert place.finish(Role.STITCH, at(Moment("stitch", 0, 8), die)) == -signal.SIGKILL
    place.expire()
    assert place.finish(Role.STITCH) == 0
    assert results(place) == undisturbed
    assert attempts(place) == {("stitch", stitch.index): 2}


def test_a_video_is_written_at_the_rate_that_is_asked_for(
    empty: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = empty.copy(tmp_path_factory.mktemp("slow") / "server")
    job = place.post(FRAMES, rate=place.model.rate / 2)
    for role in Role:
        assert place.finish(role) == 0
    (stitch,) = place.database.jobs.tasks(job.id, Kind.STITCH)
    with place.artifacts.local_copy(stitch.artifact) as path:
        info = probe(path)
    assert info.rate == place.model.rate / 2 and len(info.frame_times) == (FRAMES + 1) // 2
    assert info.duration == pytest.approx(FRAMES / place.model.rate, abs=1 / place.model.rate)


def test_a_segment_in_the_making_can_be_seen(planned: Place, tmp_path: Path) -> None:
    """From its first step on, in a file that is written over."""
    place = planned.copy(tmp_path / "server")
    job, found = only_job(place), []

    def look() -> None:
        names = {f"{job.id}/{name}" for name in place.artifacts.names(job.id)}
        found.append(names & {preview_artifact(job.id, index) for index in range(3)})

    worker = place.worker(Role.GENERATE, at(Moment("segment", 0, 1), look))
    while worker.turn():
        pass
    assert found[0] == {preview_artifact(job.id, 0)}
    for index in range(3):
        picture = Image.open(io.BytesIO(place.artifacts.read(preview_artifact(job.id, index))))
        assert picture.format == "JPEG" and picture.height == 192


def test_a_lost_record_is_made_once_more(
    planned: Place, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    place = planned.copy(tmp_path / "server")
    assert place.finish(Role.GENERATE, at(Moment("segment", 2, 0), die)) == -signal.SIGKILL
    place.records.lose()
    place.expire()
    assert place.finish(Role.GENERATE) == 0
    assert place.finish(Role.STITCH) == 0
    assert results(place) == undisturbed
    kinds = [task.kind for task in place.database.jobs.tasks(only_job(place).id)]
    assert kinds.count(Kind.RECORD) == 1
    assert set(attempts(place)) == {("segment", 2)}, "the anchor's segment is not computed again"


class Unreadable(FileRecords):
    """Records whose entries cannot be read, for a reason that a store foresees or another."""

    def __init__(self, folder: Path, reason: Exception) -> None:
        super().__init__(folder)
        self._reason = reason

    def get(self, store: str, record: RecordId, place: Position) -> SharedEntry:
        raise self._reason


class Corrupt(FileRecords):
    """Records whose first generation is damaged once it is written."""

    def get(self, store: str, record: RecordId, place: Position) -> SharedEntry:
        if record.generation == 1:
            for path in self._record(store, record).iterdir():
                path.write_bytes(b"\xff" * 100)
        return super().get(store, record, place)


def generator(place: Place, records: FileRecords) -> Worker:
    """A worker that generates with other records, of a server that bears with two losses."""
    database = Database(f"sqlite:///{place.folder}/serving.db", QueueLimits(expiries=3))
    return Worker(
        Role.GENERATE,
        database,
        Generate(place.pipeline, database, place.artifacts, records),
        LEASE,
        poll=0.1,
        store=records.here(),
    )


@pytest.mark.parametrize("reason", [RecordLost("gone"), PermissionError("out of reach")])
def test_a_record_that_can_never_be_read_fails_the_job_in_a_sentence(
    planned: Place, tmp_path: Path, reason: Exception
) -> None:
    place = planned.copy(tmp_path / "server")
    worker = generator(place, Unreadable(place.folder / "records", reason))
    turns = 0
    while worker.turn():
        assert (turns := turns + 1) < 20, "it goes on for ever"
    job = only_job(place)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "record_lost")
    assert str(job.error_message).startswith("The shared background was lost again and again")
    kinds = [task.kind for task in place.database.jobs.tasks(job.id)]
    assert kinds.count(Kind.RECORD) == 2, "it was made once more after each loss but the last"


def test_a_damaged_record_is_made_once_more(
    planned: Place, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    place = planned.copy(tmp_path / "server")
    worker = generator(place, Corrupt(place.folder / "records"))
    while worker.turn():
        pass
    assert place.finish(Role.STITCH) == 0
    assert results(place) == undisturbed
    assert set(attempts(place)) == {("segment", 2)}


def test_a_record_made_once_more_is_cancelled_within_a_step(planned: Place, tmp_path: Path) -> None:
    place = planned.copy(tmp_path / "server")
    assert place.finish(Role.GENERATE, at(Moment("segment", 2, 0), die)) == -signal.SIGKILL
    place.records.lose()
    place.expire()
    job = only_job(place)
    cancel = at(Moment("record", 2, 0), lambda: place.database.jobs.cancel(job.id))
    worker = place.worker(Role.GENERATE, cancel)
    while worker.turn():
        pass
    job = only_job(place)
    assert (job.error_code, job.published_steps) == ("cancelled", 0)


def test_a_killed_preparation_is_done_again(empty: Place, tmp_path: Path) -> None:
    place = empty.copy(tmp_path / "server")
    job = place.post(FRAMES)
    assert place.finish(Role.PREPARE, at(Moment("prepare", 0, 0), die)) == -signal.SIGKILL
    place.expire(Role.STITCH)
    assert place.finish(Role.PREPARE) == 0
    assert place.database.jobs.get(job.id).plan is not None


@pytest.mark.parametrize(
    ("role", "moment"),
    [
        pytest.param(Role.PREPARE, Moment("prepare", 0, 0), id="prepared"),
        pytest.param(Role.GENERATE, Moment("segment", 0, 1), id="anchor"),
        pytest.param(Role.GENERATE, Moment("segment", 2, 1), id="base"),
        pytest.param(Role.GENERATE, Moment("segment", 1, 1), id="bridge"),
        pytest.param(Role.STITCH, Moment("stitch", 0, 8), id="stitched"),
    ],
)
def test_a_cancelled_job_frees_its_worker_within_a_step(
    empty: Place, planned: Place, tmp_path: Path, role: Role, moment: Moment
) -> None:
    place = (empty if role is Role.PREPARE else planned).copy(tmp_path / "server")
    if role is Role.PREPARE:
        place.post(FRAMES)
    if role is Role.STITCH:
        place.finish(Role.GENERATE)
    job = only_job(place)
    told: list[int] = []

    def watched(work: Work) -> Work:
        def around(claim: Claim, beat: Beat) -> JobPlan | None:
            def listen(step: int, steps: int) -> None:
                if place.database.jobs.get(job.id).status is JobStatus.FAILED:
                    told.append(step)
                beat(step, steps)

            return work(claim, listen)

        return at(moment, lambda: place.database.jobs.cancel(job.id))(around)

    worker = place.worker(role, watched)
    while worker.turn():
        pass
    assert only_job(place).error_code == "cancelled"
    assert not told, "no step after the one in which it was cancelled"
    assert not worker.turn(), "nothing of the job is left to do"


def test_a_job_cancelled_in_the_queue_is_never_begun(empty: Place, tmp_path: Path) -> None:
    place = empty.copy(tmp_path / "server")
    job = place.post(FRAMES)
    place.database.jobs.cancel(job.id)
    assert not any(place.worker(role).turn() for role in Role)
