"""MediaPipe's own Python Holistic over videos or pictures: the half of the comparison that runs in its environment.

Only MediaPipe, OpenCV and numpy are imported, as MediaPipe cannot live beside numpy 2. Seconds are of
`process` alone; reading and scaling are counted apart.

    python mediapipe_holistic.py OUT.npz VIDEO_OR_PICTURE... [--repeat 1] [--short-side 720]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

PARTS = {"pose": 33, "face": 468, "left_hand": 21, "right_hand": 21}


def frames(path: str, short_side: int) -> Iterator[np.ndarray]:
    """A video's frames (or a picture) as (H, W, 3) uint8 RGB, scaled down to this short side where larger."""
    video = cv2.VideoCapture(path)
    while True:
        more, frame = video.read()
        if not more:
            return
        scale = short_side / min(frame.shape[:2])
        if scale < 1:
            size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def landmarks(result: object, width: int, height: int) -> dict[str, np.ndarray]:
    """By part: (K, 4) x, y, z in pixels and visibility (1 where the part has none); NaN where nothing was found."""
    rows = {}
    for part, count in PARTS.items():
        rows[part] = np.full((count, 4), np.nan, np.float32)
        found = getattr(result, part + "_landmarks")
        if found:
            rows[part][:] = [
                (p.x * width, p.y * height, p.z * width, p.visibility if part == "pose" else 1)
                for p in found.landmark
            ]
    return rows


def run(path: str, repeat: int, short_side: int) -> dict[str, np.ndarray]:
    """By part the landmarks (N, K, 4); seconds in `process`, in all, and of CPU; the frames' size (width, height)."""
    from mediapipe.python.solutions.holistic import Holistic

    found: list[dict[str, np.ndarray]] = []
    seconds, size = 0.0, (0, 0)
    with Holistic(model_complexity=1) as holistic:
        begun, cpu_begun = time.perf_counter(), time.process_time()
        for frame in frames(path, short_side):
            size = (frame.shape[1], frame.shape[0])
            started = time.perf_counter()
            for _ in range(repeat):
                result = holistic.process(frame)
            seconds += time.perf_counter() - started
            found.append(landmarks(result, *size))
        everything, cpu = time.perf_counter() - begun, time.process_time() - cpu_begun
    arrays = {part: np.stack([frame[part] for frame in found]) for part in PARTS}
    return {**arrays, "seconds": np.array([seconds, everything, cpu]), "size": np.array(size)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--repeat", type=int, default=1, help="how often each frame is shown (pictures)")
    parser.add_argument("--short-side", type=int, default=720)
    options = parser.parse_args()
    arrays: dict[str, Any] = {}
    for number, path in enumerate(options.paths):
        for name, array in run(path, options.repeat, options.short_side).items():
            arrays[f"{number}/{name}"] = array
    np.savez(options.out, **arrays)


if __name__ == "__main__":
    main()
