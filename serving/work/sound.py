"""A driving video's sound, to go with the video that is made of it: exactly as long, on the same clock.

Choices made: always AAC at 48 kHz in stereo, whatever it was. Time 0 is the video's first frame; what is missing or
damaged is silence, so the sound never drifts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.container import InputContainer

from posegen.video.container import open_video
from posegen.video.encode import CONTAINER

RATE = 48000  # samples/s
GAP = RATE // 20  # samples; smaller gaps are rounding of timestamps
BLOCK = RATE  # samples of silence written at once
BITS = 128_000  # bits/s


def sound_artifact(job_id: str) -> str:
    """The name of the sound that goes with a job's video, if there is any."""
    return f"{job_id}/sound.mp4"


def extract_sound(video: Path, seconds: float, target: Path) -> bool:
    """Writes the first `seconds` of a video's sound as AAC in MP4; False if it has none."""
    with open_video(str(video)) as (container, pictures):
        if not container.streams.audio:
            return False
        start = float((pictures.start_time or 0) * (pictures.time_base or 0))
        _write(_whole(_samples(container, start), round(seconds * RATE)), target)
    return True


def _samples(container: InputContainer, start: float) -> Iterator[tuple[int, np.ndarray]]:
    """Decoded sound as (first sample's place, (2, n) float32 -1..1); places count from `start` seconds."""
    resampler = AudioResampler(format="fltp", layout="stereo", rate=RATE)
    for packet in container.demux(container.streams.audio[0]):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue  # damaged: silence, by the next one's time
        for frame in frames:
            place = None if frame.time is None else round((frame.time - start) * RATE)
            for part in resampler.resample(frame):
                yield (-1 if place is None else place), part.to_ndarray()


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
