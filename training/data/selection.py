"""Which curated clips are trained on, and in which bucket each belongs.

Only small columns are read; keypoints stay in their files. A kept clip that is left out is named with the reason, and a
clip whose score is missing does not pass a limit on that score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from posegen.dataset import KEPT, content_id
from training.data.cache import Place, Tables
from training.data.items import Bucket, DataConfig

LIGHT = (
    "clip_id",
    "status",
    "video_id",
    "caption",
    "rate",
    "width",
    "height",
    "keypoints_shape",
    "scored_by",
)
ROUNDING = 1e-6
"""Of frame counts and rates, which are no exact numbers: 12 of 24 a second is every second frame."""


@dataclass(frozen=True)
class Clip:
    """A clip to train on. size: (width, height) in pixels of its keypoints; length: its keypoint frames.

    version: tells its poses from those of another estimator; rows encoded of another version do not count.
    """

    clip_id: str
    video_id: str
    caption: str
    rate: float
    size: tuple[int, int]
    length: int
    bucket: Bucket
    place: Place
    version: str

    def frames(self, rate: float) -> np.ndarray:
        """The clip's frames (N,), by number, that are on screen at `rate` frames a second."""
        count = math.floor((self.length - 1) * rate / self.rate + ROUNDING) + 1
        return np.floor(np.arange(count) * self.rate / rate + ROUNDING).astype(int)


@dataclass(frozen=True)
class Selection:
    """clips: by clip_id, in its order. left_out: the reason of each other kept clip, by clip_id."""

    clips: dict[str, Clip]
    left_out: dict[str, str]


def select(config: DataConfig) -> Selection:
    """The kept clips that fit the settings."""
    clips: dict[str, Clip] = {}
    left_out: dict[str, str] = {}
    for place, row in sorted(_kept(config), key=lambda found: found[1]["clip_id"]):
        if reason := _reason(row, config):
            left_out[row["clip_id"]] = reason
        else:
            clips[row["clip_id"]] = _clip(row, place, config)
    return Selection(clips, left_out)


def _kept(config: DataConfig) -> list[tuple[Place, dict[str, Any]]]:
    tables = Tables(config.dataset, config.dataset_version)
    if not tables.files("clips"):
        raise FileNotFoundError(f"{config.dataset} has no table clips/; give a folder that curation wrote.")
    rows = tables.scan("clips", [*LIGHT, *config.scores])
    return [(place, row) for place, row in rows if row["status"] == KEPT]


def _reason(row: Mapping[str, Any], config: DataConfig) -> str | None:
    """Why a kept clip cannot be used, if it cannot."""
    for name, (low, high) in config.scores.items():
        score = row[name]
        if score is None:
            return f"{name} is not known"
        if (low is not None and score < low) or (high is not None and score > high):
            return f"{name} is out of range"
    if not row["keypoints_shape"]:
        return "it has no keypoints"
    if any(row[name] is None for name in ("rate", "width", "height")):
        return "its rate or size is not known"
    seconds = (row["keypoints_shape"][0] - 1) / row["rate"]
    if seconds * config.rate + ROUNDING < min(config.frames) - 1:
        return "it is too short"
    return None


def _clip(row: Mapping[str, Any], place: Place, config: DataConfig) -> Clip:
    length, aspect = row["keypoints_shape"][0], row["width"] / row["height"]
    available = (length - 1) * config.rate / row["rate"] + 1 + ROUNDING
    width, height = min(config.sizes, key=lambda size: abs(math.log(size[0] / size[1] / aspect)))
    return Clip(
        clip_id=row["clip_id"],
        video_id=row["video_id"] or row["clip_id"],
        caption=row["caption"] or "",
        rate=row["rate"],
        size=(row["width"], row["height"]),
        length=length,
        bucket=Bucket(width, height, max(frames for frames in config.frames if frames <= available)),
        place=place,
        version=content_id(
            *(row[name] for name in ("scored_by", "rate", "width", "height", "keypoints_shape"))
        ),
    )
