"""The state shared by several processes, one of them killed: a task is one worker's, and is published once."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from serving.state.database import Database
from serving.state.rows import Claim, Kind, NewJob, QueueFullError, QueueLimits, Role, new_job_id
from serving.state.transitions import JobStatus, TaskState
from testkit.jobs import finish, job_plan, planned

pytestmark = pytest.mark.slow

SPAWN = multiprocessing.get_context("spawn")
PROCESSES, JOBS = 3, 3
LONG, SHORT = 600.0, 2.0
"""Seconds of a lease: never to end in a test, and to be waited for."""

MINUTE = 60.0
"""Seconds that processes wait for one another, lest all wait for one that failed."""


def test_processes_open_empty_databases_at_once(tmp_path: Path) -> None:
    """Turning an empty SQLite file to write-ahead logging used to fail in one of ten tries of three processes."""
    together, folders = (
        SPAWN.Barrier(PROCESSES, timeout=MINUTE),
        [tmp_path / str(number) for number in range(40)],
    )
    run(PROCESSES, open_each, folders, together)


def open_each(_number: int, folders: list[Path], together: Barrier) -> None:
    for folder in folders:
        together.wait()
        Database(f"sqlite:///{folder}/state.db").close()


def run(number: int, function: Callable[..., None], *arguments: Any) -> None:
    """Runs the function in processes, which get their number first, to their end, or to the first that fails."""
    processes = [
        SPAWN.Process(target=function, args=(index, *arguments), daemon=True) for index in range(number)
    ]
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    try:
        while running:
            for sentinel in wait(list(running)):
                ended = running.pop(sentinel)  # type: ignore[arg-type]
                ended.join()
                assert ended.exitcode == 0, f"process {processes.index(ended)} ended with {ended.exitcode}"
    finally:
        for process in running.values():
            process.kill()


def test_processes_share_the_queue(database_url: str, tmp_path: Path) -> None:
    """Processes open an empty database, post with one key, fill the queue and do all the work, all at once."""
    run(PROCESSES, post_and_work, database_url, tmp_path, SPAWN.Barrier(PROCESSES, timeout=MINUTE))
    notes = [note for diary in tmp_path.glob("*.jsonl") for note in read(diary)]
    posts = [note["post"] for note in notes if "post" in note]
    assert len({job_id for job_id, _ in posts}) == 1 and [made for _, made in posts].count(True) == 1
    assert sum(note["more"] for note in notes if "more" in note) == JOBS - 1  # then the queue was full
    claims = Counter(note["claim"] for note in notes if "claim" in note)
    assert set(claims.values()) == {1}
    database = Database(database_url)
    assert database.jobs.counts()[JobStatus.COMPLETED] == JOBS
    everything = [task for job in database.jobs.page() for task in database.jobs.tasks(job.id)]
    assert set(claims) == {task.id for task in everything}
    assert {(task.state, task.attempt) for task in everything} == {(TaskState.DONE, 1)}
    database.close()


def post_and_work(number: int, url: str, folder: Path, together: Barrier) -> None:
    """What one of the processes does; all notes of its diary are true once they are written."""
    together.wait()
    database = Database(url, QueueLimits(jobs=JOBS))
    with (folder / f"{number}.jsonl").open("w", buffering=1) as notes:
        job, made = database.jobs.create(NewJob(new_job_id(), "ann", {}), "one key")
        write(notes, post=(job.id, made))
        write(notes, more=fill(database, str(number)))
        together.wait()
        while database.jobs.counts()[JobStatus.COMPLETED] < JOBS:
            # One process takes no stitching, which waits: else all might be waiting for segments at once.
            for role in (Role.PREPARE, Role.GENERATE) if number == 0 else Role:
                if claim := database.queue.claim(role, f"{role} {number}", LONG):
                    write(notes, claim=claim.task.id)
                    assert hand_in(database, claim)
            time.sleep(0.01)  # as workers do: those that ask without a pause starve the one that has the task


def fill(database: Database, owner: str) -> int:
    """Posts jobs until the queue is full; returns how many."""
    for posted in range(JOBS + 1):
        try:
            database.jobs.create(NewJob(new_job_id(), owner, {}))
        except QueueFullError:
            return posted
    raise AssertionError("the queue is never full")


def hand_in(database: Database, claim: Claim) -> bool:
    """Does a task; whether its result was published."""
    if claim.task.kind is Kind.PREPARE:
        return database.queue.commit_plan(claim, job_plan())
    while claim.task.kind is Kind.STITCH and not segments_done(database, claim):
        time.sleep(0.05)
    if claim.records:
        database.queue.publish_record_step(claim, job_plan().shared_steps)
    return database.queue.commit(claim)


def segments_done(database: Database, claim: Claim) -> bool:
    segments = database.jobs.tasks(claim.job.id, Kind.SEGMENT)
    return all(task.state is TaskState.DONE for task in segments)


def test_a_killed_process_loses_nothing(database_url: str, tmp_path: Path) -> None:
    """One process works until it is killed, wherever it is just then; another does the rest."""
    database = Database(database_url)
    job = planned(database, job_plan(frames=1500))
    diary = tmp_path / "diary.jsonl"
    victim = SPAWN.Process(target=work_on, args=(database_url, diary), daemon=True)
    victim.start()
    while not diary.exists() or len(read(diary)) < 5:
        time.sleep(0.01)
    victim.kill()
    victim.join()
    published = [note["published"] for note in read(diary)]
    mine = []
    while any(task.state is not TaskState.DONE for task in database.jobs.tasks(job.id, Kind.SEGMENT)):
        if claim := database.queue.claim(Role.GENERATE, "survivor", LONG):
            finish(database, claim)
            mine.append(claim.task.id)
        else:
            time.sleep(0.1)  # until the victim's lease ends
    assert not set(published) & set(mine)
    assert len(published) == len(set(published)) and len(mine) == len(set(mine))
    unnoted = len(database.jobs.tasks(job.id, Kind.SEGMENT)) - len(published) - len(mine)
    assert unnoted in (0, 1)  # killed between publishing and noting it
    database.close()


def work_on(url: str, diary: Path) -> None:
    """Generates until it is killed."""
    database = Database(url)
    with diary.open("w", buffering=1) as notes:
        while claim := database.queue.claim(Role.GENERATE, "victim", SHORT):
            if hand_in(database, claim):
                write(notes, published=claim.task.id)


def write(notes: Any, **note: Any) -> None:
    notes.write(json.dumps(note) + "\n")


def read(diary: Path) -> list[dict[str, Any]]:
    """The whole lines of a diary that may be being written."""
    return [json.loads(line) for line in diary.read_text().splitlines(keepends=True) if line.endswith("\n")]
