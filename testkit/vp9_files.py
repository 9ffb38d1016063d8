"""Makes VP9 files in which the pictures change their size without a key frame, as in calls."""

from __future__ import annotations

from pathlib import Path

import av

RESILIENT = {"error-resilient": "default", "auto-alt-ref": "0", "lag-in-frames": "0", "deadline": "realtime"}
"""Options of libvpx-vp9 for streams whose key frame can be made another frame's: no hidden pictures, no state kept."""
KEY_PREFIX = 8 + 24 + 4
"""Bits of a key frame's header before its size: flags, sync code, colours."""
INTRA_ONLY = "100001011" + f"{0x498342:024b}" + "11111111"
"""Those of a hidden intra-only frame that fills all slots: marker, profile, no existing frame, no key frame, not shown,
error resilient, intra only, sync code, slots."""


def without_second_key_frame(first: Path, second: Path, target: Path) -> Path:
    """Both files' pictures as one stream, the second's key frame hidden, so its first picture is lost."""
    with av.open(str(target), "w") as writer:
        with av.open(str(first)) as reader:
            stream = writer.add_stream_from_template(reader.streams.video[0])
            end = 0
            for packet in (p for p in reader.demux(video=0) if p.size):
                assert packet.pts is not None
                end = packet.pts + (packet.duration or 0)
                packet.stream = stream
                writer.mux(packet)
        with av.open(str(second)) as reader:
            key, *others = (p for p in reader.demux(video=0) if p.size)
            for number, packet in enumerate(others):
                assert packet.pts is not None and others[0].pts is not None
                data = bytes(packet) if number else _superframe([_hidden(bytes(key)), bytes(packet)])
                copy = av.Packet(data)
                copy.pts = copy.dts = end + packet.pts - others[0].pts
                copy.duration, copy.time_base, copy.stream = packet.duration, packet.time_base, stream
                writer.mux(copy)
    return target


def _hidden(key: bytes) -> bytes:
    """A key frame as a hidden intra-only frame of the same picture."""
    bits = "".join(f"{byte:08b}" for byte in key)
    end = _header_end(bits)
    header = INTRA_ONLY + bits[KEY_PREFIX:end]
    header += "0" * (-len(header) % 8)
    begin = (end + 7) // 8
    return int(header, 2).to_bytes(len(header) // 8) + key[begin:]


def _header_end(bits: str) -> int:
    """Where the uncompressed header of a key frame of profile 0, less than 256 pixels wide, ends."""
    at = KEY_PREFIX + 32

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    if take(1):  # render_and_frame_size_different
        take(32)
    take(2 + 6 + 3)  # frame_context_idx, loop_filter_level, loop_filter_sharpness
    if take(1) and take(1):  # loop_filter_delta_enabled, loop_filter_delta_update
        for _ in range(6):
            if take(1):
                take(7)
    take(8)  # base_q_idx
    for _ in range(3):
        if take(1):
            take(5)
    assert not take(1), "segmentation is not parsed"
    if take(1):  # tile_rows_log2
        take(1)
    take(16)  # header_size_in_bytes
    return at


def _superframe(frames: list[bytes]) -> bytes:
    """Several frames as one packet (VP9 specification, annex B)."""
    marker = bytes([0b110 << 5 | 3 << 3 | len(frames) - 1])
    sizes = b"".join(len(frame).to_bytes(4, "little") for frame in frames)
    return b"".join(frames) + marker + sizes + marker
