"""A span of a video as a file of its own, without encoding it again where that can be done exactly.

The packets are copied from the key frame before the span to its end, so the pictures stay those of the source and it
costs next to no time; the span then begins some seconds into the file. Where the copy does not show the very same
pictures at the same times (codecs that MP4 cannot hold, streams without clean key frames), or where the key frame is
further away than the span is long, the span's frames are decoded and encoded at the rate they are wanted at.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from posegen.common.files import written_whole
from posegen.video.container import VideoError, open_video, packets
from posegen.video.decode import read_frames
from posegen.video.encode import CONTAINER, save_video
from posegen.video.info import VideoInfo, sample_indices
from posegen.video.probe import probe

COPIED = ("h264", "hevc", "av1", "vp9", "mpeg4")
REORDERED = 16
"""Frames shown after the last wanted one that may stand before it in the file, and that it may be built upon."""
SHOWN = ("width", "height", "rotation", "mirrored")
CHUNK = 4  # frames in memory at once: they are of the video's own size


def cut(info: VideoInfo, start: float, stop: float, rate: float, path: str | Path) -> float:
    """Writes the span from `start` to `stop` (seconds) of a probed video as MP4, without sound.

    Returns the second `begin` of the file at which the span begins: sampled at `rate` (frames/s) from `begin` to
    `begin + stop - start` it shows what the video shows from `start` to `stop`. The file appears under its name once
    it is whole. Raises VideoError where frames of the span cannot be decoded, ValueError for a span that is not in
    the video.
    """
    shown = sample_indices(info, start, stop, rate)
    with written_whole(Path(path)) as part:
        begin = _copy(info, shown, start, stop, rate, part)
        if begin is None:
            save_video(read_frames(info, shown, chunk=CHUNK), part, rate)
            begin = 0.0
    return begin


def _copy(
    info: VideoInfo, shown: np.ndarray, start: float, stop: float, rate: float, part: Path
) -> float | None:
    """Copies the packets and returns where the span begins.

    None where the copy would show something else, or more of what is before the span than of itself.
    """
    key = int(info.key_frames[np.searchsorted(info.key_frames, shown[0], side="right") - 1])
    if info.codec not in COPIED or info.numbered:
        return None
    begin = start - float(info.frame_times[key])
    if begin > stop - start:
        return None
    # With one frame after the span, as only the next one tells how long a frame is shown.
    last = min(int(np.searchsorted(info.frame_times, stop)), len(info.frame_times) - 1)
    try:
        _remux(info, key, last, part)
        copied = probe(part)
        again = sample_indices(copied, begin, begin + stop - start, rate)
    except (av.error.FFmpegError, VideoError, ValueError):
        return None
    if not np.array_equal(again - again[0], shown - shown[0]):
        return None
    return begin if _same_pictures(info, shown[[0, -1]], copied, again[[0, -1]]) else None


def _remux(info: VideoInfo, key: int, last: int, part: Path) -> None:
    """Copies the packets of the frames from `key` to `last` into an MP4 file, and those that these may need."""
    begin, end = int(info.stamps[key]), int(info.stamps[last])
    with (
        open_video(info.path, index=info.stream) as (source, stream),
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
                and not packet.is_corrupt
                and packet.pts is not None
                and begin <= packet.pts <= end + REORDERED * (packet.duration or 0)
            ):
                packet.stream = copy
                sink.mux(packet)


def _same_pictures(info: VideoInfo, indices: np.ndarray, copied: VideoInfo, at: np.ndarray) -> bool:
    if any(getattr(info, name) != getattr(copied, name) for name in SHOWN):
        return False
    ours = np.concatenate(list(read_frames(info, indices)))
    theirs = np.concatenate(list(read_frames(copied, at)))
    return bool((ours == theirs).all())
