"""Every frame of every kind of file comes whole, upright and under its own time, or one sentence says why."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posegen.common.profiling import collect
from posegen.video import VideoError, VideoInfo, cut, probe, read_frames, sample_indices, save_video
from posegen.video import turned as turn
from testkit.videos import (
    copy_packets,
    cut_short,
    damage,
    number_of,
    numbered_picture,
    write_sound,
    write_video,
)

KEYED = {"x264-params": "keyint=10:scenecut=0"}


def numbers(path: Path, indices: list[int] | None = None, **how) -> list[int]:
    info = probe(path)
    wanted = range(len(info.frame_times)) if indices is None else indices
    return [number_of(frame) for chunk in read_frames(info, list(wanted), **how) for frame in chunk]


def turned(quarters: int, flipped: bool = False):
    return lambda number: np.rot90(numbered_picture(number)[:, :: -1 if flipped else 1], quarters)


KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.avi": {"options": KEYED},
    "h264.ts": {"options": KEYED},
    "h264.flv": {"options": KEYED},
    "raw.h264": {},
    "open_gop.mp4": {"options": {"x264-params": "keyint=10:open-gop=1:bframes=3"}},
    "open_gop_h265.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=10:open-gop=1:log-level=none"},
    },
    "refresh.ts": {"options": {"x264-params": "keyint=20:intra-refresh=1:bframes=0"}},
    "ten_bits.mp4": {"pixels": "yuv420p10le"},
    "full_chroma.mp4": {"pixels": "yuv444p"},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "alpha.webm": {"codec": "libvpx-vp9", "pixels": "yuva420p", "options": {"deadline": "realtime"}},
    "hidden.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "av1.mkv": {"codec": "libsvtav1", "options": {"preset": "8", "svtav1-params": "lp=1"}},
    "rgb.mkv": {"codec": "ffv1", "pixels": "bgr0"},
    "palette.gif": {"codec": "gif", "pixels": "rgb8", "unit": Fraction(1, 10)},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_comes_under_its_own_index(tmp_path: Path, name: str):
    path = write_video(tmp_path / name, range(60), **KINDS[name])
    info = probe(path)
    unit = KINDS[name].get("unit", Fraction(1, 30))
    assert numbers(path) == list(range(60))
    np.testing.assert_allclose(info.frame_times, np.arange(60) * float(unit), atol=0.0006)
    assert info.duration == pytest.approx(60 * unit, abs=0.002)
    assert info.rate == pytest.approx(1 / unit, rel=0.01)
    sparse = [0, 8, 9, 10, 11, 29, 30, 31, 50, 51, 52, 59]
    assert numbers(path, sparse) == sparse
    assert numbers(path, [49, 50]) == [49, 50]


@pytest.mark.parametrize("ticks", [[0, 1, 5, 6, 7, 20, 21, 40], [7, 8, 9, 11], [0, 90000, 90001]])
def test_variable_rate_times_are_exact(tmp_path: Path, ticks: list[int]):
    path = write_video(tmp_path / "vfr.mp4", ticks, Fraction(1, 90))
    np.testing.assert_array_equal(probe(path).frame_times, (np.array(ticks) - ticks[0]) / 90)
    assert numbers(path) == list(range(len(ticks)))


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("flipped", [False, True])
def test_pictures_come_upright(tmp_path: Path, quarters: int, flipped: bool):
    path = write_video(
        tmp_path / "turned.mp4",
        range(3),
        picture=turned(-quarters if flipped else quarters, flipped),
        prepare=lambda stream: stream.set_display_rotation(
            -90 * quarters if not flipped else 90 * quarters, flipped
        ),
    )
    info = probe(path)
    assert (info.width, info.height, info.mirrored) == (160, 96, flipped)
    assert numbers(path) == [0, 1, 2]
    assert numbers(path, [1], size=(320, 200)) == [1]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("flipped", [False, True])
def test_pictures_can_be_turned_clockwise_beyond_what_the_file_says(
    tmp_path: Path, degrees: int, flipped: bool
):
    path = write_video(
        tmp_path / "as_stored.mp4",
        range(2),
        prepare=lambda stream: stream.set_display_rotation(90, flipped),
    )
    info = probe(path)
    (before,), (after,) = read_frames(info, [0, 1]), read_frames(turn(info, degrees), [0, 1])
    np.testing.assert_array_equal(after, np.rot90(before, -degrees // 90, (1, 2)))


@pytest.mark.parametrize(
    ("aspect", "size"),
    [(Fraction(4, 3), (160, 72)), (Fraction(3, 4), (120, 96)), (Fraction(999, 1000), (160, 96))],
)
def test_oblong_pixels_are_made_square_by_shrinking(tmp_path: Path, aspect: Fraction, size: tuple[int, int]):
    def prepare(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = aspect

    path = write_video(tmp_path / "oblong.mp4", range(3), prepare=prepare)
    info = probe(path)
    assert (info.width, info.height) == size
    assert next(read_frames(info, [0])).shape == (1, size[1], size[0], 3)


@pytest.mark.parametrize("space", [1, 5, 9])  # AVColorSpace: BT.709, BT.601, BT.2020
@pytest.mark.parametrize(
    ("range_", "pixels"), [(1, "yuv420p"), (2, "yuv420p"), (2, "yuvj420p"), (1, "yuv420p10le")]
)
def test_colours_follow_matrix_and_range(tmp_path: Path, space: int, range_: int, pixels: str):
    colour = np.array([200, 60, 40])
    luma = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[space]
    red, blue = luma
    y = colour @ [red, 1 - red - blue, blue]
    planes = np.array([y, (colour[2] - y) / (2 - 2 * blue), (colour[0] - y) / (2 - 2 * red)])
    planes = planes * ([219 / 255, 224 / 255, 224 / 255] if range_ == 1 else 1) + [
        16 if range_ == 1 else 0,
        128,
        128,
    ]
    path = tmp_path / "colour.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"qp": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.colorspace, stream.color_range = space, range_
        frame = av.VideoFrame(64, 48, pixels)
        deep = pixels.endswith("10le")
        for plane, value in zip(frame.planes, planes, strict=True):
            samples = plane.buffer_size // 2 if deep else plane.buffer_size
            level = round(value * 4) if deep else round(value)
            plane.update(np.full(samples, level, np.uint16 if deep else np.uint8).tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = probe(path)
    for size in [None, (32, 24), (33, 25)]:
        got = next(read_frames(info, [0], size))[0].reshape(-1, 3).astype(int)
        assert np.abs(got - colour).max() <= 4


@pytest.mark.parametrize(("width", "space"), [(1280, 1), (640, 5)])
def test_untagged_hd_is_taken_for_bt709_and_small_for_bt601(tmp_path: Path, width: int, space: int):
    def first_frame(name: str, tag: int) -> np.ndarray:
        def prepare(stream: av.VideoStream) -> None:
            stream.colorspace = tag

        def picture(number: int) -> np.ndarray:
            return np.full((96, width, 3), (180, 70, 30), np.uint8)

        info = probe(write_video(tmp_path / name, [0], prepare=prepare, picture=picture))
        return next(read_frames(info, [0]))

    np.testing.assert_array_equal(first_frame("plain.mp4", 2), first_frame("tagged.mp4", space))
    assert np.any(first_frame("plain.mp4", 2) != first_frame("other.mp4", 6 - space))


def test_doubled_and_unordered_timestamps_are_spread(tmp_path: Path):
    source = write_video(tmp_path / "source.avi", range(12), codec="mjpeg", pixels="yuvj420p")

    def halve(number: int, packet: av.Packet) -> bool:
        packet.pts = packet.dts = (packet.pts or 0) // 2 * 2
        return True

    info = probe(copy_packets(source, tmp_path / "doubled.mkv", halve))
    assert info.numbered
    np.testing.assert_allclose(info.frame_times, np.arange(12) / 30, atol=0.002)
    assert numbers(Path(info.path)) == list(range(12))
    assert numbers(Path(info.path), [3, 7]) == [3, 7]


def test_frames_before_the_first_key_frame_are_not_listed(tmp_path: Path):
    source = write_video(tmp_path / "source.mp4", range(40), options=KEYED)
    path = copy_packets(source, tmp_path / "late.mkv", lambda number, packet: number >= 13)
    assert numbers(path) == list(range(20, 40))
    assert probe(path).frame_times[0] == 0


def write_streams(path: Path, *streams: tuple[int, Iterable[int]]) -> Path:
    """A file of one stream for each scale of the numbered pictures and the numbers, at 30 a second, that it shows."""
    with av.open(str(path), "w") as container:
        written = []
        for scale, shown in streams:
            stream = container.add_stream("libx264", rate=30, options={"x264-params": "bframes=0:keyint=1"})
            stream.width, stream.height, stream.pix_fmt = 160 * scale, 96 * scale, "yuv420p"
            for number in shown:
                frame = av.VideoFrame.from_ndarray(numbered_picture(number), "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                written += stream.encode(frame)
            written += stream.encode(None)
        for packet in sorted(written, key=lambda packet: packet.pts or 0):
            container.mux(packet)
    return path


def test_the_largest_of_several_streams_is_read(tmp_path: Path):
    path = write_streams(tmp_path / "two.mkv", (1, range(5)), (2, range(5)))
    assert probe(path).width == 320
    assert numbers(path) == list(range(5))


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
@pytest.mark.parametrize(
    "large", [range(1), range(20), range(0, 90, 15)], ids=["still", "preview", "chapters"]
)
def test_a_larger_stream_that_does_not_last_is_not_read(tmp_path: Path, name: str, large: range):
    for order in [((1, range(90)), (2, large)), ((2, large), (1, range(90)))]:
        path = write_streams(tmp_path / name, *order)
        assert probe(path).width == 160
        assert numbers(path) == list(range(90))
        cut(probe(path), 1.0, 2.0, 30, tmp_path / "clip.mp4")
        assert probe(tmp_path / "clip.mp4").width == 160


def test_edit_list_hides_frames(tmp_path: Path):
    source = write_video(tmp_path / "source.mp4", range(40), options=KEYED | {"bf": "0"})
    data = bytearray(source.read_bytes())
    place = data.index(b"elst") + 4 + 4 + 4 + 4  # version and flags, entry count, segment duration
    data[place : place + 4] = (int.from_bytes(data[place : place + 4]) + 15 * 512).to_bytes(4)
    path = tmp_path / "edited.mp4"
    path.write_bytes(data)
    assert numbers(path) == list(range(15, 40))


def test_cut_off_file_gives_the_frames_it_has(tmp_path: Path):
    pictures = np.stack([numbered_picture(n) for n in range(90)])
    save_video(pictures, tmp_path / "whole.mp4", 30)
    for source in [tmp_path / "whole.mp4", write_video(tmp_path / "whole.mkv", range(90))]:
        path = cut_short(source, tmp_path / f"cut{source.suffix}", 0.7)
        got = numbers(path)
        times = probe(path).frame_times
        assert 10 < len(got) < 90
        np.testing.assert_allclose(times, np.array(got) / 30, atol=0.001)


@pytest.mark.parametrize("threads", [1, 2])
def test_damage_inside_is_an_error_there_and_nowhere_else(tmp_path: Path, threads: int):
    source = write_video(tmp_path / "source.mp4", range(60), options=KEYED)
    path = damage(source, tmp_path / "damaged.mp4", 24)
    sound = [*range(20), *range(40, 60)]
    assert numbers(path, sound, threads=threads) == sound
    with pytest.raises(VideoError, match=r"damaged.mp4: the frame at 0\.\d+ s cannot be decoded"):
        numbers(path, threads=threads)


def test_bad_files_raise_one_sentence(tmp_path: Path):
    good = write_video(tmp_path / "good.mp4", range(5))
    bad = {
        "missing.mp4": None,
        "empty.mp4": b"",
        "text.mp4": b"not a video\n" * 100,
        "list.m3u8": b"#EXTM3U\n#EXTINF:1,\n" + bytes(good) + b"\n#EXT-X-ENDLIST\n",
        "list.mp4": b"ffconcat version 1.0\nfile good.mp4\n",
        "no_index.mp4": good.read_bytes()[: good.stat().st_size // 2],
        "codec.mp4": good.read_bytes().replace(b"avc1", b"zzz1"),
        "hollow.mp4": re.sub(
            rb"mdat.*", lambda m: b"mdat" + bytes(len(m[0]) - 4), good.read_bytes(), flags=re.S
        ),
    }
    for name, content in bad.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    write_sound(tmp_path / "sound.m4a")
    write_video(tmp_path / "still.png", [0], codec="png", pixels="rgb24")
    write_video(
        tmp_path / "huge.mkv", [0], codec="ffv1", picture=lambda number: np.zeros((2, 16386, 3), np.uint8)
    )
    for name in [*bad, "sound.m4a", "still.png", "huge.mkv", "."]:
        with pytest.raises(VideoError) as caught:
            probe(tmp_path / name)
        sentence = str(caught.value)
        assert sentence.startswith(f"{tmp_path / name}: ") and sentence.endswith(".") and "\n" not in sentence


def test_addresses_and_playlists_are_never_followed(tmp_path: Path):
    for name in ["http://localhost:1/a.mp4", "concat:a.mp4|b.mp4", "pipe:0", "udp://127.0.0.1:1"]:
        with pytest.raises(VideoError, match="no such file"):
            probe(name)
    path = write_video(tmp_path / "with:colon.mp4", range(2))
    assert numbers(path) == [0, 1]


def test_chunks_repeats_and_sizes(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", range(40), options=KEYED)
    info = pickle.loads(pickle.dumps(probe(path)))
    wanted = [0, 0, 0, 3, 17, 17, 18, 39, 39]
    chunks = list(read_frames(info, np.array(wanted), (80, 48), chunk=4))
    assert [chunk.shape for chunk in chunks] == [(4, 48, 80, 3), (4, 48, 80, 3), (1, 48, 80, 3)]
    assert [number_of(frame) for chunk in chunks for frame in chunk] == wanted
    assert all(chunk.flags.owndata and chunk.flags.c_contiguous for chunk in chunks)
    one_after_another = read_frames(info, wanted, (80, 48), chunk=4, reuse=True)
    reused = [(chunk, chunk.copy()) for chunk in one_after_another]
    for (_, copied), fresh in zip(reused, chunks, strict=True):
        np.testing.assert_array_equal(copied, fresh)
    assert all(np.shares_memory(reused[0][0], chunk) for chunk, _ in reused)
    assert list(read_frames(info, [])) == []
    for indices in [[3, 2], [-1, 0], [40]]:
        with pytest.raises(ValueError, match="ascend from 0 to 39"):
            next(read_frames(info, indices))


def test_decoding_is_timed_but_not_what_the_caller_does(tmp_path: Path):
    info = probe(write_video(tmp_path / "a.mp4", range(20)))
    with collect() as seconds:
        for _ in read_frames(info, range(20), chunk=5):
            sum(range(2_000_000))
    assert 0 < seconds["decode"] < 0.1


def test_encode_gives_the_same_bytes_whatever_memory_holds(tmp_path: Path):
    pictures = np.stack([numbered_picture(n) for n in range(10)])
    random = np.random.default_rng(0)
    written = set()
    for _ in range(60):
        used = [random.integers(0, 256, size, dtype=np.uint8) for size in random.integers(1000, 100_000, 40)]
        del used
        save_video(pictures, tmp_path / "a.mp4", 30)
        written.add((tmp_path / "a.mp4").read_bytes())
    assert len(written) == 1


def test_encode_is_deterministic_tagged_and_odd_sides_are_cropped(tmp_path: Path):
    pictures = np.stack([numbered_picture(n) for n in range(40)])[:, :95, :159]
    save_video(pictures, tmp_path / "a.mp4", 30000 / 1001)
    save_video((pictures[i : i + 7] for i in range(0, 40, 7)), tmp_path / "b.mp4", Fraction(30000, 1001))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]
    info = probe(tmp_path / "a.mp4")
    assert (info.width, info.height, info.codec, len(info.frame_times)) == (158, 94, "h264", 40)
    np.testing.assert_allclose(info.frame_times, np.arange(40) * 1001 / 30000, rtol=1e-12)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    frames = np.concatenate(list(read_frames(info, range(40))))
    assert [number_of(frame) for frame in frames] == list(range(40))
    assert np.abs(frames.astype(float) - pictures[:, :94, :158]).mean() < 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.pix_fmt, context.colorspace, context.color_range) == ("yuv420p", 1, 1)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 8, 8, 3), np.uint8),
        [],
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 8, 8), np.uint8),
        np.zeros((2, 1, 8, 3), np.uint8),
        [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 10, 3), np.uint8)],
    ],
)
def test_encode_refuses_what_is_no_video_and_leaves_nothing(tmp_path: Path, frames):
    with pytest.raises(ValueError, match=r"bad\.mp4: "):
        save_video(frames, tmp_path / "bad.mp4", 30)
    assert list(tmp_path.iterdir()) == []


def info_of(times: np.ndarray, last: float) -> VideoInfo:
    none = np.zeros(1, np.int64)
    return VideoInfo(
        "a.mp4", 2, 2, times, float(times[-1]) + last, 0, False, "h264", none, False, none, (2, 2)
    )


@given(
    rate=st.sampled_from(
        [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60)]
    ),
    ticks=st.sampled_from([1000, 90000, 30000]),
    first=st.integers(0, 200_000),
    count=st.integers(1, 2000),
)
@settings(max_examples=60, deadline=None)
def test_sampling_at_the_own_rate_gives_each_frame_once(rate: Fraction, ticks: int, first: int, count: int):
    stamps = np.array([round(k / rate * ticks) for k in range(first, first + count + 1)], np.int64)
    times = (stamps - stamps[0]) / ticks
    padded = np.concatenate([np.arange(first) / float(rate), first / float(rate) + times[:-1]])
    info = info_of(padded, 1 / float(rate))
    start, stop = padded[first], padded[first] + times[-1]
    np.testing.assert_array_equal(
        sample_indices(info, start, stop, float(rate)), np.arange(first, first + count)
    )


@given(
    gaps=st.lists(st.integers(2, 500), min_size=1, max_size=60),
    rate=st.sampled_from([8.0, 16.0, 24.0, 30.0, 29.97]),
    span=st.tuples(st.floats(0, 0.9), st.floats(0.05, 1)),
)
@settings(max_examples=100, deadline=None)
def test_samples_are_the_frames_on_screen(gaps: list[int], rate: float, span: tuple[float, float]):
    times = np.concatenate([[0], np.cumsum(gaps)]) / 100
    info = info_of(times, 0.02)
    start = span[0] * info.duration
    stop = min(info.duration, start + span[1] * info.duration)
    indices = sample_indices(info, start, stop, rate)
    moments = start + np.arange(len(indices)) / rate
    assert np.all(times[indices] <= moments + 0.0016)
    later = indices + 1 < len(times)
    assert np.all(times[indices[later] + 1] > moments[later])
    assert len(indices) == 1 or moments[-1] < stop
    assert start + len(indices) / rate >= stop - 0.0016


def test_sampling_outside_the_video_is_refused():
    info = info_of(np.arange(30) / 30, 1 / 30)
    for start, stop, rate in [(-1, 1, 30), (0, 2, 30), (0.5, 0.5, 30), (0, 1, 0)]:
        with pytest.raises(ValueError, match="give 0 <= start < stop <= duration"):
            sample_indices(info, start, stop, rate)
