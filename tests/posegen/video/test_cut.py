"""A clip that was cut out shows what the video shows, pixel for pixel where its packets can be copied."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from posegen.video import VideoError, cut, probe, read_frames, sample_indices, turned
from testkit.videos import copy_packets, damage, number_of, numbered_picture, write_video

# Times in 1/60 s between frames, from one to nine: far from any even rate.
VARIABLE = {
    "ticks": np.cumsum(np.random.default_rng(0).choice([1, 2, 3, 9], 80)).tolist(),
    "unit": Fraction(1, 60),
}
B_FRAMES = {"options": {"x264-params": "keyint=30:bframes=3"}}
LONG = {"options": {"x264-params": "keyint=250:bframes=0"}}
OPEN_H264 = {"options": {"x264-params": "keyint=10:open-gop=1:bframes=3"}}
OPEN_H265 = {"codec": "libx265", "options": {"x265-params": "keyint=10:open-gop=1:log-level=none"}}
VP9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}}
TURNED = {
    "picture": lambda number: np.rot90(numbered_picture(number), -1),
    "prepare": lambda stream: stream.set_display_rotation(90),
}
COPIED: dict[str, dict[str, Any]] = {
    "long.mp4": LONG,
    "b_frames.mp4": B_FRAMES,
    "b_frames.mkv": B_FRAMES,
    "open.mp4": OPEN_H264,
    "open_h265.mp4": OPEN_H265,
    "vp9.webm": VP9,
    "ten_bits.mp4": {"pixels": "yuv420p10le"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "variable.mp4": B_FRAMES | VARIABLE,
    "variable.mkv": B_FRAMES | VARIABLE,
    "variable_open.mp4": OPEN_H264 | VARIABLE,
    "variable_vp9.webm": VP9 | VARIABLE,
    "turned.mp4": B_FRAMES | TURNED,
}
ENCODED: dict[str, dict[str, Any]] = {
    "vp8.webm": {"codec": "libvpx"},
    "variable_vp8.webm": {"codec": "libvpx"} | VARIABLE,
    "mpeg2.ts": {"codec": "mpeg2video"},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "refresh.ts": {"options": {"x264-params": "keyint=20:intra-refresh=1:bframes=0"}},
}
# From the start, from a frame's time, from within the time of a frame, to the end; in seconds.
SPANS = [(0.0, 1.0), (0.4, 1.7), (1.01, 2.3), (1.3, None)]


def written(folder: Path, name: str, kind: dict[str, Any]) -> Path:
    return write_video(folder / name, **({"ticks": range(80)} | kind))


def shown(path: str | Path, start: float, stop: float, rate: float) -> np.ndarray:
    info = probe(path)
    return np.concatenate(list(read_frames(info, sample_indices(info, start, stop, rate))))


def packets_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


@pytest.mark.parametrize("name", COPIED)
def test_a_copy_shows_the_very_same_pictures(tmp_path: Path, name: str):
    info = probe(written(tmp_path, name, COPIED[name]))
    for start, end in SPANS:
        stop = end or info.duration
        begin = cut(info, start, stop, 30, tmp_path / "clip.mp4")
        clip = shown(tmp_path / "clip.mp4", begin, begin + stop - start, 30)
        np.testing.assert_array_equal(clip, shown(info.path, start, stop, 30))
        copied = probe(tmp_path / "clip.mp4")
        assert copied.codec == info.codec
        assert packets_of(tmp_path / "clip.mp4") == len(copied.frame_times)  # none that cannot be shown


@pytest.mark.parametrize("name", ENCODED)
def test_what_cannot_be_copied_is_encoded_and_shows_the_same_frames(tmp_path: Path, name: str):
    info = probe(written(tmp_path, name, ENCODED[name]))
    for start, end in SPANS[2:]:
        stop = end or info.duration
        begin = cut(info, start, stop, 24, tmp_path / "clip.mp4")
        clip = shown(tmp_path / "clip.mp4", begin, begin + stop - start, 24)
        source = shown(info.path, start, stop, 24)
        assert [number_of(frame) for frame in clip] == [number_of(frame) for frame in source]
        assert (probe(tmp_path / "clip.mp4").codec, begin) == ("h264", 0.0)


def test_a_copy_begins_at_the_key_frame_before(tmp_path: Path):
    info = probe(written(tmp_path, "video.mp4", B_FRAMES))
    begin = cut(info, 1.01, 1.5, 30, tmp_path / "clip.mp4")
    assert begin == pytest.approx(0.01)  # key frames at 0, 1 and 2 s
    clip = probe(tmp_path / "clip.mp4")
    assert number_of(next(read_frames(clip, [0]))[0]) == 30
    assert len(clip.frame_times) < 35


def test_a_span_far_from_a_key_frame_is_encoded(tmp_path: Path):
    info = probe(written(tmp_path, "video.mp4", LONG | {"ticks": range(240)}))
    assert len(info.key_frames) == 1
    for start in (2.0, 7.0):
        begin = cut(info, start, start + 1, 30, tmp_path / "clip.mp4")
        clip = probe(tmp_path / "clip.mp4")
        assert (begin, len(clip.frame_times)) == (0, 30)
        assert number_of(next(read_frames(clip, [0]))[0]) == start * 30
    assert cut(info, 0.5, 2.0, 30, tmp_path / "clip.mp4") == 0.5


def test_turned_video_stays_upright(tmp_path: Path):
    info = probe(written(tmp_path, "turned.mp4", B_FRAMES | TURNED))
    begin = cut(info, 0.5, 1.0, 30, tmp_path / "clip.mp4")
    clip = probe(tmp_path / "clip.mp4")
    assert (clip.width, clip.height) == (info.width, info.height) == (160, 96)
    assert number_of(shown(tmp_path / "clip.mp4", begin, begin + 0.5, 30)[0]) == 15


def test_a_video_that_is_turned_after_probing_is_cut_turned(tmp_path: Path):
    def picture(number: int) -> np.ndarray:  # upside down, and the ends look alike either way up
        return numbered_picture(number)[::-1, ::-1] if 0 < number < 29 else np.zeros((96, 160, 3), np.uint8)

    info = turned(probe(write_video(tmp_path / "video.mp4", picture=picture)), 180)
    assert cut(info, 0, 1, 30, tmp_path / "clip.mp4") == 0
    assert [number_of(frame) for frame in shown(tmp_path / "clip.mp4", 0, 1, 30)[1:29]] == [*range(1, 29)]


def test_frames_before_the_first_key_frame_do_not_shift_the_clip(tmp_path: Path):
    source = written(tmp_path, "source.mp4", B_FRAMES)
    info = probe(copy_packets(source, tmp_path / "late.mkv", lambda number, packet: number >= 13))
    begin = cut(info, 0.5, 1.2, 30, tmp_path / "clip.mp4")
    clip = shown(tmp_path / "clip.mp4", begin, begin + 0.7, 30)
    np.testing.assert_array_equal(clip, shown(info.path, 0.5, 1.2, 30))


def test_the_same_span_gives_the_same_bytes(tmp_path: Path):
    for name, kinds in {"b_frames.mp4": COPIED, "vp8.webm": ENCODED}.items():
        info = probe(written(tmp_path, name, kinds[name]))
        for clip in ("a.mp4", "b.mp4"):
            cut(info, 0.4, 1.7, 30, tmp_path / clip)
        assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_damaged_span_raises_and_leaves_no_file(tmp_path: Path):
    source = written(tmp_path, "source.mp4", {"options": {"x264-params": "keyint=10:bframes=0"}})
    info = probe(damage(source, tmp_path / "damaged.mp4", 35))
    with pytest.raises(VideoError, match=r"damaged.mp4: the frame at 1.167 s cannot be decoded"):
        cut(info, 35 / 30, 2.0, 30, tmp_path / "clip.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.mp4", "source.mp4"]


def test_a_span_outside_the_video_is_refused(tmp_path: Path):
    info = probe(written(tmp_path, "video.mp4", B_FRAMES))
    with pytest.raises(ValueError, match="cannot sample 1 to 9 s"):
        cut(info, 1, 9, 30, tmp_path / "clip.mp4")
