"""Every file becomes clips or a row that says why not, under ids that follow its content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import CurateConfig
from pipeline.plan.planner import PLAN, failure, make_planner
from pipeline.plan.source import Source
from posegen.common.storage import Folder
from testkit.videos import cut_short, damage, without_ts_packet, write_sound, write_video


def planned(folder: Path | str, name: str, **how) -> list[dict]:
    with Source(Folder(str(folder)), name) as source:
        plan = make_planner(CurateConfig(str(folder), "nowhere", shots="adaptive", **how))(source)
    assert plan.schema == PLAN
    return plan.to_pylist()


def grey(number: int) -> np.ndarray:
    return np.full((96, 160, 3), 90, np.uint8)


def test_a_short_video_is_one_clip(tmp_path: Path):
    write_video(tmp_path / "a.mp4", range(90), picture=grey)
    (row,) = planned(tmp_path, "a.mp4")
    assert (row["start"], row["stop"], row["rate"]) == (0.0, 3.0, 30.0)
    assert (row["path"], row["width"], row["height"]) == ("a.mp4", 160, 96)
    assert row["video_id"] == hashlib.sha256((tmp_path / "a.mp4").read_bytes()).hexdigest()[:24]
    assert row["error_stage"] is None and row["hdr"] is None and row["source_notes"] == []


def test_clips_of_a_long_video_follow_one_another(tmp_path: Path):
    write_video(tmp_path / "a.mp4", range(900), picture=grey)
    rows = planned(tmp_path, "a.mp4")
    assert [(row["start"], row["stop"]) for row in rows] == [(0.0, 15.0), (15.0, 30.0)]
    assert len({row["clip_id"] for row in rows}) == 2


def test_ids_move_with_the_content(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", range(30))
    other = write_video(tmp_path / "b.mp4", range(31))
    (row,), (different,) = planned(tmp_path, "a.mp4"), planned(tmp_path, other.name)
    (tmp_path / "moved").mkdir()
    path.rename(tmp_path / "moved" / "z.mp4")
    (moved,) = planned(tmp_path, "moved/z.mp4")
    assert (moved["clip_id"], moved["video_id"]) == (row["clip_id"], row["video_id"])
    assert different["clip_id"] != row["clip_id"]


def test_another_rate_makes_other_clips(tmp_path: Path):
    write_video(tmp_path / "a.mp4", range(30))
    assert planned(tmp_path, "a.mp4")[0]["clip_id"] != planned(tmp_path, "a.mp4", rate=24.0)[0]["clip_id"]


def test_a_file_that_cannot_be_read_is_one_row_that_says_why(tmp_path: Path):
    write_sound(tmp_path / "sound.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    cut_short(write_video(tmp_path / "whole.mp4", range(30)), tmp_path / "short.mp4", 0.3)
    for name in ("sound.mp4", "empty.mp4", "text.mp4", "short.mp4"):
        (row,) = planned(tmp_path, name)
        assert (row["error_stage"], row["error_type"], row["path"]) == ("probe", "VideoError", name)
        assert name in row["error_message"]
        assert row["video_id"] is not None and row["start"] is None


def test_no_clip_crosses_what_is_damaged_and_every_row_says_so(tmp_path: Path):
    keyed = {"x264-params": "keyint=30:scenecut=0:bframes=0"}
    source = write_video(tmp_path / "a.mp4", range(180), picture=grey, options=keyed)
    damage(source, tmp_path / "damaged.mp4", 75)
    stream = write_video(tmp_path / "a.ts", range(180), picture=grey, options=keyed)
    without_ts_packet(stream, tmp_path / "lost.ts", 75, 0)
    for name, begin in (("damaged.mp4", 75), ("lost.ts", 73)):
        before, after = planned(tmp_path, name)
        assert before["start"] == 0 and (begin - 3) / 30 < before["stop"] <= begin / 30
        assert 3 <= after["start"] < 3.1 and after["stop"] == pytest.approx(6)
        notes = [f"pictures are damaged from {begin / 30:.2f} s to 3.00 s"]
        assert before["source_notes"] == after["source_notes"] == notes


def test_a_jump_of_the_clock_makes_no_clips(tmp_path: Path):
    write_video(tmp_path / "a.mkv", [*range(90), *range(2_800_000, 2_800_090)], picture=grey)
    before, after = planned(tmp_path, "a.mkv")
    assert (before["start"], after["stop"]) == (0, pytest.approx(93336.33, abs=0.01))
    assert before["stop"] == pytest.approx(88 / 30, abs=0.01)
    assert after["start"] == pytest.approx(93333.33 + 2 / 30, abs=0.01)
    assert after["source_notes"] == ["no pictures are there from 3.00 s to 93333.33 s"]


def test_a_file_that_is_gone_is_one_row(tmp_path: Path):
    (row,) = planned(tmp_path, "gone.mp4")
    assert (row["error_stage"], row["error_type"]) == ("read", "FileNotFoundError")
    assert row["video_id"] is None


def test_failed_files_have_ids_of_their_own(tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_text("no video")
    assert planned(tmp_path, "a.mp4")[0]["clip_id"] != planned(tmp_path, "b.mp4")[0]["clip_id"]


def test_videos_in_a_bucket_are_planned_like_local_ones(tmp_path: Path, bucket: str):
    write_video(tmp_path / "a b.mp4", range(30))
    Folder(f"{bucket}/videos").write("below/a b.mp4", (tmp_path / "a b.mp4").read_bytes())
    (local,), (remote,) = planned(tmp_path, "a b.mp4"), planned(f"{bucket}/videos", "below/a b.mp4")
    assert remote == local | {"path": "below/a b.mp4"}
    (gone,) = planned(f"{bucket}/videos", "gone.mp4")
    assert (gone["error_stage"], gone["error_type"]) == ("read", "FileNotFoundError")


@pytest.mark.parametrize(
    ("error", "message"),
    [(ValueError("two\n  lines"), "two lines"), (MemoryError(), "MemoryError without a message")],
)
def test_what_went_wrong_is_one_line(error: Exception, message: str):
    assert failure("read", error) == {
        "error_stage": "read",
        "error_type": type(error).__name__,
        "error_message": message,
    }
