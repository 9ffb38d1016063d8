"""A job's uploads -> its picture and poses, in a process of its own that may die: `python -m serving.work.preparation`.

Everything that a client sent is decoded here, under limits of memory, time and disk that the process cannot lift again.
It reads what it is to prepare as a line of JSON on stdin, writes files into a folder and prints a line of JSON. With
nothing to prepare it only loads its networks, as a check. It ends when stdin closes, so it does not outlive its parent.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from posegen.common.weights import WeightsError
from posegen.driving.alignment import Fit, fit_picture
from posegen.driving.driving_video import (
    Align,
    Driving,
    VideoFrames,
    fill_gaps,
    place_on_picture,
    placements_on_picture,
    read_driving,
)
from posegen.driving.hands import Hands, hands_on_picture
from posegen.driving.humans import HumanEvidence
from posegen.driving.poses import Person, PoseEstimator, load_estimator
from posegen.driving.poses.runtime import OpenModel, on_cpu, on_cuda
from posegen.driving.poses.sapiens import SapiensNormals, SapiensSegmentation, hand_video
from posegen.video.pictures import read_picture
from posegen.video.sound import extract_sound
from serving.state.artifacts import packed_frames
from serving.uploads.inspection import PICTURES, UploadLimits, confine

PREPARED, SOUND = "prepared.safetensors", "sound.mp4"
IN_STEP = "mask", "hands"
"""Videos that go along with the movement; what becomes of each has its name."""
NO_HANDS = (
    "The hands follow the poses alone, as with align=proportions they lie elsewhere than in the driving video: send a "
    "video of them where the new video shows them, or take align=reference."
)
PART = 32
"""Frames that are compressed together, and read together by who needs one of them."""


@dataclass(frozen=True)
class Preparation:
    """The uploads to prepare, and how.

    picture, driving video or poses, mask and hands: paths. poses_size, size: (width, height) in pixels of the pictures
    that the poses were seen in, and of the video. rate: of the video, frames/s. seconds: at most so much of the
    movement. folder: where the results go.
    """

    picture: str
    driving_video: str | None
    poses: str | None
    mask: str | None
    hands: str | None
    poses_size: tuple[int, int]
    size: tuple[int, int]
    rate: float
    seconds: float | None
    fit: Fit
    align: Align
    folder: str


@dataclass(frozen=True)
class Networks:
    """What sees a movement, by name and by the weights' places, as `posegen generate` and `posegen hands` take them.

    hand_normals, hand_segmentation: both or neither. cuda: on a GPU, but for BlazePose.
    """

    poses: str = "blazepose"
    pose_weights: str | None = None
    hand_normals: str | None = None
    hand_segmentation: str | None = None
    cuda: bool = False

    def estimator(self) -> PoseEstimator:
        """Raises ValueError or WeightsError, a sentence."""
        return load_estimator(self.poses, self.pose_weights, self._open_model)

    def hands(self) -> Hands | None:
        """What sees hands, None without weights; raises as above."""
        if self.hand_normals is None:
            return None
        normals = SapiensNormals(self.hand_normals, self._open_model)
        segmentation = SapiensSegmentation(self.hand_segmentation, self._open_model)
        return partial(hand_video, normals=normals, segmentation=segmentation)

    @property
    def _open_model(self) -> OpenModel:
        return on_cuda if self.cuda else on_cpu


class Counted:
    """A pose estimator that prints {"read": frames so far} as it goes on."""

    def __init__(self, estimator: PoseEstimator) -> None:
        self._estimator, self._read = estimator, 0

    def __call__(self, frames: np.ndarray) -> list[list[Person]]:
        people = self._estimator(frames)
        self._read += len(people)
        print(json.dumps({"read": self._read}), flush=True)
        return people

    def reset(self) -> None:
        self._estimator.reset()


def prepare(wanted: Preparation, longest: float, estimator: PoseEstimator, hands: Hands | None) -> int:
    """Writes PREPARED and, if there is sound, SOUND; returns the number of frames. ValueError in a sentence.

    longest: seconds that a driving video may have. estimator: of the poses in it and in the picture. hands: what sees
    them in a driving video that comes without a video of them.
    PREPARED holds "picture" (H, W, 3) uint8 at the video's size, "keypoints" (T, 133, 3) float32 in its pixels, and as
    UTF-8 in "notes" what the client should know of the movement, a sentence a line. Mask and hands become frames, as
    many as keypoints, see `serving.state.artifacts.Artifacts.load_frames`.
    """
    picture = read_picture(wanted.picture, PICTURES)
    movement = _movement(wanted, longest, estimator)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        keypoints = place_on_picture(
            movement, picture, wanted.size, wanted.rate, estimator, wanted.align, wanted.fit
        )
    told = [*movement.notes(wanted.rate), *(str(warning.message) for warning in warned)]
    whole = len(keypoints)
    if wanted.seconds is not None:
        keypoints = keypoints[: max(1, round(wanted.seconds * wanted.rate))]
    folder = Path(wanted.folder)
    for name in IN_STEP:
        if path := getattr(wanted, name):
            _prepare_frames(name, path, wanted, whole, len(keypoints))
    if hands is not None and wanted.hands is None:
        told += _see_hands(movement, picture, len(keypoints), wanted, estimator, hands)
    fitted = fit_picture(picture, wanted.size, wanted.fit)
    prepared = {
        "picture": np.ascontiguousarray(
            fitted
        ),  # safetensors writes memory as it lies, also of a transposed view
        "keypoints": np.ascontiguousarray(keypoints, np.float32),
        "notes": np.frombuffer("\n".join(told).encode(), np.uint8),
    }
    (folder / PREPARED).write_bytes(save(prepared))
    if wanted.driving_video is not None:
        extract_sound(Path(wanted.driving_video), len(keypoints) / wanted.rate, folder / SOUND)
    return len(keypoints)


def _see_hands(
    movement: Driving,
    picture: np.ndarray,
    count: int,
    wanted: Preparation,
    estimator: PoseEstimator,
    hands: Hands,
) -> list[str]:
    """Writes the hands in the first `count` frames of a driving video; returns what the client should know of them."""
    if wanted.driving_video is None:
        return []
    if wanted.align == "proportions":
        return [NO_HANDS]
    placed = placements_on_picture(movement, picture, wanted.size, estimator, wanted.align, wanted.fit)
    kept = [replace(span, stop=min(span.stop, count)) for span in placed]
    _write_frames(
        "hands", hands_on_picture(wanted.driving_video, wanted.rate, kept, wanted.size, hands), wanted
    )
    return []


def _prepare_frames(name: str, path: str, wanted: Preparation, whole: int, kept: int) -> None:
    """Writes the first `kept` frames of a video at the size and rate of the one to be made; it must have `whole`."""
    frames = VideoFrames(path, wanted.rate, wanted.size)
    if len(frames) != whole:
        raise ValueError(
            f"The video of the {name} has {len(frames)} frames at the model's rate and the movement {whole}; send as "
            "many."
        )
    _write_frames(
        name, (frames[np.arange(start, min(start + PART, kept))] for start in range(0, kept, PART)), wanted
    )


def _write_frames(name: str, parts: Iterable[np.ndarray], wanted: Preparation) -> None:
    try:
        (Path(wanted.folder) / f"{name}.safetensors").write_bytes(packed_frames(parts))
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise ValueError(
            f"The video of the {name} takes too much room once decoded; send a shorter one."
        ) from error


def _movement(wanted: Preparation, longest: float, estimator: PoseEstimator) -> Driving:
    if wanted.poses is None:
        return read_driving(str(wanted.driving_video), wanted.rate, estimator, longest)
    keypoints, gaps = fill_gaps(load_file(wanted.poses)["keypoints"])
    return Driving(keypoints, wanted.poses_size, gaps)


def main() -> None:
    """Reads {"limits": {...}, "networks": {...}, "wanted": {...} or null}.

    Prints how far it is, see `Counted`, and at last {"frames": number}, {"error": sentence for the client} or, where
    the server is at fault, such as by a full disk, {"fault": why}.
    """
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limits = UploadLimits(**given["limits"])
    confine(limits)
    try:
        networks = Networks(**given["networks"])
        estimator, hands = networks.estimator(), networks.hands()
        if given["wanted"] is None:
            HumanEvidence()
    except (ValueError, WeightsError) as error:
        print(json.dumps({"fault": str(error)}))
        return
    if given["wanted"] is None:
        print(json.dumps({"frames": 0}))
        return
    wanted = Preparation(**given["wanted"])
    try:
        print(json.dumps({"frames": prepare(wanted, limits.seconds, Counted(estimator), hands)}))
    except MemoryError:
        print(json.dumps({"error": "The uploads take too much memory; send a smaller or shorter video."}))
    except (ValueError, OSError, WeightsError) as error:
        about_file = isinstance(error, ValueError)
        print(json.dumps({"error" if about_file else "fault": _without_paths(str(error), wanted)}))


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def _without_paths(message: str, wanted: Preparation) -> str:
    """A sentence that names uploads by what they are, not by where this process found them."""
    for name in ("picture", "driving_video", "poses", *IN_STEP):
        if path := getattr(wanted, name):
            message = message.replace(path, name)
    return message


if __name__ == "__main__":
    main()
