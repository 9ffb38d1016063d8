"""What Ray Data runs: classes that hold the models and do one video at a time, recording each piece before the next.

A video is fetched once. Its plan, each clip's scores and each kept clip's own video are recorded one by one, so a
worker that is begun again goes on where the last one ended. It first asks how often a piece was tried: one whose work
was begun three times and never ended has killed or hung its worker each time, and is recorded as failed instead. An
exception is recorded at once, unless it is the storage's fault (full, throttled, out of reach): then the video stays
to do.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import cv2
import pyarrow as pa
import ray
from ray.actor import ActorHandle

from pipeline.caption.captioner import failed_caption, make_captioner
from pipeline.config import CurateConfig
from pipeline.crop.cropper import failed_crops, make_cropper, score_crop, worth_cropping, write_crop
from pipeline.gpus import Gpus
from pipeline.journals import CUT, caption_journal, crop_journal, cut_journal, plan_journal, score_journal
from pipeline.metrics import count_clip
from pipeline.plan.planner import failed_video, failure, make_planner
from pipeline.plan.source import Source
from pipeline.records.attempts import MOST_ATTEMPTS, time_limit
from pipeline.records.journal import Files, Journal, is_failed
from pipeline.score.scorer import failed_clip, make_scorer
from pipeline.tables.media import MediaReader
from pipeline.verdict import Thresholds
from posegen.captions.qwen import CaptionerError
from posegen.common.faults import StorageFaultError, is_fault
from posegen.common.storage import Folder, StorageError
from posegen.common.weights import WeightsError
from posegen.dataset import content_id, table
from posegen.driving.poses.runtime import on_cpu
from posegen.video import VideoInfo, cut, turned

T = TypeVar("T")

# Longer work is taken to hang. A clip of 20 s takes half a minute on one core, a video of an hour some minutes.
PLAN_SECONDS = 4 * 3600.0
CLIP_SECONDS = 1500.0
CAPTION_SECONDS = 300.0


class SetupError(RuntimeError):
    """A model that the configuration asks for cannot be had; the message says which and what to do."""


class WorkerDiedError(RuntimeError):
    """The work on a row ended its process each time it was tried."""


class Worker:
    """What all share: attempts, the time limit, the record."""

    def __init__(self, attempts: ActorHandle):
        cv2.setNumThreads(1)  # one process a core: more threads only take turns
        self.attempts = attempts
        self.node = ray.get_runtime_context().get_node_id()

    def do(
        self,
        journal: Journal,
        video: str,
        key: str,
        seconds: float,
        work: Callable[[], pa.Table],
        failed: Callable[[Exception], pa.Table],
    ) -> pa.Table:
        """The record of a key: as already stored, or made by `work`, or by `failed` from what went wrong.

        Raises StorageFaultError, and records nothing, where the storage is what went wrong.
        """
        if journal.has(video, key):
            return journal.read(video, key)
        name = f"{journal.kind} {key}"
        if attempt(self.attempts, name, self.node) > MOST_ATTEMPTS:
            record = failed(WorkerDiedError(died(seconds)))
        else:
            try:
                with time_limit(seconds):
                    record = work()
            except Exception as error:  # a fault of this row only, which the row records
                if is_fault(error):
                    ray.get(self.attempts.end.remote(name))
                    raise StorageFaultError(str(error)) from error
                record = failed(error)
        journal.write(video, key, record)
        ray.get(self.attempts.end.remote(name))
        return record


class CutWorker(Worker):
    """Cuts clips out of their video: a task in, counts for the progress out."""

    def __init__(self, config: CurateConfig, attempts: ActorHandle):
        super().__init__(attempts)
        self.source, self.cuts = Folder(config.input), cut_journal(config)

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        done: dict[str, Any] = {"path": task["path"], "work": 0.0, "failed": 0, "fault": None}
        try:
            with Source(self.source, task["path"]) as video:
                self.work(task, video, done)
        except StorageFaultError as fault:
            done["fault"] = str(fault)
        return done

    def work(self, task: dict[str, Any], video: Source, done: dict[str, Any]) -> None:
        """Does a task, and counts in `done` what was done."""
        for clip in task["clips"]:
            done["failed"] += int(is_failed(self.cut_out(clip, video)))
            done["work"] += 1.0

    def cut_out(self, clip: Mapping[str, Any], video: Source) -> pa.Table:
        """The record of a clip's own video."""
        return self.do(
            self.cuts,
            clip["video_id"],
            clip["clip_id"],
            CLIP_SECONDS,
            lambda: cut_record(clip, video.info),
            lambda error: failed_cut(clip, video.said(error)),
        )


def failed_cut(clip: Mapping[str, Any], error: Exception) -> pa.Table:
    """The record of a clip that could not be cut out."""
    return table([{"clip_id": clip["clip_id"], **failure("media", error)}], CUT)


def cut_record(clip: Mapping[str, Any], info: VideoInfo) -> pa.Table:
    """A clip cut, or cropped, out of its video."""
    with tempfile.TemporaryDirectory(prefix="posegen-") as scratch:
        file, start = Path(scratch) / "clip.mp4", 0.0
        if is_crop(clip):
            write_crop(info, clip, file)
        else:
            shown = turned(info, clip.get("turned") or 0)
            start = cut(shown, clip["start"], clip["stop"], clip["rate"], file)
        row = {"media": file.read_bytes(), "media_start": start}
    length = {"seconds": clip["stop"] - clip["start"], "rate": clip["rate"]}
    return table([{"clip_id": clip["clip_id"], **row, **length}], CUT)


def is_crop(clip: Mapping[str, Any]) -> bool:
    """Whether a clip was cropped out of another."""
    return clip.get("cropped_from") is not None


class VideoWorker(CutWorker):
    """Plans a video, scores its clips, and cuts out those that pass every rule: a task in, counts for the progress out.

    A task is a row of `feeds.TASKS`: a listed file, with the clips that are to be scored, or none where it has no plan.
    """

    make_planner = staticmethod(make_planner)
    make_scorer = staticmethod(make_scorer)
    plan_seconds, clip_seconds = PLAN_SECONDS, CLIP_SECONDS

    def __init__(
        self,
        config: CurateConfig,
        attempts: ActorHandle,
        thresholds: Thresholds,
        most_clips: int | None,
        gpus: Gpus | None = None,
    ):
        """most_clips: how many clips of a new video are scored; the others are left to other tasks. gpus: what runs the
        large networks, in place of this process."""
        super().__init__(config, attempts)
        self.thresholds, self.most_clips = thresholds, most_clips
        self.plans, self.scores = plan_journal(config), score_journal(config)
        self.plan = self.make_planner(config, gpus.scores() if gpus else None)
        open_model = gpus.open_model if gpus else on_cpu
        embed = gpus.embed(config.embedder) if gpus and config.embedder else None
        self.score = self.make_scorer(config, open_model, embed)
        self.crops = crop_journal(config)
        self.crop = make_cropper(config, open_model) if config.people == "crop" else None

    def work(self, task: dict[str, Any], video: Source, done: dict[str, Any]) -> None:
        """Plans where there is no plan, and scores."""
        clips = task["clips"]
        if clips is None:
            clips = self.planned(task, video)
        for clip in clips:
            if clip["error_stage"] is not None:
                done["failed"] += 1
                continue
            record = self.scored(clip, video)
            done["work"] += record["frames"][0].as_py() or 0.0
            done["failed"] += int(is_failed(record))

    def planned(self, task: Mapping[str, Any], video: Source) -> list[dict[str, Any]]:
        """The clips of a video that this task scores; none where another task has a file of the same content."""
        key, name = task["key"], task["path"]
        video_id = video.id_or(key)
        record = self.do(
            self.plans,
            video_id,
            key,
            self.plan_seconds,
            lambda: self.plan(video),
            lambda error: failed_video(name, "plan", error, video_id),
        )
        clips = record.to_pylist()
        if not is_failed(record) and not ray.get(self.attempts.claim.remote(video_id, key)):
            return []
        return clips[: self.most_clips]

    def scored(self, clip: dict[str, Any], video: Source) -> pa.Table:
        """The scores of a clip; where these pass the rules, the clip is cut out too, or its people are."""
        record = self.do(
            self.scores,
            clip["video_id"],
            clip["clip_id"],
            self.clip_seconds,
            lambda: score_crop(self.score, clip, video) if is_crop(clip) else self.score(clip, video),
            lambda error: failed_clip(clip, "score", error),
        )
        failed = is_failed(record)
        reasons = [] if failed else self.thresholds.reasons(clip | record.to_pylist()[0])
        count_clip(record["frames"][0].as_py() or 0, failed, reasons)
        if not failed and not reasons:
            self.cut_out(clip | {"turned": record["turned"][0].as_py()}, video)
        elif self.crop and not is_crop(clip) and worth_cropping(reasons):
            self.crop_out(clip, video)
        return record

    def crop_out(self, clip: Mapping[str, Any], video: Source) -> pa.Table:
        """What became of the people of a clip, a table `CROPPED`; their crops are scored as clips are."""
        assert self.crop
        crop = self.crop
        record = self.do(
            self.crops,
            clip["video_id"],
            clip["clip_id"],
            self.clip_seconds,
            lambda: crop(clip, video),
            lambda error: failed_crops(video.said(error)),
        )
        for row in record.to_pylist():
            if row["clip_id"] is not None:
                self.scored(row, video)
        return record


class CropWorker(VideoWorker):
    """Crops people out of clips that were scored before: a task in, counts for the progress out.

    A task is a row of `feeds.TASKS`, of clips that show several people.
    """

    def work(self, task: dict[str, Any], video: Source, done: dict[str, Any]) -> None:
        """Plans the crops of each clip, and scores them."""
        for clip in task["clips"]:
            done["failed"] += int(is_failed(self.crop_out(clip, video)))
            done["work"] += 1.0


class CaptionWorker:
    """Captions a batch of kept clips with a model and records it; returns which clips failed.

    The frames come from the clips' own videos, so no source is read again. A batch whose worker died is done clip by
    clip the next time, so that only the clip that kills it is counted.
    """

    def __init__(self, config: CurateConfig, attempts: ActorHandle, records: Mapping[str, Files]):
        """records: the packed files of what was cut, by group."""
        self.attempts, self.journal = attempts, caption_journal(config)
        self.media = MediaReader(config, records)
        self.node = ray.get_runtime_context().get_node_id()
        self.scratch = tempfile.TemporaryDirectory(prefix="posegen-")
        self.caption = make_captioner(dataclasses.replace(config, input=self.scratch.name))

    def __call__(self, clips: pa.Table) -> pa.Table:
        rows = clips.to_pylist()
        todo = [row for row in rows if not self.journal.has(row["video_id"], row["clip_id"])]
        batch = content_id(*(row["clip_id"] for row in todo))
        if todo and attempt(self.attempts, batch, self.node) == 1:
            self._record(todo)
        else:
            for row in todo:
                # The attempt in the batch counts as well.
                tried = attempt(self.attempts, row["clip_id"], self.node) >= MOST_ATTEMPTS
                self._record([row], WorkerDiedError if tried else None)
        records = [self.journal.read(row["video_id"], row["clip_id"], ["error_stage"]) for row in rows]
        return pa.concat_tables(records)

    def _record(self, rows: list[dict[str, Any]], error: type[Exception] | None = None) -> None:
        seconds = CAPTION_SECONDS * len(rows)
        if error:
            records = [failed_caption(row, error(died(seconds))) for row in rows]
        else:
            with time_limit(seconds), self._files(rows) as clips:
                records = self.caption(clips)
        for row, record in zip(rows, records, strict=True):
            self.journal.write(row["video_id"], row["clip_id"], record)

    @contextmanager
    def _files(self, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """The clips as files of the scratch folder, for as long as the block lasts."""
        clips = [dict(row) | self._file(row, media) for row, media in self.media.of(rows)]
        try:
            yield clips
        finally:
            for clip in clips:
                (Path(self.scratch.name) / clip["path"]).unlink()

    def _file(self, row: Mapping[str, Any], media: Mapping[str, Any]) -> dict[str, Any]:
        name = f"{row['clip_id']}.mp4"
        (Path(self.scratch.name) / name).write_bytes(media["media"])
        start = media["media_start"]
        return {"path": name, "start": start, "stop": start + media["seconds"]}


def attempt(attempts: ActorHandle, key: str, node: str) -> int:
    """Begins an attempt at a key on a node; returns its number, from 1."""
    number: Any = ray.get(attempts.begin.remote(key, node))
    return number


def died(seconds: float) -> str:
    """The message of a row that failed without an exception."""
    return (
        f"its worker died or took over {seconds:.0f} s, {MOST_ATTEMPTS} times; look for it in the workers' logs, "
        "or take the file out"
    )


def load_models(config: T, make: Callable[[T], object], gpus: float) -> None:
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
