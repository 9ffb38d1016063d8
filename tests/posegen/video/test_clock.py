"""A broken clock is repaired where it can be, and a gap is told where it is one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posegen.video import probe, read_frames
from posegen.video.clock import missing_before, repaired_clock
from testkit.videos import copy_packets, number_of, write_video

KEYED = {"x264-params": "keyint=10:scenecut=0:bframes=3"}
UNIT = Fraction(1, 30)


def times_of(stamps: list[int | None]) -> np.ndarray:
    return repaired_clock(stamps, UNIT, 1 / 30).times


def read(path: Path) -> list[int]:
    info = probe(path)
    return [number_of(frame) for chunk in read_frames(info, range(len(info.frame_times))) for frame in chunk]


@pytest.mark.parametrize(
    ("stamps", "frames"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([5, 6, 9, 11], [0, 1, 4, 6]),
        ([0, 1, 324_000, 324_001, 4, 5], [0, 1, 2, 3, 4, 5]),  # two astray, far later
        ([0, 1, -9000, 3, 4], [0, 1, 2, 3, 4]),
        ([0, 1, 2, 10, 4, 5, 6, 7, 8, 9, 10, 11, 12], list(range(13))),  # astray by little
        ([0, 1, None, 3, 3, 5], [0, 1, 2, 3, 4, 5]),
        ([None, None], [0, 1]),
        ([7, 7, 7], [0, 1, 2]),
        ([0, 1, 2, 5000, 5001, 5002], [0, 1, 2, 5000, 5001, 5002]),  # a gap
        ([0, 2, 1, 3, 5, 4, 6], list(range(7))),  # the order of decoding
    ],
)
def test_stamps_become_times(stamps: list[int | None], frames: list[int]):
    np.testing.assert_allclose(times_of(stamps), np.array(frames) / 30)


@pytest.mark.filterwarnings("error")
def test_missing_frames_are_found_by_an_even_clock():
    times = np.array([0.0, 0.1, 0.2, 0.4, 0.5]).repeat(10) + np.tile(np.arange(10) / 100, 5)
    assert missing_before(times).tolist() == [30]
    assert not len(missing_before(np.cumsum(np.tile([0.1, 0.3], 10)))), "not even"
    assert not len(missing_before(times[:1])) and not len(missing_before(times[:2]))


def test_a_clock_that_starts_again_goes_on():
    clock = repaired_clock([*range(100, 150), *range(40), *range(7, 60)], UNIT, 1 / 30)
    np.testing.assert_allclose(clock.times, np.arange(143) / 30)
    assert clock.restarts == [50, 90]


@given(
    st.lists(st.none() | st.integers(-(2**40), 2**40) | st.integers(0, 50), min_size=1, max_size=80),
    st.sampled_from([1 / 1000, 1 / 30, 1.0]),
)
@settings(max_examples=300, deadline=None)
def test_times_always_ascend(stamps: list[int | None], period: float):
    clock = repaired_clock(stamps, Fraction(1, 90_000), period)
    assert len(clock.times) == len(stamps) and clock.times[0] == 0
    assert np.all(np.diff(clock.times) > 0)
    assert all(0 < frame < len(stamps) for frame in clock.restarts)


@pytest.mark.parametrize("astray", [[30], [30, 31], [0], [57]], ids=str)
@pytest.mark.parametrize("late", [3, 3 * 3600, 3 * 10**6])
def test_frames_with_stray_timestamps_keep_their_place(tmp_path: Path, astray: list[int], late: int):
    source = write_video(tmp_path / "source.mp4", range(60), options=KEYED)

    def shift(number: int, packet: av.Packet) -> bool:
        assert packet.pts is not None and packet.time_base is not None
        if number in astray:
            packet.pts += int(late / packet.time_base)
        return True

    path = copy_packets(source, tmp_path / "astray.mkv", shift)
    assert read(path) == list(range(60))
    if astray[0] == 30:
        np.testing.assert_allclose(probe(path).frame_times, np.arange(60) / 30, atol=0.002)
        assert probe(path).breaks == ()


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_jump_of_the_clock_is_a_break_without_time_of_its_own(tmp_path: Path, name: str):
    path = write_video(tmp_path / name, [*range(40), *range(2_800_000, 2_800_040)], options=KEYED)
    info = probe(path)
    assert read(path) == [*range(80)]
    assert [found.frame for found in info.breaks] == [40]
    assert info.frame_ends[39] == pytest.approx(40 / 30, abs=0.002)
    assert info.rate == pytest.approx(30, rel=0.01)
    assert info.notes == ["no pictures are there from 1.33 s to 93333.33 s"]


def test_a_last_frame_of_hours_is_not_believed(tmp_path: Path):
    source = write_video(tmp_path / "source.mp4", range(30), options={"x264-params": "bframes=0"})

    def stretch(number: int, packet: av.Packet) -> bool:
        if number == 29:
            packet.duration = 100_000 * (packet.duration or 1)
        return True

    assert probe(copy_packets(source, tmp_path / "long.mp4", stretch)).duration == pytest.approx(1)
