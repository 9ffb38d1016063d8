"""A video written while it grows: every prefix plays, the final file has every frame on time and sound as long."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from posegen.video import probe, read_frames, save_video
from posegen.video.sound import RATE as SAMPLES
from posegen.video.sound import extract_sound, join
from serving.work.fragments import FragmentWriter
from testkit.sounds import sounding

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
    join(tmp_path / "growing.mp4", None, tmp_path / "final.mp4")
    save_video(frames, tmp_path / "library.mp4", RATE)
    info, library = probe(tmp_path / "final.mp4"), probe(tmp_path / "library.mp4")
    assert np.allclose(info.frame_times, np.arange(FRAMES) / RATE)
    assert info.duration == pytest.approx(FRAMES / RATE)
    shown = [np.concatenate(list(read_frames(each, np.arange(FRAMES)))) for each in (info, library)]
    assert np.array_equal(shown[0], shown[1])
    content = (tmp_path / "final.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "it plays from its first bytes on"


def test_picture_and_sound_end_together(frames: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path / "growing.mp4", iter([frames]))
    extract_sound(sounding(tmp_path / "driving.mp4", 1.0), FRAMES / RATE, tmp_path / "sound.mp4")
    join(tmp_path / "growing.mp4", tmp_path / "sound.mp4", tmp_path / "final.mp4")
    with av.open(str(tmp_path / "final.mp4"), "r") as container:
        assert container.streams.video[0].frames == FRAMES
        picture, sound = (float((s.duration or 0) * (s.time_base or 0)) for s in container.streams)
        assert picture == pytest.approx(FRAMES / RATE)
        assert sound == pytest.approx(FRAMES / RATE, abs=1024 / SAMPLES)
    assert np.allclose(probe(tmp_path / "final.mp4").frame_times, np.arange(FRAMES) / RATE)
