"""What is in a video file and when each frame is shown.

Frames are listed from the packets, with no more than the first picture decoded, wherever each packet says
when its frame is shown. Where it does not (timestamps missing or doubled, AVI with reordered frames,
interlaced streams with a packet a field), the file is decoded once and its order is the decoder's.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from posegen.common.profiling import timed
from posegen.video.container import VideoError, decode_packet, intact_frames, open_video, packets
from posegen.video.info import VideoInfo, repaired_times

FALLBACK_RATE = 25  # frames/s, where neither timestamps nor the header say anything
PROGRESSIVE = (0, 1)  # AVFieldOrder: unknown, progressive


class _Shown(NamedTuple):
    """The packet of a shown frame: its place in the file, its timestamp and duration in the stream's unit."""

    number: int
    pts: int | None
    duration: int
    is_key: bool


def probe(path: str | Path) -> VideoInfo:
    """Lists the frames of a local video file, up to where the container is cut off.

    Damaged pictures are listed unless the file had to be decoded anyway; `read_frames` raises when it comes
    to one. Raises `VideoError`, one sentence, where there is nothing to read.
    """
    path = str(path)
    with timed("decode"), open_video(path) as (container, stream):
        listed, first = _list_packets(path, container, stream)
        numbered = None in (pts := {packet.pts for packet in listed}) or len(pts) < len(listed)
        by_stamp = {(p.number if numbered or p.pts is None else p.pts): p for p in listed}
        if numbered or first.pts not in by_stamp or not _packets_tell(container, stream):
            stamps = [stamp for stamp in _decoded_stamps(path, numbered) if stamp in by_stamp]
        else:
            stamps = sorted(by_stamp)
            stamps = stamps[stamps.index(first.pts) :]
        shown = [by_stamp[stamp] for stamp in stamps]
        rate = stream.guessed_rate or stream.average_rate or FALLBACK_RATE
        times, duration = _times(shown, stream.time_base or Fraction(1), float(1 / rate))
        rotation, mirrored = _orientation(first)
        width, height = _displayed_size(first, stream.sample_aspect_ratio or Fraction(1), rotation)
        return VideoInfo(
            path=path,
            width=width,
            height=height,
            frame_times=times,
            duration=duration,
            rotation=rotation,
            mirrored=mirrored,
            codec=stream.codec_context.codec.canonical_name,
            stamps=np.array(stamps, np.int64),
            numbered=numbered,
            key_frames=np.array([i for i, p in enumerate(shown) if i == 0 or (p.is_key and not numbered)]),
        )


def _list_packets(
    path: str, container: InputContainer, stream: VideoStream
) -> tuple[list[_Shown], VideoFrame]:
    """Walks through the file; returns the packets of shown frames in its order, and the first frame."""
    listed, first = [], None
    for number, packet in enumerate(packets(container, stream)):
        if first is None:
            first = next(iter(decode_packet(stream, packet) or ()), None)
        if not packet.is_discard and not _is_hidden(packet, stream):
            listed.append(_Shown(number, packet.pts, packet.duration or 0, packet.is_keyframe))
    if first is None:
        first = next(iter(decode_packet(stream, None) or ()), None)
    if first is None or not listed:
        raise VideoError(f"{path}: not one frame decodes, the file is damaged; copy or export it again.")
    return listed, first


def _is_hidden(packet: Packet, stream: VideoStream) -> bool:
    """VP8 stores frames that are only referred to as packets of their own (RFC 6386, 9.1: show_frame)."""
    return stream.codec_context.codec.canonical_name == "vp8" and not memoryview(packet)[0] & 0x10


def _packets_tell(container: InputContainer, stream: VideoStream) -> bool:
    """True where packets and shown frames are one to one and the packets' timestamps are those of display."""
    if container.format.name == "avi":  # stores the order of decoding only
        return stream.codec_context.reorder_depth == 0
    return container.format.name not in ("mpegts", "mpeg") or stream.codec_context.field_order in PROGRESSIVE


def _decoded_stamps(path: str, numbered: bool) -> list[int]:
    """Decodes the whole file; returns the stamps of the intact frames in display order."""
    with open_video(path) as (container, stream):
        stamps = [f.pts for f in intact_frames(container, stream, numbered) if f.pts is not None]
    if not stamps:
        raise VideoError(f"{path}: no frame decodes without damage; copy or export it again.")
    return stamps


def _times(shown: list[_Shown], unit: Fraction, period: float) -> tuple[np.ndarray, float]:
    """Returns the frames' times and the end of the last one, in seconds.

    The last frame stays as long as its packet says, else as the middle one of all, else the nominal `period`.
    """
    times = repaired_times([packet.pts for packet in shown], unit, period)
    stated = shown[-1].duration * float(unit)
    usual = float(np.median(np.diff(times))) if len(times) > 1 else period
    return times, float(times[-1]) + (stated or usual)


def _orientation(frame: VideoFrame) -> tuple[int, bool]:
    """Reads the display matrix: quarter turns clockwise in degrees, and whether a flip left to right follows.

    The matrix (ISO 14496-12, 8.2.2) maps the picture's x axis to (a, b) and its y axis to (c, d).
    """
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if matrix is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(np.float64)
    mirrored = a * d - b * c < 0
    angle = np.degrees(np.arctan2(b, -a if mirrored else a))
    return int(np.round(angle / 90)) % 4 * 90, bool(mirrored)


def _displayed_size(frame: VideoFrame, aspect: Fraction, rotation: int) -> tuple[int, int]:
    width, height = frame.width, frame.height
    if aspect > 1:
        height = max(1, round(height / aspect))
    elif aspect > 0:
        width = max(1, round(width * aspect))
    return (height, width) if rotation in (90, 270) else (width, height)
