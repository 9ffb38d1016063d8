"""A driving video's sound, fitted to the video that is made of it: exactly as long, on the same clock.

It is always AAC at 48 kHz in stereo, whatever it was before. Time 0 is the video's first frame; what is missing or
damaged becomes silence, so the sound never drifts.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from posegen.common.files import written_whole
from posegen.video.container import open_video
from posegen.video.encode import CONTAINER

RATE = 48000  # samples/s
GAP = RATE // 20  # samples; smaller gaps are rounding of timestamps
BLOCK = RATE  # samples of silence written at once
BITS = 128_000  # bits/s


def extract_sound(video: Path, seconds: float, target: Path) -> bool:
    """Writes the first `seconds` of a video's sound as AAC in MP4; False if it has none that can be decoded."""
    with open_video(str(video)) as (container, pictures):
        # A phone's spatial sound, of a codec that is not known here, may lie beside the plain one.
        known = [stream for stream in container.streams.audio if stream.codec_context is not None]
        if not known:
            return False
        start = float((pictures.start_time or 0) * (pictures.time_base or 0))
        _write(_whole(_samples(container, known[0], start), round(seconds * RATE)), target)
    return True


def _samples(
    container: InputContainer, stream: AudioStream, start: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Decoded sound as (first sample's place, (2, n) float32 -1..1); places count from `start` seconds."""
    kind, resampler = None, None
    for frame in _frames(container, stream):
        if resampler is None or kind != (frame.format.name, frame.layout.name, frame.sample_rate):
            kind = frame.format.name, frame.layout.name, frame.sample_rate
            resampler = AudioResampler(format="fltp", layout="stereo", rate=RATE)
        place = None if frame.time is None else round((frame.time - start) * RATE)
        for part in resampler.resample(frame):
            yield (-1 if place is None else place), part.to_ndarray()


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[av.AudioFrame]:
    """What can be decoded, up to where the file is damaged; a damaged packet alone is passed over."""
    with suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue  # silence, by the next one's time
            yield from frames


def _whole(parts: Iterable[tuple[int, np.ndarray]], count: int) -> Iterator[np.ndarray]:
    """Blocks (2, n) that are `count` samples in all, each part at its place."""
    written = 0
    for place, part in parts:
        if place > written + GAP:
            yield from _silence(min(place, count) - written)
            written = min(place, count)
        part = part[:, max(0, written - place) if place < written - GAP else 0 :][:, : count - written]
        if part.shape[1]:
            yield part
            written += part.shape[1]
        if written == count:
            return
    yield from _silence(count - written)


def _silence(count: int) -> Iterator[np.ndarray]:
    for start in range(0, count, BLOCK):
        yield np.zeros((2, min(BLOCK, count - start)), np.float32)


def _write(blocks: Iterable[np.ndarray], target: Path) -> None:
    with av.open(str(target), "w", format="mp4", options=CONTAINER) as container:
        stream = container.add_stream("aac", rate=RATE, layout="stereo")
        stream.bit_rate = BITS
        written = 0
        for block in blocks:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "fltp", "stereo")
            frame.sample_rate, frame.pts = RATE, written
            written += block.shape[1]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def add_sound(video: Path, source: Path, seconds: float) -> bool:
    """Gives a silent video the first `seconds` of another's sound; False, and no change, if that has none."""
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.mp4"
        if not extract_sound(source, seconds, sound):
            return False
        with written_whole(video) as part:
            join(video, sound, part)
    return True


def join(video: Path, sound: Path | None, target: Path) -> None:
    """Writes the very packets of a video and of its sound into one MP4 that can be played from its first bytes on."""
    sources = [av.open(str(path)) for path in (video, sound) if path is not None]
    try:
        with av.open(str(target), "w", format="mp4", options=CONTAINER) as container:
            outputs = [container.add_stream_from_template(source.streams[0]) for source in sources]
            packets = [_numbered(number, source) for number, source in enumerate(sources)]
            for _, number, packet in heapq.merge(*packets, key=lambda item: item[:2]):
                packet.stream = outputs[number]
                container.mux(packet)
    finally:
        for source in sources:
            source.close()


def _numbered(number: int, source: InputContainer) -> Iterator[tuple[Fraction, int, Packet]]:
    for packet in source.demux(source.streams[0]):
        if packet.dts is not None:  # the last one is empty
            yield packet.dts * packet.time_base, number, packet
