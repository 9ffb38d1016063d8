"""What is damaged is left out and told; what comes after it is read, under its own time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from posegen.video import VideoError, probe, read_frames, without_damage
from testkit.videos import (
    concatenated,
    damage,
    number_of,
    numbered_picture,
    without_ts_packet,
    without_ts_pictures,
    write_video,
)

KEYED: dict[str, Any] = {"options": {"x264-params": "keyint=10:scenecut=0:bframes=3"}}
OPEN: dict[str, Any] = {"options": {"x264-params": "keyint=10:open-gop=1:bframes=3"}}
MPEG2: dict[str, Any] = {"codec": "mpeg2video", "options": {"g": "10", "bf": "2"}}


def numbers(info, indices=None) -> list[int]:
    wanted = range(len(info.frame_times)) if indices is None else indices
    return [number_of(frame) for chunk in read_frames(info, list(wanted)) for frame in chunk]


def busy_picture(number: int) -> np.ndarray:
    """A numbered picture that takes several packets of a transport stream."""
    picture = numbered_picture(number)
    noise = np.random.default_rng(number).integers(0, 60, (24, 120, 3), dtype=np.uint8)
    picture[24:48, 40:] = noise
    return picture


@pytest.mark.parametrize("kind", [KEYED, OPEN, MPEG2], ids=["h264", "open gop", "mpeg2"])
@pytest.mark.parametrize("number", [20, 23], ids=["key frame", "other frame"])
@pytest.mark.parametrize("place", [0, 1], ids=["its start", "its middle"])
def test_a_lost_packet_of_a_transport_stream_costs_what_is_built_upon_it(
    tmp_path: Path, kind: dict, number: int, place: int
):
    source = write_video(tmp_path / "source.ts", range(60), picture=busy_picture, **kind)
    info = probe(without_ts_packet(source, tmp_path / "lost.ts", number, place))
    got = numbers(info)
    assert got == sorted(got) and got[0] == 0 and got[-1] == 59
    lost = sorted(set(range(60)) - set(got))
    assert 1 <= len(lost) <= 16 and lost == list(range(lost[0], lost[-1] + 1))
    np.testing.assert_allclose(info.frame_times, np.array(got) / 30, atol=0.001)
    (found,) = info.breaks
    assert got[found.frame - 1] + 1 == lost[0]
    assert info.notes == [
        f"pictures are damaged from {lost[0] / 30:.2f} s to {(lost[-1] + 1) / 30:.2f} s",
    ]
    assert numbers(info, [found.frame - 1, found.frame]) == [lost[0] - 1, lost[-1] + 1]


@pytest.mark.parametrize("counted_anew", [True, False])
@pytest.mark.parametrize("reordered", [0, 2])
def test_whole_pictures_lost_from_a_transport_stream_are_a_gap(
    tmp_path: Path, counted_anew: bool, reordered: int
):
    keyed = {"x264-params": f"keyint=30:scenecut=0:bframes={reordered}"}
    source = write_video(tmp_path / "a.ts", range(120), options=keyed, picture=busy_picture)
    info = probe(without_ts_pictures(source, tmp_path / "lost.ts", range(50, 52), counted_anew))
    (found,) = info.breaks
    assert 45 <= found.frame <= 50 and found.why == "pictures are damaged"
    assert info.frame_times[found.frame] == pytest.approx(2.0, abs=0.02)  # the next key frame
    assert numbers(info) == [*range(found.frame), *range(60, 120)]


def test_pictures_lost_before_a_key_frame_cost_no_others(tmp_path: Path):
    keyed = {"x264-params": "keyint=30:scenecut=0:bframes=0"}
    source = write_video(tmp_path / "a.ts", range(120), options=keyed, picture=busy_picture)
    info = probe(without_ts_pictures(source, tmp_path / "lost.ts", range(58, 60)))
    assert [(found.frame, found.why) for found in info.breaks] == [(58, "no pictures are there")]
    assert numbers(info) == [*range(58), *range(60, 120)]


def test_a_changing_rate_is_no_loss(tmp_path: Path):
    ticks = [*range(0, 60), *range(60, 120, 2), *range(120, 150)]
    assert probe(write_video(tmp_path / "a.ts", ticks)).breaks == ()


@pytest.mark.parametrize("torn", [0, 3 * 188], ids=["whole", "torn"])
def test_the_clock_of_a_second_recording_goes_on_after_the_first(tmp_path: Path, torn: int):
    first = write_video(tmp_path / "first.ts", range(40), **KEYED)
    second = write_video(
        tmp_path / "second.ts", range(50), picture=lambda n: numbered_picture(n + 500), **KEYED
    )
    info = probe(concatenated([first, second], tmp_path / "two.ts", torn))
    got = numbers(info)
    split = got.index(500)
    assert got[split:] == list(range(500, 550)) and got[:split] == list(range(split)) and split > 30
    assert [found.frame for found in info.breaks] == [split]
    assert info.notes[0].startswith("the clock starts again")
    np.testing.assert_allclose(np.diff(info.frame_times), 1 / 30, atol=0.001)
    for index in [0, 25, split - 1, split, split + 1, split + 31, len(got) - 1]:
        assert numbers(info, [index]) == [got[index]]


def test_three_recordings_are_entered_near_what_is_wanted(tmp_path: Path):
    def recording(part: int) -> Path:
        return write_video(
            tmp_path / f"{part}.ts", range(40), picture=lambda n: numbered_picture(n + 100 * part), **KEYED
        )

    files = [recording(part) for part in range(3)]
    info = probe(concatenated(files, tmp_path / "three.ts"))
    assert info.numbered and info.key_bytes is not None and len(info.key_frames) == len(info.key_bytes) > 8
    assert numbers(info, [len(info.stamps) - 1]) == [239]


def test_damaged_pictures_inside_a_file_can_be_left_out(tmp_path: Path):
    source = write_video(tmp_path / "source.mp4", range(60), options={"x264-params": "keyint=10:bframes=0"})
    info = without_damage(probe(damage(source, tmp_path / "damaged.mp4", 24)))
    assert numbers(info) == [*range(24), *range(30, 60)]
    np.testing.assert_allclose(info.frame_times, np.array([*range(24), *range(30, 60)]) / 30)
    assert info.notes == ["pictures are damaged from 0.80 s to 1.00 s"]
    assert info.duration == 2.0 and info.rate == pytest.approx(30)
    tail = without_damage(probe(damage(source, tmp_path / "tail.mp4", 54)))
    assert numbers(tail) == list(range(54))
    assert (tail.duration, tail.notes) == (1.8, ["pictures are damaged from 1.80 s to the end"])


def test_a_file_without_an_intact_picture_is_refused(tmp_path: Path):
    source = write_video(tmp_path / "source.mp4", range(5), options={"x264-params": "keyint=10:bframes=0"})
    info = probe(source)
    damage(source, source, 0)
    with pytest.raises(VideoError, match="not one frame decodes"):
        without_damage(info)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_an_encrypted_file_is_said_to_be_encrypted(tmp_path: Path, name: str):
    source = write_video(tmp_path / f"source {name}")
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "01" * 16, "encryption_kid": "02" * 16}
    with av.open(str(source)) as reader, av.open(str(tmp_path / name), "w", options=key) as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in (p for p in reader.demux(video=0) if p.size):
            packet.stream = stream
            writer.mux(packet)
    with pytest.raises(VideoError, match=r"its pictures are encrypted \(copy protection\); give a copy"):
        probe(tmp_path / name)


def test_a_scrambled_broadcast_is_said_to_be_encrypted(tmp_path: Path):
    data = bytearray(write_video(tmp_path / "source.ts", range(90), picture=busy_picture).read_bytes())
    noise = np.random.default_rng(0)
    for at in range(0, len(data), 188):
        if data[at + 2] == 0 and data[at + 1] & 0x1F == 1:  # the video's packets
            begin = at + 4 + (data[at + 4] + 1 if data[at + 3] & 0x20 else 0)
            data[begin : at + 188] = noise.bytes(at + 188 - begin)
            data[at + 3] |= 0x80
    (tmp_path / "a.ts").write_bytes(data)
    with pytest.raises(VideoError, match="its pictures are encrypted"):
        probe(tmp_path / "a.ts")
