"""A job's uploads -> its picture and poses, in a process of its own that may die: `python -m serving.work.preparation`.

Choices made: everything that a client sent is decoded here, under limits of memory, time and disk that the process
cannot lift again. It takes an order as a line of JSON on stdin, writes files into a folder and prints one line of JSON.
The end of stdin is that of its parent, which it does not outlive.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import load_file, save

from posegen.common.weights import WeightsError
from posegen.driving.alignment import Fit, fit_picture
from posegen.driving.driving_video import Align, Driving, fill_gaps, place, read_driving
from posegen.driving.poses import PoseEstimator, load_estimator
from serving.uploads.inspection import PICTURES, Limits, confine
from serving.work.sound import extract_sound

PREPARED, SOUND = "prepared.safetensors", "sound.mp4"


@dataclass(frozen=True)
class Order:
    """What is to be prepared, and how.

    picture, and driving video or poses: paths. poses_size, size: (width, height) in pixels of the pictures that the
    poses were seen in, and of the video. rate: of the video, frames/s. seconds: at most so much of the movement.
    folder: where the results go.
    """

    picture: str
    driving_video: str | None
    poses: str | None
    poses_size: tuple[int, int]
    size: tuple[int, int]
    rate: float
    seconds: float | None
    fit: Fit
    align: Align
    folder: str


def prepare(order: Order, longest: float) -> int:
    """Writes PREPARED and, if there is sound, SOUND; returns the number of frames. ValueError in a sentence.

    longest: seconds that a driving video may have.
    PREPARED holds "picture" (H, W, 3) uint8 at the video's size and "keypoints" (T, 133, 3) float32 in its pixels.
    """
    with Image.open(order.picture, formats=PICTURES) as file:
        picture = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    estimator = load_estimator("blazepose")
    movement = _movement(order, longest, estimator)
    keypoints = place(movement, picture, order.size, order.rate, estimator, order.align, order.fit)
    if order.seconds is not None:
        keypoints = keypoints[: max(1, round(order.seconds * order.rate))]
    folder = Path(order.folder)
    fitted = fit_picture(picture, order.size, order.fit)
    prepared = {"picture": fitted, "keypoints": np.ascontiguousarray(keypoints, np.float32)}
    (folder / PREPARED).write_bytes(save(prepared))
    if order.driving_video is not None:
        extract_sound(Path(order.driving_video), len(keypoints) / order.rate, folder / SOUND)
    return len(keypoints)


def _movement(order: Order, longest: float, estimator: PoseEstimator) -> Driving:
    if order.poses is None:
        return read_driving(str(order.driving_video), order.rate, estimator, longest)
    keypoints, gaps = fill_gaps(load_file(order.poses)["keypoints"])
    return Driving(keypoints, order.poses_size, gaps)


def main() -> None:
    """Reads {"limits": {...}, "order": {...}}; prints {"frames": number}, {"error": sentence for the client} or, where
    the server is at fault, such as by a full disk, {"fault": why}."""
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limits, order = Limits(**given["limits"]), Order(**given["order"])
    confine(limits)
    try:
        print(json.dumps({"frames": prepare(order, limits.seconds)}))
    except MemoryError:
        print(json.dumps({"error": "The uploads take too much memory; send a smaller or shorter video."}))
    except (ValueError, OSError, WeightsError) as error:
        # Pillow's errors about a picture are OSErrors too, but without a number.
        about_file = isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno is None)
        print(json.dumps({"error" if about_file else "fault": _without_paths(str(error), order)}))


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def _without_paths(message: str, order: Order) -> str:
    """A sentence that names uploads by what they are, not by where this process found them."""
    for name in ("picture", "driving_video", "poses"):
        if path := getattr(order, name):
            message = message.replace(path, name)
    return message


if __name__ == "__main__":
    main()
