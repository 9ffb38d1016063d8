"""The sound that goes with a video: on its clock, as long as it, whatever the driving video's was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from posegen.video import probe, read_frames, save_video
from posegen.video.sound import RATE as SAMPLES
from posegen.video.sound import add_sound, extract_sound
from testkit.sounds import heard, sounding

RATE = 12


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Grey pictures (24, 48, 32, 3), each brighter than the one before."""
    return np.full((24, 48, 32, 3), 60, np.uint8) + np.arange(24, dtype=np.uint8)[:, None, None, None]


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


def test_sound_is_added_to_the_very_pictures(frames: np.ndarray, tmp_path: Path) -> None:
    video = tmp_path / "out.mp4"
    save_video(frames, video, RATE)
    before = np.concatenate(list(read_frames(probe(video), np.arange(24))))
    assert add_sound(video, sounding(tmp_path / "driving.mp4", 1.0), 2.0)
    assert np.array_equal(np.concatenate(list(read_frames(probe(video), np.arange(24)))), before)
    assert abs(len(heard(video)) - 2 * SAMPLES) <= 1024
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "driving.mp4"}


def test_without_sound_the_video_stays_as_it_is(frames: np.ndarray, tmp_path: Path) -> None:
    for name in ("out.mp4", "silent.mp4"):
        save_video(frames, tmp_path / name, RATE)
    before = (tmp_path / "out.mp4").read_bytes()
    assert not add_sound(tmp_path / "out.mp4", tmp_path / "silent.mp4", 2.0)
    assert (tmp_path / "out.mp4").read_bytes() == before
