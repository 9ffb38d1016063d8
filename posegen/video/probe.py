"""What is in a video file and when each frame is shown.

Frames are listed from the packets, without decoding more than the first picture, wherever each packet says when its
frame is shown. Where it does not (timestamps missing or doubled, AVI with reordered frames, fields as packets), the
whole file is decoded once and the frames are taken in the order in which the decoder releases them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from posegen.video.container import VideoError, decode_packet, intact_frames, open_video, packets

TOLERANCE = 0.001  # seconds; Matroska and FLV round timestamps to it
FALLBACK_RATE = 25.0  # frames/s, where neither timestamps nor the header say anything
PROGRESSIVE = (0, 1)  # AVFieldOrder: unknown, progressive


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """What `probe` finds out about one file; picklable, so that it can travel to where the frames are read.

    width, height: displayed size in pixels, upright and with square pixels. Pixels that are not square are made so
        by shrinking the longer side, never by enlarging the other one.
    frame_times: (N,) float64, seconds from the first frame; strictly increasing.
    duration: end of the last frame, seconds.
    rotation: degrees clockwise by which stored pictures are turned; mirrored: they are flipped left to right after.
    stamps: (N,) int64, the timestamp (or, if `numbered`, the packet's place in the file) that tells frames apart.
    key_frames: (K,) int64, indices of frames that decoding can start at; the first is 0.
    """

    path: str
    width: int
    height: int
    frame_times: np.ndarray
    duration: float
    rotation: int
    codec: str
    mirrored: bool
    stamps: np.ndarray
    numbered: bool
    key_frames: np.ndarray

    @property
    def rate(self) -> float:
        """Mean frames per second."""
        return len(self.frame_times) / self.duration


@dataclass
class _Listing:
    """Every shown packet in file order, and the first picture."""

    pts: list[int | None]
    durations: list[int]
    keys: list[bool]
    first: VideoFrame


def probe(path: str) -> VideoInfo:
    """Lists the frames of a local video file; frames before the first decodable one or after damage are left out.

    Frames that turn out to be damaged are listed all the same where only packets were looked at: `read_frames` says
    so when it comes to them. Raises `VideoError` where there is nothing to read.
    """
    path = str(path)
    with open_video(path) as (container, stream):
        listing = _list_packets(path, container, stream)
        codec, unit = stream.codec_context.codec.canonical_name, stream.time_base
        guessed = stream.guessed_rate or stream.average_rate
        aspect = stream.sample_aspect_ratio or Fraction(1)
        by_packets = _packets_tell(container, stream, listing)
    if by_packets:
        stamps = np.sort(np.array(listing.pts, np.int64))
        stamps = stamps[stamps >= listing.first.pts]
        shown, numbered = stamps.tolist(), False
    else:
        numbered = not _unique(listing.pts)
        stamps, shown = _list_by_decoding(path, numbered)
    period = float(1 / guessed) if guessed else 1 / FALLBACK_RATE
    times = _repaired_times(shown, unit, period)
    rotation, mirrored = _orientation(listing.first)
    width, height = _displayed_size(listing.first, aspect, rotation)
    return VideoInfo(
        path=path,
        width=width,
        height=height,
        frame_times=times,
        duration=float(times[-1]) + _last_duration(listing, times, unit, period),
        rotation=rotation,
        codec=codec,
        mirrored=mirrored,
        stamps=stamps,
        numbered=numbered,
        key_frames=_key_frames(listing, stamps, numbered),
    )


def _list_packets(path: str, container: InputContainer, stream: VideoStream) -> _Listing:
    pts, durations, keys, first = [], [], [], None
    for packet in packets(container, stream):
        if first is None:
            first = next(iter(decode_packet(stream, packet) or ()), None)
        if not packet.is_discard and not _is_hidden(packet, stream):
            pts.append(packet.pts)
            durations.append(packet.duration or 0)
            keys.append(packet.is_keyframe)
    if first is None:
        first = next(iter(decode_packet(stream, None) or ()), None)
    if first is None or not pts:
        raise VideoError(
            f"{path}: not one frame can be decoded; the file is damaged: copy or export it again."
        )
    return _Listing(pts, durations, keys, first)


def _is_hidden(packet: Packet, stream: VideoStream) -> bool:
    """VP8 stores frames that are only referred to as packets of their own (RFC 6386, 9.1: the show_frame bit)."""
    return stream.codec_context.codec.canonical_name == "vp8" and not memoryview(packet)[0] & 0x10


def _unique(pts: Sequence[int | None]) -> bool:
    return None not in pts and len(set(pts)) == len(pts)


def _packets_tell(container: InputContainer, stream: VideoStream, listing: _Listing) -> bool:
    """True where packets and shown frames are one to one and the packets' timestamps are those of display."""
    context, container_name = stream.codec_context, container.format.name
    if not _unique(listing.pts) or listing.first.pts not in listing.pts:
        return False
    if container_name == "avi":  # stores the order of decoding only
        return context.reorder_depth == 0
    return container_name not in ("mpegts", "mpeg") or context.field_order in PROGRESSIVE


def _list_by_decoding(path: str, numbered: bool) -> tuple[np.ndarray, list[int | None]]:
    """Decodes the file; returns the stamps of its frames in display order and their timestamps in any order."""
    with open_video(path) as (container, stream):
        original = [packet.pts for packet in packets(container, stream)] if numbered else []
    with open_video(path) as (container, stream):
        stamps = [frame.pts for frame in intact_frames(container, stream, numbered)]
    if not stamps:
        raise VideoError(f"{path}: no frame decodes without damage; copy or export it again.")
    return np.array(stamps, np.int64), [original[s] for s in stamps] if numbered else stamps


def _repaired_times(shown: Sequence[int | None], unit: Fraction, period: float) -> np.ndarray:
    """Turns the timestamps of N frames in display order into (N,) seconds from the first, strictly increasing.

    The known ones are put in ascending order; missing and doubled ones are spread evenly between their neighbours,
    and those before the first or after the last known one lie `period` seconds apart.
    """
    count = len(shown)
    ticks = np.array([np.nan if stamp is None else stamp for stamp in shown], np.float64)
    known = np.flatnonzero(~np.isnan(ticks))
    values = np.sort(ticks[known])
    distinct = np.diff(values, prepend=-np.inf) > 0
    known, values = known[distinct], values[distinct]
    if len(known) == 0:
        return np.arange(count) * period
    step = period / float(unit)
    known_and_ends = [-1, *known, count]
    values_and_ends = [values[0] - step * (known[0] + 1), *values, values[-1] + step * (count - known[-1])]
    ticks = np.interp(np.arange(count), known_and_ends, values_and_ends)
    return (ticks - ticks[0]) * unit.numerator / unit.denominator


def _last_duration(listing: _Listing, times: np.ndarray, unit: Fraction, period: float) -> float:
    """Seconds the last frame stays: as its packet says, else as the middle of all frames, else the nominal period."""
    if None not in listing.pts:
        stated = listing.durations[int(np.argmax(listing.pts))] * float(unit)
        if stated > 0:
            return stated
    return float(np.median(np.diff(times))) if len(times) > 1 else period


def _orientation(frame: VideoFrame) -> tuple[int, bool]:
    """Reads the display matrix: quarter turns clockwise in degrees, and whether a flip left to right follows.

    The matrix (ISO 14496-12, 8.2.2) maps the picture's x axis to (a, b) and its y axis to (c, d).
    """
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
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


def _key_frames(listing: _Listing, stamps: np.ndarray, numbered: bool) -> np.ndarray:
    if numbered:
        return np.zeros(1, np.int64)
    keys = [pts for pts, is_key in zip(listing.pts, listing.keys, strict=True) if is_key]
    return np.union1d([0], np.flatnonzero(np.isin(stamps, keys)))


def sample_indices(info: VideoInfo, start: float, stop: float, rate: float) -> np.ndarray:
    """Returns the (K,) int64 indices of the frames on screen at start + k / rate, for all k that lie before `stop`.

    `start` and `stop` in seconds, `rate` in frames/s. Moments closer than a millisecond count as one, since
    containers round to that: a 30 frames/s Matroska file sampled at 30 frames/s gives each frame once.
    Raises ValueError where 0 <= start < stop <= duration does not hold or the rate is not positive.
    """
    if not (0 <= start < stop <= info.duration + TOLERANCE and rate > 0):
        raise ValueError(
            f"{info.path}: cannot sample {start} to {stop} s at {rate} frames/s from {info.duration:.3f} s; "
            "give 0 <= start < stop <= duration and a positive rate."
        )
    count = max(1, int(np.ceil((stop - start - TOLERANCE) * rate)))
    moments = start + np.arange(count) / rate
    return np.maximum(np.searchsorted(info.frame_times, moments + TOLERANCE, side="right") - 1, 0)
