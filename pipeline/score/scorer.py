"""Scoring: a clip is decoded once, in chunks, and everything is measured on the way.

A scorer never drops a clip: it returns one record, with the scores or with the error. Memory holds one chunk of frames,
however long the clip; of each frame only its keypoints are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import CurateConfig
from pipeline.plan.planner import failure
from pipeline.plan.source import Source
from pipeline.score.composed_caption import Measured, compose_caption
from pipeline.score.embedding import Embed, Embedder, Embedding
from pipeline.score.evidence import Detector, Evidence, Sighting
from pipeline.score.explicit import ExplicitContent, ExplicitDetector
from pipeline.score.measures import Measure
from pipeline.score.person import SIDEWAYS, PersonTrack, upright_turn
from pipeline.score.quality import Quality
from pipeline.score.text import text_detector, text_recogniser
from posegen.common.faults import is_fault
from posegen.common.profiling import collect, timed
from posegen.common.weights import Weight, fetch
from posegen.dataset import (
    CLIPS,
    OPTIONAL_SCORES,
    SCORES,
    embedding_field,
    pack_keypoints,
    table,
    unpack_keypoints,
)
from posegen.driving.poses import PoseEstimator, load_estimator
from posegen.driving.poses.runtime import OpenModel, on_cpu
from posegen.driving.poses.yolox import DETECTOR, YoloxDetector
from posegen.video import VideoError, VideoInfo, read_frames, sample_indices, turned
from posegen.video.pictures import jpeg

ANALYSIS_SIDE = 720
"""Longest short side, in pixels, of the frames that are measured; larger ones are scaled down."""
PREVIEW_HEIGHT = 240
EXPLICIT = Weight("explicit.onnx")
"""What the user's own detector is called where a folder or a hub name is given."""

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
            "turned",
            "second_person_box",
            "scored_by",
            "cpu_seconds",
        )
    ]
)


def scored_schema(config: CurateConfig) -> pa.Schema:
    """`SCORED` with the columns that this configuration measures beside it."""
    return pa.schema([*SCORED, *optional_columns(config)])


def optional_columns(config: CurateConfig, width: int = -1) -> list[pa.Field]:
    """The columns of scores and embedding that there are with weights of the user's own alone.

    width: how many numbers an embedding has, -1 for any number.
    """
    if config.embedder is None:
        return []
    scores = [pa.field(name, pa.float32()) for name in OPTIONAL_SCORES if config.aesthetics]
    return [*scores, embedding_field(width)]


def make_scorer(
    config: CurateConfig, open_model: OpenModel = on_cpu, embed: Embed | None = None
) -> Callable[[Mapping[str, Any], Source], pa.Table]:
    """A function from a row of the plan and its file to its record, one row of `scored_schema`. Loads the models.

    open_model: where the networks of ONNX files run. embed: what embeds pictures, in place of this process. Raises
    OSError where the storage is at fault, and not the file.
    """
    estimator = make_estimator(config, open_model)
    evidence = Evidence(make_detector(config, open_model))
    explicit = make_explicit_detector(config, open_model)
    embedder = make_embedder(config, embed)
    text_detector(), text_recogniser()  # now, so that a missing file is noticed at once
    scored_by, schema = f"{config.poses} {config.score_version[:8]}", scored_schema(config)

    def look(clip: Mapping[str, Any], info: VideoInfo) -> dict[str, Any]:
        seconds = clip["stop"] - clip["start"]
        further: list[Measure] = [ExplicitContent(explicit, seconds)] if explicit else []
        further += [Embedding(embedder, seconds)] if embedder else []
        return measure(clip, info, estimator, evidence, Quality(*further))

    def score(clip: Mapping[str, Any], source: Source) -> pa.Table:
        try:
            with collect() as seconds, timed("all"):
                row = look(clip, source.info)
                # A crop has a place in the pictures as they are.
                if config.tilted == "turn" and clip.get("cropped_from") is None:
                    row = upright(row, lambda degrees: look(clip, turned(source.info, degrees)))
        except (VideoError, OSError) as error:
            if is_fault(error):
                raise
            return failed_clip(clip, "read", source.said(error))
        took = [{"step": step, "seconds": spent} for step, spent in seconds.items()]
        return table([row | {"scored_by": scored_by, "cpu_seconds": took}], schema)

    return score


def upright(row: dict[str, Any], look: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """What is measured of a clip once its person is upright; as it was where that is so, or cannot be reached.

    look: measures the clip with its pictures turned clockwise by so many degrees.
    """
    degrees = upright_turn(unpack_keypoints(row))
    if not degrees:
        return row
    again = look(degrees)
    found = again.get("tilt")
    return again | {"turned": degrees} if found is not None and found <= SIDEWAYS else row


def failed_clip(clip: Mapping[str, Any], stage: str, error: Exception) -> pa.Table:
    """The record of a clip that could not be scored."""
    return table([{"clip_id": clip["clip_id"], **failure(stage, error)}], SCORED)


def measure(
    clip: Mapping[str, Any],
    info: VideoInfo,
    estimator: PoseEstimator,
    evidence: Evidence,
    quality: Quality,
) -> dict[str, Any]:
    """All that is measured of one clip of a video, as columns of its record; quality: a new one for each clip."""
    size = analysis_size(info)
    shown = sample_indices(info, clip["start"], clip["stop"], clip["rate"])
    distinct, frame_of = np.unique(shown, return_inverse=True)
    track, preview = PersonTrack(size), None
    estimator.reset()
    evidence.begin(clip["stop"] - clip["start"])
    for frames, indices in _chunks(info, distinct, size):
        times = info.frame_times[indices] - clip["start"]
        with timed("pose"):
            people = track.update(estimator(frames), times)
        with timed("evidence"):
            evidence.update(frames, people, times)
        with timed("quality"):
            quality.update(frames, people, times)
        if preview is None and indices[-1] >= shown[len(shown) // 2]:
            preview = jpeg(frames[np.searchsorted(indices, shown[len(shown) // 2])], PREVIEW_HEIGHT)
    scores, keypoints = track.result()
    found = quality.result()
    scores |= {"seconds": clip["stop"] - clip["start"], "frames": len(shown), **evidence.result()}
    scores |= {name: found[name] for name in (*SCORES, *OPTIONAL_SCORES) if name in found}
    scores |= source_scores(info, shown) | {"source_side": min(info.width, info.height)}
    times = info.frame_times[distinct] - clip["start"]
    light = {name: found[name] for name in ("camera_motion", "background_brightness")}
    caption = caption_columns(Measured(keypoints, times, size, **light))
    keypoints[..., :2] *= np.array([info.width, info.height]) / size
    return {
        "clip_id": clip["clip_id"],
        **{name: None if value is None or np.isnan(value) else value for name, value in scores.items()},
        **{name: found[name] for name in ("perceptual_hashes", "embedding") if name in found},
        **caption,
        **pack_keypoints(keypoints[frame_of]),
        "preview": preview,
        "preview_frame": len(shown) // 2,
        **second_person_shown(evidence.sighting, info.frame_times[shown] - clip["start"]),
    }


def source_scores(info: VideoInfo, shown: np.ndarray) -> dict[str, float]:
    """What the file says of its pictures. shown: the frames of the clip at its rate."""
    return {
        "new_frames": len(np.unique(shown)) / max(len(shown), 1),
        "source_rate": info.rate,
        "source_bit_rate": Path(info.path).stat().st_size * 8 / 1000 / info.duration,
    }


def caption_columns(measured: Measured) -> dict[str, Any]:
    """The composed caption and its words; nothing where there is nobody to write about."""
    if np.isnan(measured.keypoints[:, 0, 0]).all():
        return {}
    caption = compose_caption(measured)
    words = {"framing": caption.framing, "motion": caption.motion, "subject": caption.subject}
    return {**words, "caption": caption.text, "caption_source": "composed"}


def second_person_shown(sighting: Sighting | None, times: np.ndarray) -> dict[str, Any]:
    """The preview, and where on it the second person is, of a clip whose frames have these times (T,) in seconds."""
    if sighting is None:
        return {}
    height, width = sighting.frame.shape[:2]
    return {
        "preview": jpeg(sighting.frame, PREVIEW_HEIGHT),
        "preview_frame": int(np.searchsorted(times, sighting.time)),
        "second_person_box": (np.clip(sighting.box / (width, height, width, height), 0, 1)).tolist(),
    }


def _chunks(
    info: VideoInfo, indices: np.ndarray, size: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of frames, each overwritten by the next, together with their indices in the video."""
    first = 0
    for chunk in read_frames(info, indices, size, reuse=True):
        yield chunk, indices[first : first + len(chunk)]
        first += len(chunk)


def analysis_size(info: VideoInfo) -> tuple[int, int]:
    """The (width, height) a video is measured at."""
    scale = min(1.0, ANALYSIS_SIDE / min(info.width, info.height))
    return round(info.width * scale), round(info.height * scale)


def make_estimator(config: CurateConfig, open_model: OpenModel) -> PoseEstimator:
    """The pose estimator that the configuration asks for."""
    if config.poses == "blazepose":
        return load_estimator("blazepose")
    return load_estimator(
        config.poses, weights=config.pose_weights, detector=config.person_detector, open_model=open_model
    )


def make_explicit_detector(config: CurateConfig, open_model: OpenModel) -> ExplicitDetector | None:
    """The detector of explicit content, where a file was given."""
    if config.explicit_detector is None:
        return None
    return ExplicitDetector(fetch(EXPLICIT, config.explicit_detector), open_model)


def make_embedder(config: CurateConfig, embed: Embed | None) -> Embedder | None:
    """What embeds a clip's pictures, where a model was given."""
    if config.embedder is None:
        return None
    from pipeline.score import embedder  # imports torch and transformers

    return embedder.make_embedder(config, embed)


def make_detector(config: CurateConfig, open_model: OpenModel) -> Detector | None:
    """The detector of people, where a file was given."""
    if config.person_detector is None:
        return None
    return YoloxDetector(fetch(DETECTOR, config.person_detector), open_model)
