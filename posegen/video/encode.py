"""Frames to H.264 in MP4, the same bytes for the same frames."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

CRF = "18"  # x264's visually lossless
MAX_RATE_DENOMINATOR = 1001  # 30000/1001 and its like


def encode(frames: Iterable[np.ndarray], path: str, rate: float | Fraction) -> None:
    """Writes (N, H, W, 3) uint8 RGB, as one array or as an iterable of such chunks, as an MP4 of H.264 (yuv420p).

    `rate` in frames/s is made the nearest fraction with a denominator of at most 1001. Odd sides lose their last
    column or row, since yuv420p has none. Colours are BT.709, limited range, and tagged so. The file appears under
    its name once it is whole. Raises ValueError where there are no frames, or shapes differ.
    """
    chunks = iter([frames] if isinstance(frames, np.ndarray) else frames)
    first = next((chunk for chunk in chunks if len(chunk)), None)
    if first is None:
        raise ValueError(f"{path}: there are no frames to write; give at least one.")
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _write(chain([first], chunks), part, Fraction(rate).limit_denominator(MAX_RATE_DENOMINATOR))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _write(chunks: Iterable[np.ndarray], part: Path, rate: Fraction) -> None:
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(part), "w", format="mp4", options=options) as container:
        stream, shape, scaler = None, None, VideoReformatter()
        for chunk in chunks:
            if stream is None:
                shape = chunk.shape[1:]
                stream = _add_stream(container, shape, rate)
            if chunk.shape[1:] != shape or chunk.dtype != np.uint8:
                raise ValueError(
                    f"{part}: frames of {chunk.dtype} {chunk.shape[1:]} after {shape}; give uint8 of one shape."
                )
            for picture in chunk:
                container.mux(stream.encode(_to_yuv(picture, stream, scaler)))
        container.mux(stream.encode(None))


def _add_stream(container: OutputContainer, shape: tuple[int, ...], rate: Fraction) -> VideoStream:
    height, width = shape[0] // 2 * 2, shape[1] // 2 * 2
    if len(shape) != 3 or shape[2] != 3 or height == 0 or width == 0:
        raise ValueError(
            f"{container.name}: cannot write frames of shape {shape}; give (H, W, 3) of 2 pixels or more."
        )
    # One thread and no name of the encoder in the file: the bytes depend on the frames alone.
    stream = container.add_stream("libx264", rate=rate, options={"crf": CRF, "threads": "1"})
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base = 1 / rate
    context.colorspace = context.color_primaries = context.color_trc = Colorspace.ITU709
    context.color_range = ColorRange.MPEG
    return stream


def _to_yuv(picture: np.ndarray, stream: VideoStream, scaler: VideoReformatter) -> av.VideoFrame:
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[: stream.height, : stream.width]), "rgb24")
    return scaler.reformat(
        rgb,
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND,
        threads=1,
    )
