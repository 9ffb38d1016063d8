"""Opens local video files, nothing else, and walks through their packets and intact frames.

FFmpeg can follow playlists and network addresses that a file names, so only the file protocol and the
containers listed here are let through. Sizes are bounded before a picture is decoded. Damaged pictures are
never handed on, nor those after them up to the next key frame, which are built upon them; reading goes on there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

CONTAINERS = "mov,matroska,webm,avi,flv,asf,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,obu,ogg,mxf,nut,dv,gif"
CAN_SKIP = ("h264", "hevc")  # decoders that take a new skip_frame with every packet
MOST_FAILURES = 16  # to read a packet, one after the other
LASTING, OFTEN = 0.5, 0.1  # of the longest stream's seconds, of the pictures of the one that has most
MAX_SIDE = 16384  # pixels
MAX_PIXELS = 2**26  # of one picture: twice 8K, 200 MB as RGB


class VideoError(ValueError):
    """A file cannot be read as video; the message is one sentence: which file, what is wrong, what to do."""


@contextmanager
def open_video(
    path: str, threads: int = 1, index: int | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Yields the open container and its video stream, to be decoded by `threads` threads.

    `index` is that of the stream, by default the one of the largest picture among those that last. Raises `VideoError`
    where the file is missing, empty, no video, of too many pixels or of an unknown codec.
    """
    if index is None:
        index = _main_stream(path)
    with _open(path) as container:
        stream = next(s for s in container.streams.video if s.index == index)
        stream.thread_count = threads
        stream.thread_type = "AUTO" if threads > 1 else "NONE"
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield container, stream


def _open(path: str) -> InputContainer:
    _require_content(path)
    try:
        options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
        return av.open(f"file:{path}", options=options)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(
            f"{path}: cannot be opened as video: damaged, cut short or in none of the formats that are read "
            "(mp4, mov, mkv, webm, avi, flv, ts and the like); export it again as mp4."
        ) from error


def _require_content(path: str) -> None:
    file = Path(path)
    if not file.is_file():
        raise VideoError(f"{path}: no such file; check the path.")
    if file.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty; copy or export it again.")


def _main_stream(path: str) -> int:
    with _open(path) as container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            kinds = " and ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise VideoError(f"{path}: holds {kinds} but no readable video; leave it out or export it again.")
        known = [stream for stream in streams if stream.codec_context is not None]
        if not known:
            raise VideoError(f"{path}: its video codec is not known here; convert it to H.264.")
        lasting = _lasting(container, known) if len(known) > 1 else known
        stream = max(lasting, key=lambda s: s.codec_context.width * s.codec_context.height)
        width, height = stream.codec_context.width, stream.codec_context.height
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise VideoError(
                f"{path}: pictures of {width}x{height} are over the limit of {MAX_SIDE} pixels "
                f"a side and {MAX_PIXELS} in all; scale them down."
            )
        return stream.index


def _lasting(container: InputContainer, streams: list[VideoStream]) -> list[VideoStream]:
    """The streams that are no preview and no row of chapter pictures: those that last, with pictures all along."""
    times: dict[int, list[float]] = {stream.index: [] for stream in streams}
    for packet in packets(container, *streams):
        if packet.dts is not None:
            times[packet.stream_index].append(float(packet.dts * packet.time_base))
    seconds = {index: max(shown) - min(shown) if shown else 0.0 for index, shown in times.items()}
    most = max(len(shown) for shown in times.values())
    return [
        stream
        for stream in streams
        if seconds[stream.index] >= LASTING * max(seconds.values())
        and len(times[stream.index]) >= OFTEN * most
    ] or streams


def packets(container: InputContainer, *streams: VideoStream) -> Iterator[Packet]:
    """Yields the streams' packets that carry data, up to the end or to where nothing more can be read.

    A packet that came incomplete says so (`is_corrupt`).
    """
    failures = 0
    while failures < MOST_FAILURES:
        try:
            for packet in container.demux(streams):
                failures = 0
                if packet.size > 0:
                    yield packet
            return
        except av.error.FFmpegError:
            failures += 1


class Intact:
    """Tells packets that can be decoded from lost ones, given all packets in the order of the file.

    Lost are packets that came incomplete and all after them up to the next key frame, which are built upon them, and
    of those after it the ones to be shown before it, which are built upon both. FFmpeg says that a packet of a
    transport stream is incomplete with that packet or with the one before, so the one after is lost too.
    """

    def __init__(self) -> None:
        self.resumes = False  # whether the last packet is the key frame after damage
        self._lost = self._incomplete = False
        self._since: int | None = None  # when the key frame after the damage is shown

    def __call__(self, packet: Packet) -> bool:
        doubtful = packet.is_corrupt or self._incomplete
        self._incomplete = packet.is_corrupt
        self.resumes = self._lost and packet.is_keyframe and not doubtful
        if doubtful:
            self._lost = True
        elif packet.is_keyframe:
            self._since = packet.pts if self.resumes else None
            self._lost = False
        elif self._since is not None and packet.pts is not None and packet.pts < self._since:
            return False
        return not self._lost


def decode_packet(stream: VideoStream, packet: Packet | None) -> list[VideoFrame] | None:
    """Returns the frames that the decoder now releases (all that are left for None), or None if it fails."""
    try:
        return stream.codec_context.decode(packet)
    except av.error.FFmpegError:
        return None


def intact_frames(
    container: InputContainer,
    stream: VideoStream,
    numbered: bool = False,
    wanted: Collection[int] | None = None,
    first: int = 0,
) -> Iterator[VideoFrame]:
    """Yields the undamaged frames from the container's position on in display order; `pts` tells them apart.

    `numbered` puts the packets' places in the file, from `first`, for the timestamps, where those are missing or not
    unique. Frames that are not `wanted` (by pts) and that no other frame needs may be left out.
    """
    intact = Intact()
    waiting: set[int | None] = set()
    lost: set[int | None] = set()
    broken = False
    for number, packet in enumerate(chain(packets(container, stream), [None]), first):
        held: list[VideoFrame] = []
        if packet is not None:
            if not intact(packet):
                continue
            if intact.resumes:
                held = _begin_again(stream)
            packet.pts = number if numbered else packet.pts
            waiting.add(packet.pts)
            broken = broken and not packet.is_keyframe
            if broken:
                lost.add(packet.pts)
            if wanted is not None and stream.codec_context.codec.canonical_name in CAN_SKIP:
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        released = decode_packet(stream, packet)
        if released is None:
            broken = True
            lost |= waiting
        for frame in chain(held, released or ()):
            waiting.discard(frame.pts)
            if frame.is_corrupt:
                broken = True
                lost |= waiting
            elif frame.pts not in lost:
                yield frame


def _begin_again(stream: VideoStream) -> list[VideoFrame]:
    """Makes the decoder forget what came before, as after a seek; returns the frames that it still held."""
    held = decode_packet(stream, None) or []
    stream.codec_context.flush_buffers()
    return held
