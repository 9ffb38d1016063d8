"""What Ray Data runs: classes that hold the models, do one row at a time, and record it before they return.

A worker first asks how often its row was tried. A row whose work was begun three times and never ended has killed or
hung its worker each time; it is recorded as failed instead. An exception is recorded at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import pyarrow as pa
import ray
from ray.actor import ActorHandle

from pipeline.caption.captioner import CAPTIONED, failed_caption, make_captioner
from pipeline.caption.qwen import CaptionerError
from pipeline.config import CurateConfig
from pipeline.plan.planner import PLAN, failed_video, make_planner
from pipeline.records.attempts import MOST_ATTEMPTS, time_limit
from pipeline.records.journal import Journal, is_failed
from pipeline.score.scorer import SCORED, failed_clip, make_scorer
from posegen.common.storage import Folder, StorageError
from posegen.common.weights import WeightsError
from posegen.dataset import content_id

# Longer work is taken to hang. A clip of 20 s takes half a minute on one core, a video of an hour some minutes.
PLAN_SECONDS = 4 * 3600.0
CLIP_SECONDS = 1500.0
CAPTION_SECONDS = 300.0


class SetupError(RuntimeError):
    """A model that the configuration asks for cannot be had; the message says which and what to do."""


class WorkerDiedError(RuntimeError):
    """The work on a row ended its process each time it was tried."""


def plan_journal(config: CurateConfig) -> Journal:
    """Finished plans by `video_key`."""
    return Journal(Folder(config.output, "work"), f"plan-{config.plan_version[:8]}", PLAN)


def score_journal(config: CurateConfig) -> Journal:
    """Finished scores by clip_id."""
    return Journal(Folder(config.output, "work"), f"scores-{config.score_version[:8]}", SCORED)


def caption_journal(config: CurateConfig) -> Journal:
    """Captions of the configured model by clip_id."""
    return Journal(Folder(config.output, "work"), f"captions-{content_id(config.captioner)[:8]}", CAPTIONED)


def video_key(row: dict[str, Any]) -> str:
    """Names a listed file's plan: the same as long as its path, size and time of change are."""
    return content_id(row["path"], row["bytes"], row["changed"])


class Worker:
    """What planning and scoring share: attempts, the time limit, the record."""

    make: Callable[[Any], Callable[..., pa.Table]]
    """Loads the models; returns the function that does the work."""
    most_seconds: float
    """How long a row may take before it is taken to hang."""

    def __init__(self, config: Any, attempts: ActorHandle, journal: Journal):
        self.retry_failed = config.retry_failed
        cv2.setNumThreads(1)  # one process a core: more threads only take turns
        self.attempts, self.journal = attempts, journal
        self.work = self.make(config)

    def do(
        self, key: str, seconds: float, work: Callable[[], pa.Table], failed: Callable[[Exception], pa.Table]
    ) -> pa.Table:
        """The record of a key: as already stored, or made by `work`, or by `failed` from what went wrong."""
        if not self.journal.is_open(key, self.retry_failed):
            return self.journal.read(key)
        if attempt(self.attempts, key) > MOST_ATTEMPTS:
            record = failed(WorkerDiedError(died(seconds)))
        else:
            try:
                with time_limit(seconds):
                    record = work()
            except Exception as error:  # a fault of this row only, which the row records
                record = failed(error)
        self.journal.write(key, record)
        ray.get(self.attempts.end.remote(key))
        return record


class PlanWorker(Worker):
    """Plans one listed video: `{path, bytes, changed}` in, counts for the progress line out."""

    make = staticmethod(make_planner)
    most_seconds = PLAN_SECONDS

    def __init__(self, config: CurateConfig, attempts: ActorHandle):
        super().__init__(config, attempts, plan_journal(config))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        name = row["path"]
        record = self.do(
            video_key(row),
            self.most_seconds,
            lambda: self.work(name),
            lambda error: failed_video(name, "plan", error),
        )
        return {"work": 1.0, "failed": int(is_failed(record))}


class ScoreWorker(Worker):
    """Scores one planned clip: a row of the plan in, counts for the progress line out."""

    make = staticmethod(make_scorer)
    most_seconds = CLIP_SECONDS

    def __init__(self, config: CurateConfig, attempts: ActorHandle):
        super().__init__(config, attempts, score_journal(config))

    def __call__(self, clip: dict[str, Any]) -> dict[str, Any]:
        record = self.do(
            clip["clip_id"],
            self.most_seconds,
            lambda: self.work(clip),
            lambda error: failed_clip(clip, "score", error),
        )
        return {"work": record["frames"][0].as_py() or 0.0, "failed": int(is_failed(record))}


class CaptionWorker:
    """Captions a batch of kept clips with a model; returns their records, a table `CAPTIONED`.

    A batch whose worker died is done clip by clip the next time, so that only the clip that kills it is counted.
    """

    def __init__(self, config: CurateConfig, attempts: ActorHandle):
        self.attempts, self.journal = attempts, caption_journal(config)
        self.retry_failed = config.retry_failed
        self.caption = make_captioner(config)

    def __call__(self, clips: pa.Table) -> pa.Table:
        rows = clips.to_pylist()
        todo = [row for row in rows if self.journal.is_open(row["clip_id"], self.retry_failed)]
        if todo and attempt(self.attempts, content_id(*(row["clip_id"] for row in todo))) == 1:
            self._record(todo)
        else:
            for row in todo:
                # The attempt in the batch counts as well.
                self._record(
                    [row],
                    WorkerDiedError if attempt(self.attempts, row["clip_id"]) >= MOST_ATTEMPTS else None,
                )
        return pa.concat_tables([self.journal.read(row["clip_id"]) for row in rows])

    def _record(self, rows: list[dict[str, Any]], error: type[Exception] | None = None) -> None:
        seconds = CAPTION_SECONDS * len(rows)
        if error:
            records = [failed_caption(row, error(died(seconds))) for row in rows]
        else:
            with time_limit(seconds):
                records = self.caption(rows)
        for row, record in zip(rows, records, strict=True):
            self.journal.write(row["clip_id"], record)


def attempt(attempts: ActorHandle, key: str) -> int:
    """Begins an attempt at a key; returns its number, from 1."""
    number: Any = ray.get(attempts.begin.remote(key))
    return number


def died(seconds: float) -> str:
    """The message of a row that failed without an exception."""
    return (
        f"its worker died or took over {seconds:.0f} s, {MOST_ATTEMPTS} times; look for it in the workers' logs, "
        "or take the file out"
    )


def load_models(config: Any, make: Callable[[Any], object], gpus: float) -> None:
    """Loads a worker's models once, where a worker would run, so that a missing model is reported in a sentence.

    Raises SetupError.
    """

    @ray.remote(num_cpus=1, num_gpus=gpus)
    def problem() -> str | None:
        try:
            make(config)
        except (WeightsError, StorageError, CaptionerError, ValueError) as error:
            return str(error)
        return None

    if sentence := ray.get(problem.remote()):
        raise SetupError(sentence)
