"""Pictures that change their size within a file are never distorted, and no shot crosses the change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posegen.video import probe, read_frames
from testkit.videos import concatenated, joined, number_of, numbered_picture, write_video

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
