"""Frames by their index: seeks to the key frame before, decodes what is needed, converts what is wanted.

Pictures are scaled first, as 8-bit YUV 4:2:0, by area averaging (small pictures do not alias), then turned
into RGB: in swscale that is four times as fast as both in one exact pass. RGB values end 0 to 3 of 255 under
the exact ones (0.8 in the mean, greys exact). Colours: the matrix and range that the stream states; where it
states no matrix, BT.709 for HD sizes, else BT.601, as players do. High dynamic range is scaled at 16 bits and
mapped to the standard one; other transfer functions are left alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import cv2
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from posegen.common.profiling import timed
from posegen.video.container import VideoError, intact_frames, open_video
from posegen.video.hdr import to_standard
from posegen.video.info import VideoInfo

SEEK_OVER = 8  # frames; decoding this many costs about what a seek does
RETRY_KEYS = 2  # key frames; one is not enough where the picture recovers over a whole interval
SAME_SHAPE = 0.02  # coded sizes are rounded to even pixels
UNSPECIFIED = 2  # AVColorSpace
SCALING = Interpolation.AREA | Interpolation.FULL_CHR_H_INT
SCALING_DEEP = Interpolation.AREA  # with FULL_CHR_H_INT, 16-bit values come out wrong (FFmpeg 8)
TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def read_frames(
    info: VideoInfo,
    indices: Sequence[int] | np.ndarray,
    size: tuple[int, int] | None = None,
    chunk: int = 32,
    threads: int = 1,
    reuse: bool = False,
) -> Iterator[np.ndarray]:
    """Yields the frames `indices` (ascending, may repeat) as (n, H, W, 3) uint8 RGB, n <= `chunk`, upright.

    `size` is the displayed (width, height) to scale to, by default that of the video. Holds one chunk and the
    decoder's few pictures at a time. `reuse`: a chunk is overwritten by the next, which saves fetching new memory for
    each and pays for large frames. Raises `VideoError` naming the time where a wanted frame is damaged, and
    ValueError for indices that are out of range or descend.
    """
    wanted = np.asarray(indices, np.int64)
    if len(wanted) and (wanted[0] < 0 or wanted[-1] >= len(info.frame_times) or np.any(np.diff(wanted) < 0)):
        raise ValueError(
            f"{info.path}: frame indices must ascend from 0 to {len(info.frame_times) - 1}; sort them first."
        )
    if len(wanted) == 0:
        return
    chunks = _chunks(info, wanted, size or (info.width, info.height), chunk, threads, reuse)
    while True:
        with timed("decode"):
            frames = next(chunks, None)
        if frames is None:
            return
        yield frames


def _chunks(
    info: VideoInfo, wanted: np.ndarray, size: tuple[int, int], chunk: int, threads: int, reuse: bool
) -> Iterator[np.ndarray]:
    distinct, repeats = np.unique(wanted, return_counts=True)
    convert = _Converter(info, size)
    filled, left = 0, len(wanted)
    frames = np.empty((min(chunk, left), size[1], size[0], 3), np.uint8)
    for frame, count in zip(_frames(info, distinct, threads), repeats, strict=True):
        picture = convert(frame)
        for _ in range(count):
            frames[filled] = picture
            filled, left = filled + 1, left - 1
            if filled == len(frames):
                yield frames
                following = min(chunk, left)
                frames = frames[:following] if reuse else np.empty((following, *frames.shape[1:]), np.uint8)
                filled = 0


def _frames(info: VideoInfo, wanted: np.ndarray, threads: int) -> Iterator[VideoFrame]:
    """Yields the distinct `wanted` frames, each run of them from the key frame before it.

    Where one does not come, the rest of its run is tried once more from some key frames earlier: for streams
    without clean key frames, which recover step by step, and for seeks that land late.
    """
    index_of = {stamp: index for index, stamp in enumerate(info.stamps.tolist())}
    keys = np.searchsorted(info.key_frames, wanted, side="right") - 1
    runs = np.split(wanted, np.flatnonzero(info.key_frames[keys[1:]] > wanted[:-1] + SEEK_OVER) + 1)
    with open_video(info.path, threads, info.stream) as opened:
        for run in runs:
            key = int(np.searchsorted(info.key_frames, run[0], side="right")) - 1
            left = yield from _read_run(info, opened, key, True, run.tolist(), index_of)
            if left:
                with open_video(info.path, threads, info.stream) as opened_again:
                    key = max(0, key - RETRY_KEYS)
                    left = yield from _read_run(info, opened_again, key, False, left, index_of)
            if left:
                raise VideoError(
                    f"{info.path}: the frame at {info.frame_times[left[0]]:.3f} s cannot be decoded, the "
                    "file is damaged there; leave that part out or export the file again."
                )


def _read_run(
    info: VideoInfo,
    opened: tuple[InputContainer, VideoStream],
    key: int,
    key_must_come: bool,
    run: list[int],
    index_of: dict[int, int],
) -> Generator[VideoFrame, None, list[int]]:
    """Yields the frames of `run`, decoding from key frame number `key`; returns those it could not yield.

    A key frame that does not come out itself is no clean one. The container must stand at its start for key
    frame 0, since not every format can seek there.
    """
    container, stream = opened
    landing = int(info.key_frames[key])
    stamp = int(info.stamps[landing])
    if key > 0 and info.key_bytes is not None:
        container.seek(int(info.key_bytes[key]), unsupported_byte_offset=True)
    elif key > 0:
        container.seek(stamp, stream=stream)
    first = stamp if key > 0 and info.numbered else 0
    done, landed = 0, not key_must_come
    for frame in intact_frames(container, stream, info.numbered, set(info.stamps[run].tolist()), first):
        index = -1 if frame.pts is None else index_of.get(frame.pts, -1)
        landed = landed or index == landing
        if index > run[done] or (index > landing and not landed):
            break
        if index == run[done]:
            yield frame
            done += 1
        if done == len(run):
            break
    return run[done:]


class _Converter:
    """Turns decoded frames into upright (H, W, 3) uint8 RGB of one displayed size (width, height).

    Frames of another shape than the video's are fitted into it, with black beside them.
    """

    def __init__(self, info: VideoInfo, size: tuple[int, int]) -> None:
        self.stored, self.hdr = info.stored, info.hdr
        self.turn, self.mirrored = TURNS.get(info.rotation), info.mirrored
        self.stored_size = size[::-1] if info.rotation in (90, 270) else size
        self.scaler, self.colours = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        picture = self._fitted(frame)
        if self.turn is not None:
            picture = cv2.rotate(picture, self.turn)
        return cv2.flip(picture, 1) if self.mirrored else picture

    def _fitted(self, frame: VideoFrame) -> np.ndarray:
        width, height = self.stored_size
        wider = frame.width * self.stored[1] / (frame.height * self.stored[0])
        if abs(wider - 1) <= SAME_SHAPE:
            return self._scaled(frame, width, height)
        inner = (
            (width, max(1, round(height / wider))) if wider > 1 else (max(1, round(width * wider)), height)
        )
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        picture = np.zeros((height, width, 3), np.uint8)
        picture[top : top + inner[1], left : left + inner[0]] = self._scaled(frame, *inner)
        return picture

    def _scaled(self, frame: VideoFrame, width: int, height: int) -> np.ndarray:
        if self.hdr is not None:
            deep = self.colours.reformat(
                frame, width, height, "rgb48le", interpolation=SCALING_DEEP, threads=1
            )
            return to_standard(_pixels(deep, np.uint16), self.hdr)
        matrix = _matrix(frame)
        if not (frame.format.is_rgb or frame.format.has_palette):
            frame = self.scaler.reformat(frame, width, height, "yuv420p", interpolation=SCALING, threads=1)
        rgb = self.colours.reformat(
            frame, width, height, "rgb24", src_colorspace=matrix, interpolation=SCALING, threads=1
        )
        return _pixels(rgb, np.uint8)


def _pixels(frame: VideoFrame, kind: type[np.uint8 | np.uint16]) -> np.ndarray:
    """A view of the (H, W, 3) values of packed RGB, whose rows are padded."""
    rows = np.frombuffer(memoryview(frame.planes[0]), kind).reshape(frame.height, -1)
    return rows[:, : frame.width * 3].reshape(frame.height, frame.width, 3)


def _matrix(frame: VideoFrame) -> Colorspace | None:
    """The YUV matrix to assume where the stream states none; None where it states one."""
    if frame.colorspace != UNSPECIFIED:
        return None
    return Colorspace.ITU709 if frame.width >= 1280 or frame.height > 576 else Colorspace.ITU601
