"""Puts a picture, a driving video and the video made of them side by side, as a moving image for a page.

    posegen generate --image serving/page/samples/person.jpg --video serving/page/samples/dance.mp4 --output out.mp4
    python benchmarks/side_by_side.py --image serving/page/samples/person.jpg --video serving/page/samples/dance.mp4 \\
        --result out.mp4 --output docs/mini.webp
"""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import tyro
from PIL import Image


def frames_of(path: Path, height: int) -> list[np.ndarray]:
    """All frames of a video (h, w, 3) uint8, resized to a height without smoothing over what is coarse."""
    with av.open(path) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [resized(picture, height) for picture in pictures]


def resized(picture: np.ndarray, height: int) -> np.ndarray:
    width = round(picture.shape[1] * height / picture.shape[0])
    how = cv2.INTER_NEAREST if picture.shape[0] < height else cv2.INTER_AREA
    return cv2.resize(picture, (width, height), interpolation=how)


def main(image: Path, video: Path, result: Path, output: Path, height: int = 288, rate: float = 12.0) -> None:
    """Writes an animated WebP that repeats for ever.

    Args:
        image: the picture of the person.
        video: the driving video, as many frames at the same rate as the result.
        result: the video made of both.
        output: the file to write.
        height: of the moving image, in pixels.
        rate: frames a second.
    """
    person = resized(np.asarray(Image.open(image).convert("RGB")), height)
    gap = np.full((height, 8, 3), 255, np.uint8)
    rows = [
        Image.fromarray(np.hstack([person, gap, driven, gap, made]))
        for driven, made in zip(frames_of(video, height), frames_of(result, height), strict=False)
    ]
    rows[0].save(
        output,
        save_all=True,
        append_images=rows[1:],
        duration=round(1000 / rate),
        loop=0,
        quality=60,
        method=6,
    )


if __name__ == "__main__":
    tyro.cli(main)
