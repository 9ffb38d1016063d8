"""What Ray Data runs: a process that holds the networks, measures one video a task and records it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pyarrow as pa
from ray.actor import ActorHandle

from pipeline.evaluating.config import EvaluateConfig
from pipeline.evaluating.listing import FILES
from pipeline.records.journal import Journal, is_failed
from pipeline.workers import Worker
from posegen.common.faults import StorageFaultError
from posegen.common.storage import Folder
from posegen.driving.poses import load_estimator
from posegen.driving.poses.runtime import on_cpu, on_cuda
from posegen.evaluation.faces import FaceDistance
from posegen.evaluation.fvd import VideoFeatures
from posegen.evaluation.inputs import Inputs
from posegen.evaluation.measure import MEASUREMENTS, Instruments, Subject, measure
from posegen.evaluation.perceptual import PerceptualDistance

ERRORS = ("error_stage", "error_type", "error_message")
FEATURES = ("features", "true_features")
EVALUATED = pa.schema(
    [
        *MEASUREMENTS,
        ("frames", pa.int64()),
        *((name, pa.string()) for name in ERRORS),
        *((name, pa.list_(pa.list_(pa.float32()))) for name in FEATURES),
    ]
)
"""A video's record: its measurements, or one row that says how it failed. Where the Fréchet video distance was asked
for, the first row has the features of its windows and those of its truth, no windows where there is no truth."""
PACKED_ROWS = 10_000
VIDEO_SECONDS = 6 * 3600.0
"""Longer work is taken to hang: three minutes of video take a quarter of an hour on one core."""


def evaluation_journal(config: EvaluateConfig) -> Journal:
    """Finished videos by key, each in a file of its own."""
    return Journal(Folder(config.output, "work"), "evaluated", EVALUATED, packed_rows=PACKED_ROWS)


def make_evaluator(config: EvaluateConfig) -> Callable[[dict[str, Any]], pa.Table]:
    """Loads the networks; returns a function from a listed row to its record."""
    open_model = on_cuda if config.gpus_per_worker else on_cpu
    estimator = load_estimator(config.poses, config.pose_weights, open_model)
    judge = load_estimator(config.judge, config.judge_weights, open_model)
    instruments = Instruments(judge, PerceptualDistance(), FaceDistance() if config.faces else None)
    network = VideoFeatures(config.fvd, "cuda" if config.gpus_per_worker else "cpu") if config.fvd else None

    def evaluate(row: dict[str, Any]) -> pa.Table:
        folder = Folder(config.input)
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(folder.local_copy(row[name])) if row[name] else None
                for name in FILES
            }
            inputs = Inputs(
                **files,  # type: ignore[arg-type] # those that must be there are
                segments=config.segments,
                planner=config.planner,
                align=config.align,
            )
            subject, _ = inputs.load(estimator)
            measured = measure(replace(subject, name=row["video"]), instruments)
            features = window_features(subject, network) if network else {}
        rows = measured.table().to_pylist()
        rows[0] |= features
        return pa.Table.from_pylist([row | {"frames": measured.frames} for row in rows], EVALUATED)

    return evaluate


def window_features(subject: Subject, network: VideoFeatures) -> dict[str, list[list[float]]]:
    """What the Fréchet video distance needs of a video: features of its windows and of its truth's, if it has one."""
    frames = 0 if subject.truth is None else len(subject.keypoints)
    videos = (subject.video, subject.truth or subject.video)
    return {name: network(video, frames).tolist() for name, video in zip(FEATURES, videos, strict=True)}


def failed_video(row: dict[str, Any], error: Exception) -> pa.Table:
    """The record of a video that could not be measured."""
    said = dict(zip(ERRORS, ("evaluate", type(error).__name__, str(error)), strict=True))
    return pa.Table.from_pylist([{"video": row["video"]} | said], EVALUATED)


class EvaluateWorker(Worker):
    """Measures one listed video: a row in, counts for the progress out."""

    def __init__(self, config: EvaluateConfig, attempts: ActorHandle):
        super().__init__(attempts)
        self.journal, self.evaluate = evaluation_journal(config), make_evaluator(config)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        done: dict[str, Any] = {"path": row["video"], "work": 0.0, "failed": 0, "fault": None}
        try:
            record = self.do(
                self.journal,
                row["key"],
                row["key"],
                VIDEO_SECONDS,
                lambda: self.evaluate(row),
                lambda error: failed_video(row, error),
            )
        except StorageFaultError as fault:
            return done | {"fault": str(fault)}
        return done | {"work": float(record["frames"][0].as_py() or 0), "failed": int(is_failed(record))}
