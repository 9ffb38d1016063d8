"""The size of the pictures all along a stream, without decoding it: calls, screen recordings and broadcasts change it.

But for VP9, only a key frame can bring a new size. Its header is compared with those that were seen before, and the
picture is decoded only where it is another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import av
from av.codec import CodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from posegen.video.vp9 import Size, Vp9Sizes

HEADERS = 4096  # bytes at the start of a packet that are searched for a header
LENGTH_PREFIXED = (
    1  # first byte of the extradata (avcC, hvcC) where units begin with their length, not a start code
)
SEQUENCE = {
    "h264": (0x1F, 0, 7),
    "hevc": (0x7E, 1, 33),
}  # mask and shift of a unit's type, type of its sequence header
AV1_SEQUENCE = 1  # OBU type


class Shapes:
    """The stored (width, height) of the pictures, given all packets in the order of the file."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._sizes: dict[bytes, Size | None] = {}
        self._size: Size | None = None
        self._vp9 = Vp9Sizes() if stream.codec_context.codec.canonical_name == "vp9" else None

    def __call__(self, packet: Packet) -> Size | None:
        """The size from this packet on; None where it is that of the first pictures."""
        if self._vp9:
            return self._vp9(bytes(memoryview(packet)))
        header = _header(packet, self._stream) if packet.is_keyframe else b""
        if header and header not in self._sizes:
            self._sizes[header] = _decoded_size(packet, self._stream) if self._sizes else None
        self._size = self._sizes.get(header, self._size)
        return self._size


def _decoded_size(packet: Packet, stream: VideoStream) -> Size | None:
    decoder = CodecContext.create(stream.codec_context.codec.name, "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.extradata = stream.codec_context.extradata
    decoder.options = stream.codec_context.options
    try:
        frames = [*decoder.decode(packet), *decoder.decode(None)]
    except av.error.FFmpegError:
        return None
    return next(((frame.width, frame.height) for frame in frames), None)


def _header(packet: Packet, stream: VideoStream) -> bytes:
    """The part of a key frame that says its size, or more than that; empty where it says none."""
    if packet.has_sidedata("new_extradata"):
        return bytes(packet.get_sidedata("new_extradata"))
    codec, data = stream.codec_context.codec.canonical_name, bytes(memoryview(packet)[:HEADERS])
    if codec == "vp8":
        return data[6:10]  # RFC 6386, 9.1
    if codec == "av1":
        return _av1_sequence(data)
    if codec in ("mpeg1video", "mpeg2video"):
        found = re.search(rb"\0\0\x01\xb3(...)", data, re.DOTALL)
        return found[1] if found else b""
    if codec in SEQUENCE:
        mask, shift, wanted = SEQUENCE[codec]
        prefixed = (stream.codec_context.extradata or b"")[:1] == bytes([LENGTH_PREFIXED])
        return b"".join(u for u in _units(data, prefixed) if u and (u[0] & mask) >> shift == wanted)
    return b""


def _units(data: bytes, prefixed: bool) -> Iterator[bytes]:
    """The NAL units of H.264 or H.265 data."""
    if not prefixed:
        yield from re.split(rb"\0\0+\x01", data)
        return
    at = 0
    while at + 4 < len(data):
        size = int.from_bytes(data[at : at + 4])
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def _av1_sequence(data: bytes) -> bytes:
    """The sequence header among the first OBUs (AV1 specification, 5.3); a size of over 127 bytes is none of one."""
    at = 0
    while at + 2 < len(data):
        extended, sized, kind = data[at] >> 2 & 1, data[at] >> 1 & 1, data[at] >> 3 & 15
        begin = at + 1 + extended
        size = data[begin] if sized else len(data) - begin
        if kind == AV1_SEQUENCE:
            return data[begin : begin + sized + size]
        if size > 127:
            break
        at = begin + sized + size
    return b""
