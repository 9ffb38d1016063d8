"""Makes the video files that tests read: every frame carries its number, so what was decoded can be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.packet import Packet

WIDTH, HEIGHT, BITS = 160, 96, 10
TS_PACKET = 188  # bytes
CORNER = (220, 40, 40)  # top left, so that turned and flipped pictures are told apart


def numbered_picture(number: int) -> np.ndarray:
    """Returns (96, 160, 3) uint8: the number as white bits on black below, a red corner top left."""
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    picture[HEIGHT // 2 :] = np.repeat(np.array(bits, np.uint8), WIDTH // BITS)[:, None]
    picture[: HEIGHT // 4, : WIDTH // 4] = CORNER
    return picture


def number_of(frame: np.ndarray) -> int:
    """Reads the number off an upright frame of any size; fails where the red corner is not top left."""
    height, width = frame.shape[:2]
    corner = frame[height // 8, width // 8].astype(int)
    assert corner[0] - corner[1] > 100, f"no red corner top left but {corner}"
    columns = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    bits = frame[height * 3 // 4, columns].mean(axis=1) > 128
    return int(np.sum(bits << np.arange(BITS)))


def write_video(
    path: Path,
    ticks: Sequence[int] = range(30),
    unit: Fraction = Fraction(1, 30),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    prepare: Callable[[av.VideoStream], object] = lambda stream: None,
    picture: Callable[[int], np.ndarray] = numbered_picture,
) -> Path:
    """Writes one picture for each of `ticks` (times in `unit` seconds); `prepare` may change the stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1 / unit, options=options or {})
        assert isinstance(stream, av.VideoStream)
        height, width = picture(0).shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.time_base = unit
        prepare(stream)
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(picture(number), "rgb24")
            frame.pts, frame.time_base = tick, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """Writes a tenth of a second of silence and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copy_packets(source: Path, target: Path, change: Callable[[int, Packet], bool] | None = None) -> Path:
    """Copies the video packets into another container; `change` may alter each and says if it is kept."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for number, packet in enumerate(p for p in reader.demux(video=0) if p.size):
            if change is None or change(number, packet):
                packet.stream = stream
                writer.mux(packet)
    return target


def cut_short(source: Path, target: Path, share: float) -> Path:
    """Copies the first `share` of the bytes."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def damage(source: Path, target: Path, number: int) -> Path:
    """Copies the file with the second half of packet `number` overwritten."""
    with av.open(str(source)) as reader:
        packet = [p for p in reader.demux(video=0) if p.size][number]
    assert packet.pos is not None
    data = bytearray(source.read_bytes())
    start, stop = packet.pos + packet.size // 4, packet.pos + packet.size
    data[start:stop] = b"\xff" * (stop - start)
    target.write_bytes(data)
    return target


def without_ts_packet(source: Path, target: Path, number: int, place: int) -> Path:
    """Copies a transport stream without packet `place` (from 0) of those that hold its video packet `number`."""
    with av.open(str(source)) as reader:
        begin = [p for p in reader.demux(video=0) if p.size][number].pos
    assert begin is not None
    data = source.read_bytes()
    lost = [
        at
        for at in range(begin, len(data), TS_PACKET)
        if data[at + 1 : at + 3] == data[begin + 1 : begin + 3]
    ]
    if place:  # those that follow carry on the same picture: the unit's start is marked by 0x40
        pid = bytes([data[begin + 1] & 0x1F, data[begin + 2]])
        lost = [at for at in range(begin, len(data), TS_PACKET) if data[at + 1 : at + 3] == pid]
        place -= 1
    target.write_bytes(data[: lost[place]] + data[lost[place] + TS_PACKET :])
    return target


def without_ts_pictures(source: Path, target: Path, numbers: range, counted_anew: bool = True) -> Path:
    """Copies a transport stream without these video packets; the others' counters tell of it unless `counted_anew`."""
    with av.open(str(source)) as reader:
        places = [p.pos for p in reader.demux(video=0) if p.size]
    begin, end, data = places[numbers.start], places[numbers.stop], source.read_bytes()
    assert begin is not None and end is not None
    pid, kept, counter = _ts_pid(data, begin), bytearray(), 0
    for at in range(0, len(data), TS_PACKET):
        packet = bytearray(data[at : at + TS_PACKET])
        if _ts_pid(data, at) == pid:
            if begin <= at < end:
                continue
            if counted_anew:
                packet[3] = packet[3] & 0xF0 | counter & 0x0F
            counter += 1
        kept += packet
    target.write_bytes(kept)
    return target


def _ts_pid(data: bytes, at: int) -> tuple[int, int]:
    """Which stream a packet of a transport stream is of."""
    return data[at + 1] & 0x1F, data[at + 2]


def concatenated(sources: Sequence[Path], target: Path, torn: int = 0) -> Path:
    """One file after the other, all but the last without their last `torn` bytes."""
    *first, last = [source.read_bytes() for source in sources]
    target.write_bytes(b"".join([*(data[: len(data) - torn] for data in first), last]))
    return target


def joined(sources: Sequence[Path], target: Path) -> Path:
    """The video packets of all files as one stream, a second file's times after the first's."""
    shift = 0
    with av.open(str(target), "w") as writer:
        stream: av.VideoStream | None = None
        for source in sources:
            with av.open(str(source)) as reader:
                stream = stream or writer.add_stream_from_template(reader.streams.video[0])
                end = shift
                for packet in (p for p in reader.demux(video=0) if p.size):
                    assert packet.pts is not None and packet.dts is not None
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    end = max(end, packet.pts + (packet.duration or 0))
                    packet.stream = stream
                    writer.mux(packet)
                shift = end
    return target
