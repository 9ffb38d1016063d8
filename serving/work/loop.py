"""The loop of every worker: claim a task, do it, publish its result.

It knows neither models nor Ray, so any process can work. After each step it asks the database whether the work is still
wanted, and goes on without an answer as long as its lease holds. An error in a task is written into the task's row. A
worker that is stopped hands its task back at the next step. One that hangs is reported by `trouble`, and one that fails
at several tasks in a row ends, since something may be wrong with its process, such as its GPU. Too little memory is the
job's fault, which is told at once: its next attempt would need as much.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from serving.state.database import Database
from serving.state.rows import Claim, Heartbeat, JobPlan, Role

log = logging.getLogger(__name__)

Beat = Callable[[int, int], None]
"""Told how many of how many steps are done, after each; raises Dropped or HandedBack."""

Work = Callable[[Claim, Beat], JobPlan | None]
"""Does a task: its artifact is stored when it returns; a preparation returns the job's plan."""


class Dropped(Exception):  # noqa: N818 - nothing is wrong
    """The task now belongs to another worker, or its job has ended."""


class HandedBack(Exception):  # noqa: N818 - nothing is wrong
    """The task is handed back, to be done later or by another worker."""


class Refused(Exception):  # noqa: N818 - the client's fault
    """The task can never be done; the message is a sentence for the client."""

    def __init__(self, sentence: str, code: str = "invalid_input") -> None:
        super().__init__(sentence)
        self.code = code


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, or torch on a GPU or a CPU, could not have the memory that it asked for."""
    on_gpu = type(error).__name__ == "OutOfMemoryError"  # torch's, which not every worker imports
    return isinstance(error, MemoryError) or on_gpu or "can't allocate memory" in str(error)


def worker_name(role: Role) -> str:
    """A name that no other worker has, which tells where it is."""
    return f"{role}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class Worker:
    """A thread that works for a role until it is stopped."""

    def __init__(
        self,
        role: Role,
        database: Database,
        work: Work,
        lease: float,
        poll: float = 0.5,
        between: Callable[[], object] = lambda: None,
        looking: threading.Lock | None = None,
        store: str = "",
    ) -> None:
        """lease: seconds without a step after which others may take its task. poll: seconds between looks for work.

        between: called before each look and at each step. looking: shared by workers of which only one at a time shall
        look for work. store: where it keeps an anchor's record, see `TaskQueue.claim`.
        """
        self.name = worker_name(role)
        self._role, self._queue, self._work = role, database.queue, work
        self._failures_allowed = database.storage.limits.failures
        self._lease, self._poll, self._between = lease, poll, between
        self._looking, self._store = looking or threading.Lock(), store
        self._stopping = threading.Event()
        self._held_until = 0.0
        self._signed = math.inf  # when it last gave a sign of life; infinite between tasks
        self._failed = 0  # tasks in a row
        self._thread = threading.Thread(target=self.run, name=self.name, daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Takes no more tasks and hands back the one in hand at its next step."""
        self._stopping.set()

    def join(self, patience: float) -> bool:
        """Waits at most `patience` seconds for its end; returns whether it has ended."""
        self._thread.join(max(0.0, patience))
        return not self._thread.is_alive()

    def trouble(self) -> str | None:
        """What is wrong with it, if anything: its thread has ended, or was silent for longer than its lease."""
        if not self._thread.is_alive():
            return f"{self.name} has ended"
        if (silent := time.monotonic() - self._signed) > self._lease:
            return f"{self.name} has given no sign of life for {silent:.0f} s"
        return None

    def run(self) -> None:
        """Works until stopped, or until more tasks have failed in a row than one alone may."""
        while not self._stopping.is_set() and self._failed <= self._failures_allowed:
            self._signed = math.inf
            try:
                with self._looking:
                    # It may have been stopped while it waited for its turn.
                    claim = None if self._stopping.is_set() else self._look()
                    if claim is None:
                        self._stopping.wait(self._poll)
                if claim is not None:
                    self._do(claim)
            except (SQLAlchemyError, OSError) as error:
                log.warning("%s cannot work now, and will try again: %s", self.name, error)
                self._stopping.wait(self._poll)

    def turn(self) -> bool:
        """Does one task; False if there was none."""
        claim = self._look()
        if claim is not None:
            self._do(claim)
        return claim is not None

    def _look(self) -> Claim | None:
        self._signed = time.monotonic()
        self._between()
        claim = self._queue.claim(self._role, self.name, self._lease, self._store)
        self._signed = math.inf
        return claim

    def _do(self, claim: Claim) -> None:
        self._signed = time.monotonic()
        self._held_until = self._signed + self._lease
        task = f"{claim.job.id}: {claim.task.kind} {claim.task.index}, attempt {claim.task.attempt}"
        log.info("%s begins %s", self.name, task)
        try:
            self._publish(claim, self._work(claim, partial(self._beat, claim)))
            self._failed = 0
        except Dropped:
            log.info("%s drops %s", self.name, task)
        except HandedBack:
            log.info("%s hands back %s", self.name, task)
            self._queue.release(claim)
        except Refused as error:
            self._queue.fail(claim, str(error), retry=False, code=error.code)
        except SQLAlchemyError:
            raise  # the database does not answer; the lease will run out
        except Exception as error:
            log.exception("%s failed at %s", self.name, task)
            name = f"{claim.task.kind} {claim.task.index}".capitalize()
            if is_out_of_memory(error):
                size = claim.job.request["size"]
                sentence = f"{name} needs more memory than there is at size {size}; ask for a smaller one."
                self._queue.fail(claim, sentence, retry=False, code="out_of_memory")
                return
            sentence = f"{name} failed with {type(error).__name__}; see the server's log."
            self._queue.fail(claim, sentence, retry=True)
            self._failed += 1
            self._stopping.wait(2 * self._poll)  # lets another worker take it first

    def _publish(self, claim: Claim, plan: JobPlan | None) -> None:
        try:
            committed = (
                self._queue.commit_plan(claim, plan) if plan is not None else self._queue.commit(claim)
            )
        except ValueError as error:  # no node has the memory for the plan
            raise Refused(str(error)) from error
        log.info("%s %s %s", self.name, "published" if committed else "was too late for", claim.task.artifact)

    def _beat(self, claim: Claim, step: int, steps: int) -> None:
        self._signed = time.monotonic()
        if self._stopping.is_set():
            raise HandedBack
        try:
            answer = self._queue.heartbeat(claim, step, steps, self._lease)
            self._between()
        except SQLAlchemyError:
            if time.monotonic() > self._held_until:
                raise
            log.warning("%s has no answer from the database, and goes on while its lease holds", self.name)
            return
        if answer is not Heartbeat.CONTINUE:
            raise Dropped
        self._held_until = time.monotonic() + self._lease
