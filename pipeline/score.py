"""Phase B: one clip is decoded once, in chunks, and everything there is to measure is measured on the way.

A scorer never drops a clip: it gives back one record, with the scores or with what went wrong. Memory holds a chunk of
frames, whatever the clip's length; what is kept of each frame is its keypoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import CurateConfig
from pipeline.evidence import Evidence
from pipeline.person import PersonTrack
from pipeline.plan import failure
from pipeline.quality import Quality
from pipeline.storage import Folder
from posegen.dataset import CLIPS, SCORES, table
from posegen.poses import PoseEstimator, load_estimator
from posegen.profiling import collect, timed
from posegen.video import VideoInfo, probe, read_frames, sample_indices
from posegen.weights import Weight, fetch

ANALYSIS_SIDE = 720
"""Longest short side, in pixels, of the frames that are measured; larger ones are scaled down."""
PREVIEW_HEIGHT = 240

SCORED = pa.schema(
    [
        CLIPS.field(name)
        for name in (
            "clip_id",
            "error_stage",
            "error_type",
            "error_message",
            *SCORES,
            "perceptual_hashes",
            "framing",
            "motion",
            "subject",
            "caption",
            "caption_source",
            "keypoints",
            "keypoints_shape",
            "preview",
            "preview_frame",
            "scored_by",
            "cpu_seconds",
        )
    ]
)


def make_scorer(config: CurateConfig) -> Callable[[Mapping[str, Any]], pa.Table]:
    """A function from a row of the plan to its record, a table of one row of schema `SCORED`. Loads the models."""
    folder = Folder(config.input)
    estimator = make_estimator(config)
    evidence = Evidence(_yolox(config))
    scored_by = f"{config.poses} {config.score_version[:8]}"

    def score(clip: Mapping[str, Any]) -> pa.Table:
        with collect() as seconds, timed("all"), folder.local_copy(clip["path"]) as path:
            info = probe(path)
            row = measure(clip, info, estimator, evidence)
        return table([row | {"scored_by": scored_by, "cpu_seconds": list(seconds.items())}], SCORED)

    return score


def failed_clip(clip: Mapping[str, Any], stage: str, error: Exception) -> pa.Table:
    """The record of a clip that could not be scored."""
    return table([{"clip_id": clip["clip_id"], **failure(stage, error)}], SCORED)


def measure(
    clip: Mapping[str, Any], info: VideoInfo, estimator: PoseEstimator, evidence: Evidence
) -> dict[str, Any]:
    """All scores, the keypoints, a caption and a preview of one clip of a video."""
    size = analysis_size(info)
    shown = sample_indices(info, clip["start"], clip["stop"], clip["rate"])
    frames_of = np.unique(shown)
    person, quality = PersonTrack(size), Quality(size)
    estimator.reset()
    evidence.begin()
    preview = np.zeros((1, 1, 3), np.uint8)
    for chunk, indices in _chunks(info, frames_of, size):
        times = info.frame_times[indices] - clip["start"]
        with timed("pose"):
            people = estimator(chunk)
        chosen = person.update(people, times)
        with timed("evidence"):
            evidence.update(chunk, chosen, times)
        with timed("quality"):
            quality.update(chunk, people, times)
        middle = frames_of[len(frames_of) // 2]
        if indices[0] <= middle <= indices[-1]:
            preview = chunk[np.searchsorted(indices, middle)].copy()
    seen, keypoints = person.result()
    scores = {"seconds": clip["stop"] - clip["start"], "frames": len(shown)}
    scores |= seen | evidence.result()
    return {
        "clip_id": clip["clip_id"],
        **scores,
    }


def _chunks(
    info: VideoInfo, indices: np.ndarray, size: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of frames together with their indices in the video."""
    first = 0
    for chunk in read_frames(info, indices, size):
        yield chunk, indices[first : first + len(chunk)]
        first += len(chunk)


def analysis_size(info: VideoInfo) -> tuple[int, int]:
    """The (width, height) a video is measured at."""
    scale = min(1.0, ANALYSIS_SIDE / min(info.width, info.height))
    return round(info.width * scale), round(info.height * scale)


def make_estimator(config: CurateConfig) -> PoseEstimator:
    """The pose estimator that the configuration asks for."""
    if config.poses == "blazepose":
        return load_estimator("blazepose")
    return load_estimator(config.poses, weights=config.pose_weights, cuda=config.gpus_per_worker > 0)


def _yolox(config: CurateConfig) -> Any:
    if config.person_detector is None:
        return None
    from posegen.poses.yolox import YoloxDetector

    path = fetch(Weight(Path(config.person_detector).name), config.person_detector)
    return YoloxDetector(path, cuda=config.gpus_per_worker > 0)
