"""Frames -> H.264 in fragmented MP4, given out fragment by fragment.

One encoder runs from the first frame to the last, so there is no seam; it makes the same bytes as
`posegen.video.encode` for the same frames. However long the video, memory holds less than a fragment and the rest is a
file on disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from posegen.video.encode import add_video, video_frame

FRAGMENT_US = 1_000_000  # microseconds of video in a fragment, about
OPTIONS = {
    "movflags": "+empty_moov+default_base_moof+skip_trailer",
    "frag_duration": str(FRAGMENT_US),
    "fflags": "+bitexact",
}


class FragmentWriter:
    """Encodes pictures of one size into a file; `finish` ends it."""

    def __init__(self, file: Path, rate: float | Fraction) -> None:
        self._rate, self._scaler = rate, VideoReformatter()
        self._sink = _Sink(file)
        self._container = av.open(self._sink, "w", format="mp4", options=OPTIONS)
        self._stream: VideoStream | None = None

    def add(self, frames: Iterable[np.ndarray]) -> bytes:
        """Encodes pictures (H, W, 3) uint8 RGB; returns the fragments that are whole since the last call."""
        for frame in frames:
            height, width = (side // 2 * 2 for side in frame.shape[:2])
            self._stream = self._stream or add_video(self._container, (height, width), self._rate)
            self._container.mux(self._stream.encode(video_frame(frame[:height, :width], self._scaler)))
        return self._sink.take()

    def finish(self) -> bytes:
        """Ends the file; returns its last fragments."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self.close()
        return self._sink.take()

    def close(self) -> None:
        """Closes the file, finished or not."""
        self._container.close()
        self._sink.close()


class _Sink:
    """A file that also keeps what has been written since the last whole fragment that was taken."""

    def __init__(self, file: Path) -> None:
        self._file, self._pending = file.open("wb"), bytearray()

    def write(self, data: bytes) -> int:
        self._pending += data
        return self._file.write(data)

    def take(self) -> bytes:
        """All whole boxes up to the last `mdat`, which ends a fragment (ISO 14496-12, 4.2 and 8.8)."""
        start = end = 0
        while start + 8 <= len(self._pending):
            size = int.from_bytes(self._pending[start : start + 4], "big")
            if start + size > len(self._pending):
                break
            if self._pending[start + 4 : start + 8] == b"mdat":
                end = start + size
            start += size
        fragments = bytes(self._pending[:end])
        del self._pending[:end]
        return fragments

    def close(self) -> None:
        self._file.close()
