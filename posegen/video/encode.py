"""Frames to H.264 in MP4, the same bytes for the same frames.

x264 as shipped with PyAV 18, on a CPU with AVX-512, gave one of several streams for the same frames once it used
B-frames and its macroblock tree, even on one thread; without B-frames 2,500 encodings were alike. That costs a
fifth in size and is a quarter faster. The preset is veryfast: on dancers of 720x1280 it writes 48 to 71 frames/s
on one thread at 42 dB; medium is half as fast and 0.7 dB better.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from posegen.common.files import written_whole

CODEC = {"crf": "18", "preset": "veryfast", "bf": "0", "threads": "1"}  # CRF 18: visually lossless
CONTAINER = {"movflags": "+faststart", "fflags": "+bitexact"}  # bitexact: no names and times of writing
MAX_DENOMINATOR = 1001  # of a rate: 30000/1001 and its like


def save_video(frames: Iterable[np.ndarray], path: str | Path, rate: float | Fraction) -> None:
    """Writes (N, H, W, 3) uint8 RGB, one array or an iterable of such chunks, as H.264 (yuv420p) in MP4.

    `rate` in frames/s is made the nearest fraction with a denominator of at most 1001. Odd sides lose their
    last column or row, which yuv420p cannot hold. Colours are BT.709 of limited range and tagged so. The file
    appears under its name once it is whole. Raises ValueError for no frames and for shapes that differ.
    """
    chunks = iter([frames] if isinstance(frames, np.ndarray) else frames)
    first = next((chunk for chunk in chunks if len(chunk)), None)
    if first is None:
        raise ValueError(f"{path}: there are no frames to write; give at least one.")
    target = Path(path)
    with written_whole(target) as part:
        _write(_pictures(target, first, chunks), first.shape[1:3], part, Fraction(rate))


def _pictures(target: Path, first: np.ndarray, rest: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields (H, W, 3) pictures with even sides; raises ValueError where one cannot be written."""
    for chunk in chain([first], rest):
        fits = chunk.dtype == np.uint8 and chunk.ndim == 4 and chunk.shape[1:] == first.shape[1:]
        if not fits or chunk.shape[3] != 3 or min(chunk.shape[1:3]) < 2:
            raise ValueError(
                f"{target}: cannot write frames of {chunk.dtype} {chunk.shape} after {first.shape}; "
                "give uint8 (N, H, W, 3) of one size, 2 pixels or more a side."
            )
        yield from chunk[:, : chunk.shape[1] // 2 * 2, : chunk.shape[2] // 2 * 2]


def _write(pictures: Iterable[np.ndarray], shape: tuple[int, ...], part: Path, rate: Fraction) -> None:
    scaler = VideoReformatter()
    with av.open(str(part), "w", format="mp4", options=CONTAINER) as container:
        stream = add_video(container, shape, rate)
        for picture in pictures:
            container.mux(stream.encode(video_frame(picture, scaler)))
        container.mux(stream.encode(None))


def add_video(container: OutputContainer, shape: tuple[int, ...], rate: float | Fraction) -> VideoStream:
    """The container's new stream for pictures of `shape`, height before width, at about `rate` frames/s."""
    exact = Fraction(rate).limit_denominator(MAX_DENOMINATOR)
    stream = container.add_stream("libx264", rate=exact, options=CODEC)
    stream.height, stream.width = shape[0] // 2 * 2, shape[1] // 2 * 2
    stream.pix_fmt = "yuv420p"
    stream.colorspace = stream.color_primaries = stream.color_trc = Colorspace.ITU709
    stream.color_range = ColorRange.MPEG
    return stream


def video_frame(picture: np.ndarray, scaler: VideoReformatter) -> av.VideoFrame:
    """What such a stream encodes of a picture (H, W, 3) uint8 RGB with even sides."""
    return scaler.reformat(
        av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24"),
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND,
        threads=1,
    )
