"""What is in a video file and when each frame is shown.

Frames are listed from the packets, with no more than the first picture decoded, wherever each packet says
when its frame is shown. Where it does not (timestamps missing or doubled, AVI with reordered frames,
or astray, interlaced streams with a packet a field), the file is decoded once and its order is the decoder's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from posegen.common.profiling import timed
from posegen.video.clock import MOST_ASTRAY, Clock, far, missing_before, repaired_clock, usual_step
from posegen.video.container import Intact, VideoError, decode_packet, intact_frames, open_video, packets
from posegen.video.encryption import is_encrypted, is_scrambled
from posegen.video.hdr import TRANSFERS
from posegen.video.info import Break, VideoInfo
from posegen.video.shapes import Shapes, Size

BY_BYTE = ("mpegts", "mpeg")  # containers that can be entered anywhere
FALLBACK_RATE = 25  # frames/s, where neither timestamps nor the header say anything
PROGRESSIVE = (0, 1)  # AVFieldOrder: unknown, progressive
LONGEST_LAST_S = 60.0  # a last frame that states a longer stay is not believed
DAMAGED, EMPTY, RESTARTED = "pictures are damaged", "no pictures are there", "the clock starts again"


class _Shown(NamedTuple):
    """The packet of a shown frame: its number and byte in the file, its timestamp and duration in the stream's unit."""

    number: int
    byte: int | None
    pts: int | None
    duration: int
    is_key: bool
    size: Size | None  # of its picture; None for that of the first frame


def probe(path: str | Path) -> VideoInfo:
    """Lists the frames of a local video file.

    Frames that were lost with a part of the file are not listed, and a break says so. Other damaged pictures are,
    unless the file had to be decoded anyway; `read_frames` raises when it comes to one, and `without_damage` drops
    them. Raises `VideoError`, one sentence, where there is nothing to read.
    """
    path = str(path)
    with timed("decode"), open_video(path) as (container, stream):
        listed, first, lost = _list_packets(path, container, stream)
        unit = stream.time_base or Fraction(1)
        rate = stream.guessed_rate or stream.average_rate or FALLBACK_RATE
        numbered = None in (pts := {packet.pts for packet in listed}) or len(pts) < len(listed)
        by_stamp = {(p.number if numbered or p.pts is None else p.pts): p for p in listed}
        if numbered or first.pts not in by_stamp or not _packets_tell(container, stream, listed, unit):
            stamps = [stamp for stamp in _decoded_stamps(path, stream.index, numbered) if stamp in by_stamp]
            if stream.codec_context.field_order in PROGRESSIVE:  # else one frame of two packets is none lost
                lost += [by_stamp[stamp] for stamp in by_stamp.keys() - set(stamps)]
        else:
            stamps = sorted(by_stamp)
            stamps = stamps[stamps.index(first.pts) :]
        shown = [by_stamp[stamp] for stamp in stamps]
        clock = repaired_clock([packet.pts for packet in shown], unit, float(1 / rate))
        broadcast = container.format.name in BY_BYTE
        if broadcast and (unsure := _built_on_missing(shown, clock.times, lost)):
            lost += [shown[place] for place in unsure]
            shown = [packet for place, packet in enumerate(shown) if place not in unsure]
            stamps = [stamp for place, stamp in enumerate(stamps) if place not in unsure]
            clock = repaired_clock([packet.pts for packet in shown], unit, float(1 / rate))
        entered = numbered and broadcast
        keys = [i for i, p in enumerate(shown) if i == 0 or _can_start(p, numbered, entered)]
        duration = _duration(clock.times, shown[-1].duration * float(unit), float(1 / rate))
        sizes = [packet.size or (first.width, first.height) for packet in shown]
        stored = _longest(sizes, np.diff(clock.times, append=duration))
        rotation, mirrored = _orientation(first)
        width, height = _displayed_size(stored, stream.sample_aspect_ratio or Fraction(1), rotation)
        return VideoInfo(
            path=path,
            width=width,
            height=height,
            frame_times=clock.times,
            duration=duration,
            rotation=rotation,
            mirrored=mirrored,
            codec=stream.codec_context.codec.canonical_name,
            stamps=np.array(stamps, np.int64),
            numbered=numbered,
            key_frames=np.array(keys),
            stored=stored,
            stream=stream.index,
            hdr=TRANSFERS.get(first.color_trc),
            key_bytes=np.array([shown[i].byte or 0 for i in keys]) if entered else None,
            breaks=_breaks(clock, sizes, [p.number for p in shown], [p.number for p in lost], broadcast),
        )


def _built_on_missing(shown: list[_Shown], times: np.ndarray, lost: list[_Shown]) -> set[int]:
    """The places of frames after a missing one and before the next key frame, which decoders fill in without a word.

    Pictures of a broadcast are missing without a trace where it was copied, or where as many packets were lost as the
    counter counts to. For what is known to be `lost`, all that is built upon it is among it already.
    """
    known = np.sort([packet.pts for packet in lost if packet.pts is not None])
    unsure: set[int] = set()
    for place in missing_before(times).tolist():
        before, after = np.searchsorted(known, [shown[place - 1].pts or 0, shown[place].pts or 0])
        if before < after:
            continue
        while place < len(shown) and not shown[place].is_key:
            unsure.add(place)
            place += 1
    return unsure


def _can_start(packet: _Shown, numbered: bool, entered: bool) -> bool:
    """Whether decoding can start at this packet: a key frame that can be sought by its time, or by its byte."""
    return packet.is_key and (not numbered or (entered and packet.byte is not None))


def without_damage(info: VideoInfo) -> VideoInfo:
    """The same video without the frames that cannot be decoded, each run of which becomes a break.

    Decodes the whole file. Times stay as they were. Raises `VideoError` where no frame is left.
    """
    with timed("decode"), open_video(info.path, index=info.stream) as (container, stream):
        decoded = {frame.pts for frame in intact_frames(container, stream, info.numbered)}
    intact = np.array([stamp in decoded for stamp in info.stamps.tolist()])
    if not intact.any():
        raise _no_frame(info.path)
    keys = intact[info.key_frames]
    keys[0] = True  # decoding starts there, whether or not this frame itself is intact
    place = np.cumsum(intact) - intact  # how many of those that are left come before each frame
    breaks = {int(np.append(place, intact.sum())[found.frame]): found.why for found in info.breaks}
    breaks |= dict.fromkeys(place[~intact].tolist(), DAMAGED)
    breaks.pop(0, None)
    return replace(
        info,
        frame_times=info.frame_times[intact],
        duration=float(info.frame_ends[intact][-1]),
        stamps=info.stamps[intact],
        key_frames=place[info.key_frames[keys]],
        key_bytes=None if info.key_bytes is None else info.key_bytes[keys],
        breaks=tuple(Break(frame, breaks[frame]) for frame in sorted(breaks)),
    )


def _no_frame(path: str) -> VideoError:
    if is_scrambled(path):
        return _encrypted(path)
    return VideoError(f"{path}: not one frame decodes, the file is damaged; copy or export it again.")


def _encrypted(path: str) -> VideoError:
    return VideoError(
        f"{path}: its pictures are encrypted (copy protection); give a copy without encryption."
    )


def _list_packets(
    path: str, container: InputContainer, stream: VideoStream
) -> tuple[list[_Shown], VideoFrame, list[_Shown]]:
    """Walks through the file; returns the packets of shown frames in its order, the first frame, and lost packets."""
    listed, first, lost = [], None, []
    intact, size_at = Intact(), Shapes(stream)
    for number, packet in enumerate(packets(container, stream)):
        if is_encrypted(packet):
            raise _encrypted(path)
        found = intact(packet)
        size = size_at(packet) if found else None
        place = _Shown(number, packet.pos, packet.pts, packet.duration or 0, packet.is_keyframe, size)
        if not found:
            lost.append(place)
            continue
        if first is None:
            first = next(iter(decode_packet(stream, packet) or ()), None)
        if not packet.is_discard and not _is_hidden(packet, stream):
            listed.append(place)
    if first is None:
        first = next(iter(decode_packet(stream, None) or ()), None)
    if first is None or not listed:
        raise _no_frame(path)
    alone = _left_over(listed, lost)
    return [packet for packet in listed if packet.number not in alone], first, lost


def _left_over(listed: list[_Shown], lost: list[_Shown]) -> set[int]:
    """The numbers of listed packets that came before a lost one and are shown after it, alone between lost ones."""
    shown = {packet.number: packet.pts for packet in listed}
    return {
        number
        for packet in lost
        if packet.pts is not None
        for number in range(packet.number - MOST_ASTRAY, packet.number)
        if (pts := shown.get(number)) is not None and pts > packet.pts
    }


def _is_hidden(packet: Packet, stream: VideoStream) -> bool:
    """VP8 stores frames that are only referred to as packets of their own (RFC 6386, 9.1: show_frame)."""
    return stream.codec_context.codec.canonical_name == "vp8" and not memoryview(packet)[0] & 0x10


def _packets_tell(
    container: InputContainer, stream: VideoStream, listed: list[_Shown], unit: Fraction
) -> bool:
    """True where packets and shown frames are one to one and the packets' timestamps are those of display."""
    if container.format.name == "avi" and stream.codec_context.reorder_depth > 0:
        return False  # it stores the order of decoding only
    if container.format.name in ("mpegts", "mpeg") and stream.codec_context.field_order not in PROGRESSIVE:
        return False
    return _in_order(np.array([packet.pts for packet in listed]) * float(unit))


def _in_order(times: np.ndarray) -> bool:
    """Whether times (N,) of packets in the file's order, in seconds, may be those of display.

    Codecs put a frame a few places before or after where it is shown. One further away has a stray timestamp, as may
    the last few after a gap.
    """
    order = np.argsort(times, kind="stable")
    if np.abs(order - np.arange(len(times))).max() > MOST_ASTRAY:
        return False
    steps = np.diff(times[order])
    return len(steps) == 0 or bool(steps[-MOST_ASTRAY:].max() <= far(float(np.median(steps))))


def _decoded_stamps(path: str, index: int, numbered: bool) -> list[int]:
    """Decodes the whole file; returns the stamps of the intact frames in display order."""
    with open_video(path, index=index) as (container, stream):
        stamps = [f.pts for f in intact_frames(container, stream, numbered) if f.pts is not None]
    if not stamps:
        raise VideoError(f"{path}: no frame decodes without damage; copy or export it again.")
    return stamps


def _duration(times: np.ndarray, stated: float, period: float) -> float:
    """The end of the last frame: it stays as long as its packet has `stated` (0: not at all), else the usual step."""
    return float(times[-1]) + (stated if 0 < stated <= LONGEST_LAST_S else usual_step(times, period))


def _longest(sizes: list[Size], seconds: np.ndarray) -> Size:
    """The size of most seconds (N,)."""
    held: Counter[Size] = Counter()
    for size, time in zip(sizes, seconds.tolist(), strict=True):
        held[size] += time
    return held.most_common(1)[0][0]


def _breaks(
    clock: Clock, sizes: list[Size], numbers: list[int], lost: list[int], broadcast: bool
) -> tuple[Break, ...]:
    """The breaks among frames with this clock, these sizes and packets of these numbers, while others are `lost`.

    broadcast: whether each picture that is missing is a break.
    """
    times = clock.times
    gaps = np.flatnonzero(np.diff(times) > far(usual_step(times, 0.0))) + 1
    missing = missing_before(times).tolist() if broadcast else []
    breaks = dict.fromkeys(missing, EMPTY)
    breaks |= {
        frame: f"pictures become {after[0]}x{after[1]}"
        for frame, (before, after) in enumerate(pairwise(sizes), 1)
        if before != after
    }
    breaks |= dict.fromkeys(gaps.tolist(), EMPTY)
    breaks |= dict.fromkeys(clock.restarts, RESTARTED)
    for frame in np.unique(np.searchsorted(np.sort(numbers), lost)).tolist():
        breaks[frame] = f"{RESTARTED} and {DAMAGED}" if frame in clock.restarts else DAMAGED
    breaks.pop(0, None)
    return tuple(Break(frame, breaks[frame]) for frame in sorted(breaks))


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


def _displayed_size(stored: Size, aspect: Fraction, rotation: int) -> Size:
    width, height = stored
    if aspect > 1:
        height = max(1, round(height / aspect))
    elif aspect > 0:
        width = max(1, round(width * aspect))
    return (height, width) if rotation in (90, 270) else (width, height)
