"""Pictures that change their size within a file are never distorted, and no shot crosses the change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posegen.video import probe, read_frames
from posegen.video.vp9 import Vp9Sizes
from testkit.videos import concatenated, joined, number_of, numbered_picture, write_video
from testkit.vp9_files import RESILIENT, without_second_key_frame

KINDS: dict[str, dict[str, Any]] = {
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}},
    "av1.obu": {"codec": "libsvtav1", "options": {"preset": "8", "svtav1-params": "lp=1"}},
    "h264.ts": {},
    "h265.ts": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "mpeg2.ts": {"codec": "mpeg2video"},
}


def enlarged(number: int) -> np.ndarray:
    return np.repeat(np.repeat(numbered_picture(number), 2, axis=0), 2, axis=1)


def upright(number: int) -> np.ndarray:
    """A tall picture: a white square on grey."""
    picture = np.full((160, 96, 3), 90, np.uint8)
    picture[60:100, 28:68] = 250
    return picture


@pytest.mark.parametrize("name", KINDS)
def test_the_size_shown_longest_is_the_video_s(tmp_path: Path, name: str):
    small = write_video(tmp_path / f"small {name}", range(20), **KINDS[name])
    large = write_video(tmp_path / f"large {name}", range(40), picture=enlarged, **KINDS[name])
    join = concatenated if name.endswith("obu") else joined
    info = probe(join([small, large], tmp_path / name))
    assert (info.width, info.height) == info.stored == (320, 192)
    assert [(found.frame, found.why) for found in info.breaks] == [(20, "pictures become 320x192")]
    # FFmpeg's decoder of MPEG-2 drops the last picture before a change.
    shown = [number for number in range(60) if number != 19]
    frames = np.concatenate(list(read_frames(info, shown)))
    assert [number_of(frame) for frame in frames] == [*range(19), *range(40)]
    info = probe(join([large, small], tmp_path / f"shrinks {name}"))
    assert info.stored == (320, 192)
    assert [found.frame for found in info.breaks] == [40]


@pytest.mark.parametrize("name", ["vp8.webm", "h264.ts"])
def test_another_shape_is_fitted_in_without_distortion(tmp_path: Path, name: str):
    wide = write_video(tmp_path / f"wide {name}", range(30), **KINDS[name])
    tall = write_video(tmp_path / f"tall {name}", range(10), picture=upright, **KINDS[name])
    info = probe(joined([wide, tall], tmp_path / name))
    assert (info.width, info.height) == (160, 96)
    for size in [None, (320, 192), (80, 48)]:
        frames = np.concatenate(list(read_frames(info, [29, 30, 39], size)))
        assert number_of(frames[0]) == 29
        for picture in frames[1:]:
            white = np.argwhere(picture[..., 0] > 180)
            height, width = np.ptp(white, axis=0) + 1
            assert width == pytest.approx(height, abs=2)
            assert height == pytest.approx(40 * picture.shape[0] / 160, abs=3)
            assert picture[:, : picture.shape[1] // 4].max() < 20  # black beside it


def test_a_recording_that_keeps_its_size_has_no_breaks(tmp_path: Path):
    path = write_video(tmp_path / "a.ts", range(60), options={"x264-params": "keyint=5"})
    assert probe(path).breaks == ()


@pytest.mark.parametrize("longer", ["first", "second"])
def test_vp9_may_change_its_size_without_a_key_frame(tmp_path: Path, longer: str):
    counts = (30, 16) if longer == "first" else (10, 41)  # the second part loses one
    how: dict[str, Any] = {"codec": "libvpx-vp9", "options": RESILIENT}
    wide = write_video(tmp_path / "wide.webm", range(counts[0]), **how)
    large = write_video(tmp_path / "large.webm", range(counts[1]), picture=enlarged, **how)
    info = probe(without_second_key_frame(wide, large, tmp_path / "a.webm"))
    assert len(info.key_frames) == 1
    assert [(found.frame, found.why) for found in info.breaks] == [(counts[0], "pictures become 320x192")]
    assert info.stored == ((160, 96) if longer == "first" else (320, 192))
    frames = np.concatenate(list(read_frames(info, range(len(info.frame_times)))))
    assert [number_of(frame) for frame in frames] == [*range(counts[0]), *range(1, counts[1])]


def test_vp9_of_another_shape_is_fitted_in_without_distortion(tmp_path: Path):
    how: dict[str, Any] = {"codec": "libvpx-vp9", "options": RESILIENT}
    wide = write_video(tmp_path / "wide.webm", range(30), **how)
    tall = write_video(tmp_path / "tall.webm", range(11), picture=upright, **how)
    info = probe(without_second_key_frame(wide, tall, tmp_path / "a.webm"))
    assert (info.width, info.height) == (160, 96) and [found.frame for found in info.breaks] == [30]
    for picture in np.concatenate(list(read_frames(info, [30, 39]))):
        height, width = np.ptp(np.argwhere(picture[..., 0] > 180), axis=0) + 1
        assert width == pytest.approx(height, abs=2) and height == pytest.approx(24, abs=3)


def test_vp9_sizes_follow_references_and_superframes():
    def frame(bits: str) -> bytes:
        return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))

    def size(width: int, height: int) -> str:
        return f"{width - 1:016b}{height - 1:016b}"

    sync, still = f"{0x498342:024b}", "0010" * 3  # three references to slot 1
    key = frame("10000010" + sync + "0000" + size(640, 360))
    smaller = frame("100001100000000100" + still + "000" + size(320, 180))
    same = frame("100001100000000000" + "0100" * 3 + "1")  # as slot 2
    existing = frame("10001010")
    sizes = Vp9Sizes()
    assert sizes(key) == (640, 360)
    assert sizes(smaller) == (320, 180)
    assert sizes(frame("100001100000000000" + still + "1")) == (640, 360)
    assert sizes(same) == (320, 180) and sizes(existing) == (320, 180)
    hidden = frame("10000100100" + sync + "00001000" + size(100, 50))
    shows = frame("10001011")
    marker = bytes([0b110 << 5 | 1])
    assert sizes(hidden + shows + marker + bytes([len(hidden), len(shows)]) + marker) == (100, 50)
    assert sizes(key[:4]) == (100, 50) and sizes(b"") == (100, 50)
    assert Vp9Sizes()(same) is None
