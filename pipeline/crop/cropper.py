"""Crops of a clip: finds the people of a clip, plans a window for each, and writes a window as a video of its own.

A crop is judged as any clip is: its own video is scored by the same networks and rules, which would see a second person
in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import CurateConfig
from pipeline.crop.planner import Crop, plan_crops
from pipeline.crop.tracks import Find, follow, most_at_once, who_count
from pipeline.plan.planner import PLAN, failure
from pipeline.plan.source import Source
from pipeline.score.scorer import (
    analysis_size,
    failed_clip,
    make_detector,
    make_estimator,
    source_scores,
)
from posegen.common.faults import is_fault
from posegen.common.storage import Folder
from posegen.dataset import ABOUT_PERSON, CLIPS, content_id, pack_keypoints, table, unpack_keypoints
from posegen.driving.poses import load_estimator
from posegen.driving.poses.runtime import OpenModel, on_cpu
from posegen.video import VideoError, VideoInfo, read_frames, sample_indices, save_video

MOST_PEOPLE = 3
CHUNK = 8  # frames in memory at once: they are of the video's own size
SEARCH = 10
"""Frames from one search for further people to the next."""
SURE = 0.5
"""Least score of a detector's box."""
CROP_COLUMNS = ("cropped_from", "crop_x", "crop_y")
TASK_CLIP = pa.schema([*PLAN, *(CLIPS.field(name) for name in CROP_COLUMNS)])
"""A clip to work on: planned in a video, or cropped out of such a one."""
CROPPED = pa.schema(
    [TASK_CLIP.field(name).with_nullable(True) for name in TASK_CLIP.names if name != "path"]
    + [pa.field("said", pa.string(), nullable=False)]
)
"""What became of a person of a clip; `said` says it. Without `clip_id` there is no crop of them."""
TOLD_BY_CROPS = {*ABOUT_PERSON, "text_area", "tilt", "repeated_frames"}
"""Scores that may be another in a part of the picture; a clip that fails others is not worth cropping."""

FAILED_CROPS = "could not be cropped"
CROP_FILE = "crop.mp4"

Scorer = Callable[[Mapping[str, Any], Source], pa.Table]


def worth_cropping(reasons: list[str]) -> bool:
    """Whether a clip rejected for these reasons seems to show several people, and nothing that a crop shows too."""
    names = {reason.split(":")[0] for reason in reasons}
    return bool(names & {"one_person", "second_person"}) and names <= TOLD_BY_CROPS


def make_cropper(config: CurateConfig, open_model: OpenModel = on_cpu) -> Scorer:
    """A function from a clip and its video to its crops, a table `CROPPED` of one row or more. Loads the models.

    open_model: where the networks of ONNX files run. Raises OSError where the storage is at fault, and not the file.
    """
    find, reset = _finder(config, open_model)

    def crops(clip: Mapping[str, Any], source: Source) -> pa.Table:
        try:
            reset()
            boxes = _people(clip, source.info, find)
        except (VideoError, OSError) as error:
            if is_fault(error):
                raise
            return failed_crops(source.said(error))
        most = most_at_once(boxes)
        if not 2 <= most <= MOST_PEOPLE:
            return _none(f"{most} people at once can be followed; two or three are cropped out")
        size = (source.info.width, source.info.height)
        plans = plan_crops(boxes, size, clip["rate"])
        rows = [_row(clip, crop, box, size[0]) for crop, box in zip(plans, boxes, strict=True)]
        return table(rows, CROPPED)

    return crops


def _finder(config: CurateConfig, open_model: OpenModel) -> tuple[Find, Callable[[], None]]:
    """What finds people's boxes, a detector where one is given, and what begins another clip."""
    if detector := make_detector(config, open_model):
        return (
            lambda frames: [
                [(box, -1) for box, score in zip(*found, strict=True) if score >= SURE]
                for found in detector(frames)
            ],
            lambda: None,
        )
    if config.poses == "blazepose":
        # One more than are cropped out, so that a fourth is noticed; boxes need no hands and no face.
        estimator = load_estimator("blazepose", max_people=MOST_PEOPLE + 1, whole=0, search=SEARCH)
    else:
        estimator = make_estimator(config, open_model)
    return (
        lambda frames: [[(person.box, person.track_id) for person in people] for people in estimator(frames)],
        estimator.reset,
    )


def _people(clip: Mapping[str, Any], info: VideoInfo, find: Find) -> np.ndarray:
    """Boxes (P, T, 4) in the video's pixels of those who count, in each frame at the clip's rate."""
    shown = sample_indices(info, clip["start"], clip["stop"], clip["rate"])
    distinct, frame_of = np.unique(shown, return_inverse=True)
    size = analysis_size(info)
    seen = [people for frames in read_frames(info, distinct, size) for people in find(frames)]
    boxes = follow(seen, info.frame_times[distinct])[:, frame_of]
    return who_count(boxes, clip["rate"]) * (np.array([info.width, info.height] * 2) / (size * 2))


def _row(clip: Mapping[str, Any], crop: Crop | None, box: np.ndarray, width: int) -> dict[str, Any]:
    """What became of the person of these boxes (T, 4) in a picture so many pixels wide."""
    if crop is None:
        there = box[~np.isnan(box[:, 0])]
        x = (there[:, 0] + there[:, 2]).mean() / 2 / width
        where = ("left", "middle", "right")[min(2, int(3 * x))]
        return {"said": f"a person in the {where} is nowhere alone and whole for long enough"}
    start = clip["start"] + crop.first / clip["rate"]
    stop = min(clip["stop"], clip["start"] + crop.last / clip["rate"])
    clip_id = content_id("crop", clip["clip_id"], crop.first, crop.size, crop.corners.tobytes().hex())
    return {
        **{name: clip[name] for name in ("video_id", "rate", "hdr", "source_notes")},
        **{"clip_id": clip_id, "start": start, "stop": stop, "cropped_from": clip["clip_id"]},
        **{"width": crop.size[0], "height": crop.size[1]},
        **{"crop_x": crop.corners[:, 0].tolist(), "crop_y": crop.corners[:, 1].tolist()},
        "said": f"cropped out as clip {clip_id}, {crop.last - crop.first} frames",
    }


def _none(said: str) -> pa.Table:
    return table([{"said": said}], CROPPED)


def failed_crops(error: Exception) -> pa.Table:
    """The record of a clip whose people could not be looked for."""
    failed = failure("crop", error)
    return table([{"said": f"{FAILED_CROPS}: {failed['error_message']}", **failed}], CROPPED)


def write_crop(info: VideoInfo, clip: Mapping[str, Any], path: Path) -> None:
    """Writes a crop out of its video, as a video that holds nothing else."""
    shown = sample_indices(info, clip["start"], clip["stop"], clip["rate"])[: len(clip["crop_x"])]
    corners = np.stack([clip["crop_x"], clip["crop_y"]], axis=1)[: len(shown)]
    save_video(_windows(info, shown, corners, (clip["width"], clip["height"])), path, clip["rate"])


def _windows(
    info: VideoInfo, shown: np.ndarray, corners: np.ndarray, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    first = 0
    for frames in read_frames(info, shown, chunk=CHUNK):
        here = corners[first : first + len(frames)].tolist()
        yield np.stack([f[y : y + size[1], x : x + size[0]] for f, (x, y) in zip(frames, here, strict=True)])
        first += len(frames)


def score_crop(score: Scorer, clip: Mapping[str, Any], source: Source) -> pa.Table:
    """The record of a crop: its own video is scored as that of any clip.

    Joints outside of the crop are unseen. The rates are those of the source, as the crop is encoded at its final one.
    Raises OSError where the storage is at fault, and not the file.
    """
    with tempfile.TemporaryDirectory(prefix="posegen-") as scratch:
        try:
            write_crop(source.info, clip, Path(scratch) / CROP_FILE)
        except (VideoError, OSError) as error:
            if is_fault(error):
                raise
            return failed_clip(clip, "read", source.said(error))
        own = Source(Folder(scratch), CROP_FILE)
        record = score({**clip, "start": 0.0, "stop": own.info.duration}, own)
    (row,) = record.to_pylist()
    if row["error_stage"] is not None:
        return record
    keypoints = unpack_keypoints(row).copy()
    outside = ((keypoints[..., :2] < 0) | (keypoints[..., :2] >= (clip["width"], clip["height"]))).any(
        axis=-1
    )
    keypoints[outside, 2] = 0
    shown = sample_indices(source.info, clip["start"], clip["stop"], clip["rate"])
    return table([row | pack_keypoints(keypoints) | source_scores(source.info, shown)], record.schema)
