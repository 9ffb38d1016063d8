"""What uploaded files hold, found out in a process that may die: `python -m serving.uploads.inspection`.

The program is started once and forks for every request, so a request costs milliseconds; the fork limits
its own memory, time and files and cannot lift the limits again. A picture's size is checked in its header before it is
decoded. Poses come out in one form, safetensors, so nothing else parses what a client sent. If the fork dies, the file
is to blame.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import save_file

from posegen.dataset import unpack_keypoints
from posegen.video import VideoError, probe, require_continuous
from posegen.video.container import open_video
from posegen.video.pictures import PictureError, read_picture

PICTURES = ("JPEG", "PNG", "WEBP")
MP4_BOXES, MATROSKA = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), b"\x1aE\xdf\xa3"
LEAST_SIDE, MOST_OBLONG = 16, 4  # pixels; the longer side over the shorter
MAX_RATE = 240  # frames/s of a driving video
MAX_COORDINATE = 1e5  # pixels
CUT_SHORT = 0.9  # of the length that the file states


@dataclass(frozen=True)
class UploadLimits:
    """What a file may hold and its inspection may take: pixels of one picture, seconds of a driving video, frames of
    poses; bytes of memory, seconds of time, bytes written."""

    pixels: int
    seconds: float
    pose_frames: int
    memory: int = 3 * 2**30
    time: int = 60
    written: int = 2**30


def inspect_picture(path: Path, limits: UploadLimits) -> dict[str, Any]:
    """A picture's upright width and height; ValueError in a sentence where it cannot be taken."""
    Image.MAX_IMAGE_PIXELS = None  # the check below is narrower, and comes before anything is decoded as well
    try:
        picture = read_picture(path, PICTURES, lambda size: _check_size(size, limits.pixels))
    except PictureError as error:
        raise ValueError(str(error).removeprefix(f"{path}: ")) from error
    return {"width": picture.shape[1], "height": picture.shape[0]}


def inspect_video(path: Path, limits: UploadLimits) -> dict[str, Any]:
    """A driving video's displayed width and height and its seconds; ValueError in a sentence as above."""
    with path.open("rb") as file:
        head = file.read(12)
    if not (head[4:8] in MP4_BOXES or head[:4] == MATROSKA or (head[:4] == b"RIFF" and head[8:] == b"AVI ")):
        raise ValueError("it is no MP4, MOV, WebM, Matroska or AVI file; export it as MP4.")
    try:
        info = probe(path)
        require_continuous(info)
    except VideoError as error:
        raise ValueError(str(error).removeprefix(f"{path}: ")) from error
    _check_size((info.width, info.height), limits.pixels)
    if info.duration > limits.seconds:
        raise ValueError(f"it is {info.duration:.1f} s long; send at most {limits.seconds:g} s.")
    if len(info.frame_times) > MAX_RATE * max(1, info.duration):
        raise ValueError(f"it has more than {MAX_RATE} frames a second; export it at a lower rate.")
    if info.duration < CUT_SHORT * (stated := _stated_seconds(path)):
        raise ValueError(
            f"it is cut short, {info.duration:.1f} of {stated:.1f} s are there; copy or export it again."
        )
    return {"width": info.width, "height": info.height, "seconds": info.duration}


def inspect_poses(path: Path, limits: UploadLimits) -> dict[str, Any]:
    """The number of poses in a JSON or Parquet file; writes them to `poses.safetensors` beside it.

    There: "keypoints", (T, 133, 3) float32, x and y in pixels and confidence 0..1; NaN in frames without a person.
    """
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    keypoints = _parquet_poses(path) if is_parquet else _json_poses(path)
    if keypoints.shape[1:] != (133, 3) or not len(keypoints):
        raise ValueError(f"they have the shape {list(keypoints.shape)}; send [T][133][3].")
    if len(keypoints) > limits.pose_frames:
        raise ValueError(f"they are {len(keypoints)} frames; send at most {limits.pose_frames}.")
    seen = keypoints[~np.isnan(keypoints).all(axis=(1, 2))]
    if not len(seen):
        raise ValueError("no frame shows a person; send poses of one.")
    if not (np.abs(seen[..., :2]) <= MAX_COORDINATE).all():
        raise ValueError(f"a coordinate is no number from {-MAX_COORDINATE:g} to {MAX_COORDINATE:g} pixels.")
    if not ((seen[..., 2] >= 0) & (seen[..., 2] <= 1)).all():
        raise ValueError("a confidence is no number from 0 to 1.")
    save_file({"keypoints": keypoints}, path.with_name("poses.safetensors"))
    return {"frames": len(keypoints)}


def _check_size(size: tuple[int, int], pixels: int) -> None:
    if size[0] * size[1] > pixels:
        raise ValueError(f"its pictures are {size[0]}x{size[1]}; send at most {pixels} pixels.")
    if min(size) < LEAST_SIDE or max(size) > MOST_OBLONG * min(size):
        raise ValueError(
            f"its pictures are {size[0]}x{size[1]}; send sides of {LEAST_SIDE} pixels or more, the longer at most "
            f"{MOST_OBLONG} times the shorter."
        )


def _stated_seconds(path: Path) -> float:
    """The length that the container states for its video; 0 where it does not."""
    with open_video(str(path)) as (_, stream):
        return float((stream.duration or 0) * (stream.time_base or 0))


def _json_poses(path: Path) -> np.ndarray:
    try:
        poses = json.loads(path.read_bytes())
        nobody = [[float("nan")] * 3] * 133
        return np.array([nobody if pose is None else pose for pose in poses], np.float32)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("they are no JSON array of numbers of the shape [T][133][3].") from error


def _parquet_poses(path: Path) -> np.ndarray:
    try:
        file = pq.ParquetFile(path)
        rows = file.metadata.num_rows
        keypoints = (
            unpack_keypoints(file.read(["keypoints", "keypoints_shape"]).to_pylist()[0])
            if rows == 1
            else None
        )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "they are no Parquet file with the columns keypoints and keypoints_shape."
        ) from error
    if keypoints is None:
        raise ValueError(f"the Parquet file has {rows} rows; send the one of your clip.")
    return keypoints


INSPECTORS: dict[str, Callable[[Path, UploadLimits], dict[str, Any]]] = {
    "input_reference": inspect_picture,
    "driving_video": inspect_video,
    "poses": inspect_poses,
    "mask": inspect_video,
    "hands": inspect_video,
}


def confine(limits: UploadLimits) -> None:
    """Limits this process for good."""
    for kind, most in (
        # Not the address space, as CUDA reserves far more of that than it uses.
        (resource.RLIMIT_DATA, limits.memory),
        (resource.RLIMIT_CPU, limits.time),
        (resource.RLIMIT_FSIZE, limits.written),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    signal.alarm(limits.time)


def inspect(limits: UploadLimits, files: dict[str, str]) -> None:
    """Prints a line of JSON for each file in turn: what was found, or {"error": sentence}."""
    for name, path in files.items():
        try:
            found = INSPECTORS[name](Path(path), limits)
        except (ValueError, MemoryError) as error:
            found = {"error": str(error) or "it takes too much memory to read; send a smaller one."}
        print(json.dumps(found), flush=True)


def main() -> None:
    """Answers each line {"limits": {..}, "files": {name: path}} by the lines of `inspect` and {"ended": status}."""
    for line in sys.stdin:
        request = json.loads(line)
        if not (fork := os.fork()):
            limits = UploadLimits(**request["limits"])
            confine(limits)
            inspect(limits, request["files"])
            os._exit(0)
        print(json.dumps({"ended": os.waitpid(fork, 0)[1]}), flush=True)


if __name__ == "__main__":
    main()
