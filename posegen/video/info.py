"""One video file's facts, and which of its frames are on screen at an even rate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from posegen.video.clock import usual_step
from posegen.video.container import VideoError

TOLERANCE = 0.0015  # seconds; Matroska and FLV round timestamps to 0.001, so their distances err by that much

LONGEST_GAP_S = 10.0


@dataclass(frozen=True)
class Break:
    """A place that no shot crosses: before frame number `frame`, which for the end of the video is the frame count.

    `why` is a phrase, such as "pictures are damaged".
    """

    frame: int
    why: str


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """What `probe` finds out about one file; picklable, so that it can travel to where the frames are read.

    width, height: displayed size in pixels: upright, with square pixels. Oblong pixels are made square by
        shrinking their longer side, never by enlarging the shorter one. Where the size changes, that which is shown
        longest; `read_frames` fits pictures of another shape into it, with black beside them.
    stored: width and height of those pictures in the file.
    stream: the index of the stream that they are in.
    hdr: "pq" or "hlg" where the pictures are of high dynamic range, which `read_frames` maps to the standard one.
    frame_times: (N,) float64, seconds from the first frame, strictly increasing.
    duration: end of the last frame, seconds.
    rotation, mirrored: stored pictures are turned clockwise by 0, 90, 180 or 270 degrees, then flipped left
        to right if mirrored; `read_frames` does so.
    stamps: (N,) int64, what tells frames apart: timestamps, or, if `numbered`, packets' places in the file.
    key_frames: (K,) int64, the frames that decoding can start at; the first is 0.
    key_bytes: (K,) int64, where in the file they start, if `numbered` and the container can be entered anywhere.
    breaks: where frames are missing or something else keeps two frames in a row from belonging together, in order.
    """

    path: str
    width: int
    height: int
    frame_times: np.ndarray
    duration: float
    rotation: int
    mirrored: bool
    codec: str
    stamps: np.ndarray
    numbered: bool
    key_frames: np.ndarray
    stored: tuple[int, int]
    stream: int = 0
    hdr: str | None = None
    key_bytes: np.ndarray | None = None
    breaks: tuple[Break, ...] = ()

    @property
    def rate(self) -> float:
        """Frames per second while there are any: gaps at breaks do not count."""
        return len(self.frame_times) / float((self.frame_ends - self.frame_times).sum())

    @property
    def frame_ends(self) -> np.ndarray:
        """(N,) float64, seconds: when the next frame comes, before a break at most the usual step later."""
        ends = np.append(self.frame_times[1:], self.duration)
        last = np.array([found.frame for found in self.breaks], np.int64) - 1
        step = usual_step(self.frame_times, self.duration)
        ends[last] = np.minimum(ends[last], self.frame_times[last] + step)
        return ends

    @property
    def notes(self) -> list[str]:
        """What breaks the video, from when to when, a phrase for each break."""
        notes = []
        for found in self.breaks:
            begin = f"{self.frame_ends[found.frame - 1]:.2f} s"
            end = (
                f"{self.frame_times[found.frame]:.2f} s" if found.frame < len(self.frame_times) else "the end"
            )
            notes.append(f"{found.why} at {begin}" if begin == end else f"{found.why} from {begin} to {end}")
        return notes


def turned(info: VideoInfo, degrees: int) -> VideoInfo:
    """The video with its pictures turned clockwise by 0, 90, 180 or 270 degrees more."""
    size = (info.width, info.height) if degrees % 180 == 0 else (info.height, info.width)
    # Mirroring comes after the rotation, and turns its direction round.
    rotation = (info.rotation + (-degrees if info.mirrored else degrees)) % 360
    return replace(info, width=size[0], height=size[1], rotation=rotation)


def require_continuous(info: VideoInfo) -> None:
    """Raises `VideoError` where a video has a gap that is too long for a movement to be guessed across it."""
    ends, times = info.frame_ends, info.frame_times
    for frame in (found.frame for found in info.breaks if found.frame < len(times)):
        if times[frame] - ends[frame - 1] > LONGEST_GAP_S:
            raise VideoError(
                f"{info.path}: it holds no pictures from {ends[frame - 1]:.1f} s to {times[frame]:.1f} s; give "
                "the part before or after that, or export it again."
            )


def sample_indices(info: VideoInfo, start: float, stop: float, rate: float) -> np.ndarray:
    """Returns the (K,) int64 indices of the frames on screen at start + k / rate, for all k before `stop`.

    `start` and `stop` in seconds, `rate` in frames/s. Moments closer than 1.5 ms count as one, since some
    containers round to milliseconds: so a Matroska file of 30 frames/s sampled at 30 gives each frame once.
    Raises ValueError unless 0 <= start < stop <= duration and rate > 0.
    """
    if not (0 <= start < stop <= info.duration + TOLERANCE and rate > 0):
        raise ValueError(
            f"{info.path}: cannot sample {start} to {stop} s at {rate} frames/s of {info.duration:.3f} s; "
            "give 0 <= start < stop <= duration and a positive rate."
        )
    count = max(1, int(np.ceil((stop - start - TOLERANCE) * rate)))
    moments = start + np.arange(count) / float(rate)
    return np.searchsorted(info.frame_times, moments + TOLERANCE, side="right") - 1
