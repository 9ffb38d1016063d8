"""A span of a video as a file of its own, without encoding it again where that can be done exactly.

The packets are copied from the key frame before the span to its end, so the pictures stay those of the source and it
costs next to no time; the span then begins some seconds into the file. Where the copy does not give back the very
same pictures (codecs that MP4 cannot hold, streams without clean key frames), the span is decoded and encoded.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from posegen.video.container import VideoError, open_video, packets
from posegen.video.decode import read_frames
from posegen.video.encode import CONTAINER, encode
from posegen.video.info import VideoInfo
from posegen.video.probe import probe

COPIED = ("h264", "hevc", "av1", "vp9", "mpeg4")
CLOSE = 0.002  # seconds; MP4 stores the copy's times in the source's own unit, and the first as 0


def cut(info: VideoInfo, indices: np.ndarray, path: str | Path) -> float:
    """Writes the span of the frames `indices` (ascending) of a probed video as MP4, without sound.

    Returns how many seconds after the file's first frame the span begins. The file appears under its name once it is
    whole. Raises VideoError where frames of the span cannot be decoded.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    first, last = int(indices[0]), int(indices[-1])
    try:
        start = _copy(info, first, last, part)
        if start is None:
            span = np.arange(first, last + 1)
            encode(read_frames(info, span), part, Fraction(info.rate).limit_denominator(1001))
            start = 0.0
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return start


def _copy(info: VideoInfo, first: int, last: int, part: Path) -> float | None:
    """Copies the packets and returns where the span begins, None where the copy would differ."""
    key = int(info.key_frames[np.searchsorted(info.key_frames, first, side="right") - 1])
    if info.codec not in COPIED or info.numbered:
        return None
    try:
        _remux(info, key, last, part)
        copied = probe(part)
    except (av.error.FFmpegError, VideoError, ValueError):
        return None
    start = float(info.frame_times[first] - info.frame_times[key])
    ends = np.searchsorted(
        copied.frame_times, start + info.frame_times[[first, last]] - info.frame_times[first] - CLOSE
    )
    if ends[1] >= len(copied.frame_times) or ends[1] - ends[0] != last - first:
        return None
    return start if _same_pictures(info, [first, last], copied, ends) else None


def _remux(info: VideoInfo, key: int, last: int, part: Path) -> None:
    begin, end = int(info.stamps[key]), int(info.stamps[last])
    with (
        open_video(info.path) as (source, stream),
        av.open(str(part), "w", format="mp4", options=CONTAINER) as sink,
    ):
        copy = sink.add_stream_from_template(stream, opaque=True)
        if key > 0:
            source.seek(begin, stream=stream)
        started = False
        for packet in packets(source, stream):
            started = started or packet.pts == begin
            if started and packet.dts is not None and packet.dts > end:
                break
            if (
                started
                and packet.pts is not None
                and begin <= packet.pts <= end + _REORDERED * (packet.duration or 0)
            ):
                packet.stream = copy
                sink.mux(packet)


_REORDERED = 16
"""Frames shown after the last wanted one that may stand before it in the file, and that it may be built upon."""


def _same_pictures(info: VideoInfo, indices: list[int], copied: VideoInfo, at: np.ndarray) -> bool:
    if (info.width, info.height) != (copied.width, copied.height):
        return False
    ours = np.concatenate(list(read_frames(info, indices)))
    theirs = np.concatenate(list(read_frames(copied, at)))
    return bool((ours == theirs).all())
