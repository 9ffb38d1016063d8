"""A video written while it grows: every prefix plays, the final file has every frame on time and sound as long."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from posegen.video import probe, read_frames, save_video
from serving.work.fragments import FragmentWriter, finish
from serving.work.sound import RATE as SAMPLES
from serving.work.sound import extract_sound

RATE = 12
FRAMES = 50
SIZE = (32, 48)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """A moving square (FRAMES, 48, 32, 3)."""
    video = np.full((FRAMES, SIZE[1], SIZE[0], 3), 60, np.uint8)
    for index, frame in enumerate(video):
        frame[10:30, index % 20 : index % 20 + 10] = 200
    return video


def write(path: Path, chunks: Iterator[np.ndarray]) -> list[bytes]:
    writer = FragmentWriter(path, RATE)
    parts = [writer.add(chunk) for chunk in chunks]
    return [part for part in [*parts, writer.finish()] if part]


def count(content: bytes) -> int:
    with av.open(io.BytesIO(content), "r") as container:
        return len(list(container.decode(video=0)))


def test_every_prefix_of_fragments_plays(frames: np.ndarray, tmp_path: Path) -> None:
    parts = write(tmp_path / "growing.mp4", iter(np.split(frames, 10)))
    counts = [count(b"".join(parts[: number + 1])) for number in range(len(parts))]
    assert len(parts) > 2 and counts == sorted(set(counts)) and counts[-1] == FRAMES
    assert b"".join(parts) == (tmp_path / "growing.mp4").read_bytes()


def test_the_chunks_in_which_frames_come_change_nothing(frames: np.ndarray, tmp_path: Path) -> None:
    once = write(tmp_path / "once.mp4", iter([frames]))
    often = write(tmp_path / "often.mp4", iter(np.split(frames, 25)))
    assert b"".join(once) == b"".join(often)


def test_the_final_file_has_the_library_s_pictures_on_time(frames: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path / "growing.mp4", iter([frames]))
    finish(tmp_path / "growing.mp4", None, tmp_path / "final.mp4")
    save_video(frames, tmp_path / "library.mp4", RATE)
    info, library = probe(tmp_path / "final.mp4"), probe(tmp_path / "library.mp4")
    assert np.allclose(info.frame_times, np.arange(FRAMES) / RATE)
    assert info.duration == pytest.approx(FRAMES / RATE)
    shown = [np.concatenate(list(read_frames(each, np.arange(FRAMES)))) for each in (info, library)]
    assert np.array_equal(shown[0], shown[1])
    content = (tmp_path / "final.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "it plays from its first bytes on"


def sounding(path: Path, seconds: float, delay: float = 0.0, rate: int = 44100) -> Path:
    """A video of 3 s whose sound, a tone, begins after `delay` and lasts `seconds`."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        sound = container.add_stream("aac", rate=rate, layout="mono")
        for _ in range(30):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        tone = np.sin(np.arange(round(seconds * rate)) * 0.06).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
        frame.sample_rate, frame.pts = rate, round(delay * rate)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def heard(path: Path) -> np.ndarray:
    """The samples (n,) of a file's left channel."""
    with av.open(str(path), "r") as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


@pytest.mark.parametrize(
    ("seconds", "delay"), [(3.0, 0.0), (1.0, 0.0), (1.0, 0.5)], ids=["longer", "shorter", "later"]
)
def test_sound_is_as_long_as_the_video_and_in_its_place(seconds: float, delay: float, tmp_path: Path) -> None:
    source = sounding(tmp_path / "driving.mp4", seconds, delay)
    assert extract_sound(source, 2.0, tmp_path / "sound.mp4")
    samples = heard(tmp_path / "sound.mp4")
    assert abs(len(samples) - 2 * SAMPLES) <= 1024  # AAC comes in frames of 1,024 samples
    loud = np.flatnonzero(np.abs(samples) > 0.3)
    assert loud[0] / SAMPLES == pytest.approx(delay, abs=0.06)
    assert loud[-1] / SAMPLES == pytest.approx(min(2.0, delay + seconds), abs=0.06)


def test_a_silent_video_has_no_sound(frames: np.ndarray, tmp_path: Path) -> None:
    save_video(frames, tmp_path / "silent.mp4", RATE)
    assert not extract_sound(tmp_path / "silent.mp4", 2.0, tmp_path / "sound.mp4")


def test_sound_of_an_unknown_codec_is_left_out(tmp_path: Path) -> None:
    content = sounding(tmp_path / "driving.mp4", 1.0).read_bytes()
    (tmp_path / "unknown.mp4").write_bytes(content.replace(b"mp4a", b"zzzz").replace(b"esds", b"free"))
    assert not extract_sound(tmp_path / "unknown.mp4", 2.0, tmp_path / "sound.mp4")


def test_sound_that_changes_its_rate_goes_on(tmp_path: Path) -> None:
    parts = [
        sounding(tmp_path / f"{rate}.ts", 1.0 + part, rate=rate) for part, rate in enumerate((48000, 22050))
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert extract_sound(tmp_path / "both.ts", 2.0, tmp_path / "sound.mp4")
    samples = heard(tmp_path / "sound.mp4")
    assert np.flatnonzero(np.abs(samples) > 0.3)[-1] / SAMPLES > 1.8


def test_picture_and_sound_end_together(frames: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path / "growing.mp4", iter([frames]))
    extract_sound(sounding(tmp_path / "driving.mp4", 1.0), FRAMES / RATE, tmp_path / "sound.mp4")
    finish(tmp_path / "growing.mp4", tmp_path / "sound.mp4", tmp_path / "final.mp4")
    with av.open(str(tmp_path / "final.mp4"), "r") as container:
        assert container.streams.video[0].frames == FRAMES
        picture, sound = (float((s.duration or 0) * (s.time_base or 0)) for s in container.streams)
        assert picture == pytest.approx(FRAMES / RATE)
        assert sound == pytest.approx(FRAMES / RATE, abs=1024 / SAMPLES)
    assert np.allclose(probe(tmp_path / "final.mp4").frame_times, np.arange(FRAMES) / RATE)
