"""Every clip ends as one row with one verdict, whatever order it came in, and kept clips carry their video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import CurateConfig
from pipeline.plan.listing import list_videos, listed_parts, read_part
from pipeline.plan.planner import failed_video, failure, make_planner
from pipeline.score.scorer import SCORED, failed_clip
from pipeline.tables.write import (
    CLIPS_PER_PART,
    JOINED,
    MEDIA_PER_PART,
    clips_parts,
    delete_others,
    join_records,
    judge,
    make_clips_writer,
    make_media_writer,
    media_parts,
    updated,
)
from pipeline.verdict import Rule, Thresholds
from pipeline.workers import plan_journal, score_journal, video_key
from posegen.common.storage import Folder
from posegen.dataset import CLIPS, FAILED, KEPT, MEDIA, REJECTED, content_id, pack_keypoints, table
from posegen.video import probe, read_frames, sample_indices
from testkit.videos import number_of, write_video

SHARP = Thresholds((Rule("blur", max=0.5),), near_duplicate_bits=6)
LOOKS = {"one": ["00000000000000ff"] * 3, "other": ["ff00ff00ff00ff00"] * 3}


def clip(
    clip_id: str, path: str = "", blur: float = 0.1, look: str | None = None, **more: Any
) -> dict[str, Any]:
    """A row on its way to `clips/`; without a `look` its pictures are like no other's."""
    hashes = LOOKS[look] if look else [content_id(clip_id, moment)[:16] for moment in range(3)]
    blank = dict.fromkeys(JOINED.names) | {"status": FAILED, "reasons": []}
    row = {"clip_id": clip_id, "path": path or f"{clip_id}.mp4", "blur": blur, "perceptual_hashes": hashes}
    return blank | row | {"record": clip_id} | more


def failed(clip_id: str, path: str = "") -> dict[str, Any]:
    return clip(clip_id, path) | failure("read", ValueError("damaged")) | {"record": None}


def judged(*rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Judged rows by their path."""
    return {row["path"]: row for row in judge(pa.Table.from_pylist(list(rows), JOINED), SHARP).to_pylist()}


def test_thresholds_keep_and_reject_and_sign_every_row():
    rows = judged(clip("a"), clip("b", blur=0.9), failed("c"))
    assert [row["status"] for row in rows.values()] == [KEPT, REJECTED, FAILED]
    assert rows["b.mp4"]["reasons"] == ["blur: 0.9 is above 0.5"]
    assert {row["thresholds_hash"] for row in rows.values()} == {SHARP.hash}


def test_of_files_with_the_same_content_the_first_by_path_keeps_its_clips():
    rows = judged(clip("a", "z.mp4"), clip("a", "m.mp4"), clip("a", "b.mp4"))
    assert [rows[path]["status"] for path in ("b.mp4", "m.mp4", "z.mp4")] == [KEPT, REJECTED, REJECTED]
    assert rows["z.mp4"]["reasons"] == ["duplicate_file: same content as b.mp4"]
    assert rows["z.mp4"]["duplicate_of"] == rows["b.mp4"]["clip_id"] == "a"
    assert rows["z.mp4"]["record"] == "a"
    assert len({row["clip_id"] for row in rows.values()}) == 3


def test_near_duplicates_are_looked_for_among_clips_that_would_be_kept():
    rows = judged(
        clip("a", look="one", blur=0.9), clip("b", look="one"), clip("c", look="one"), clip("d", look="other")
    )
    assert [row["status"] for row in rows.values()] == [REJECTED, KEPT, REJECTED, KEPT]
    assert rows["c.mp4"]["duplicate_of"] == "b"
    assert rows["c.mp4"]["reasons"] == ["near_duplicate: looks like clip b"]


def test_failed_clips_stay_failed_also_in_copies_of_their_file():
    rows = judged(failed("a", "1.mp4"), failed("a", "2.mp4"), failed("b"))
    assert {row["status"] for row in rows.values()} == {FAILED}
    assert rows["2.mp4"]["duplicate_of"] == "a"
    assert all(row["reasons"] == [] and row["error_message"] == "damaged" for row in rows.values())


ROWS = st.lists(
    st.builds(
        lambda number, copy, blur, look, bad: (
            failed(f"{number:x}", f"{number}-{copy}")
            if bad
            else clip(f"{number:x}", f"{number}-{copy}", blur, look=look)
        ),
        st.integers(0, 5),
        st.integers(0, 2),
        st.sampled_from([0.1, 0.9]),
        st.sampled_from([None, *LOOKS]),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row["path"],
)


@settings(deadline=None)
@given(ROWS, st.randoms())
def test_verdicts_do_not_depend_on_the_order_of_rows(rows: list[dict[str, Any]], random: Any):
    # The same content has the same scores.
    rows = [
        rows[[other["clip_id"] for other in rows].index(row["clip_id"])] | {"path": row["path"]}
        for row in rows
    ]
    first = judge(pa.Table.from_pylist(rows, JOINED), SHARP)
    random.shuffle(rows)
    assert judge(pa.Table.from_pylist(rows, JOINED), SHARP).equals(first)
    ids = first["clip_id"].to_pylist()
    assert ids == sorted(set(ids)) and len(ids) == len(rows)
    for row in first.to_pylist():
        assert (row["status"] == FAILED) == (row["error_stage"] is not None)
        assert (row["status"] == REJECTED) == bool(row["reasons"])


def test_parts_hold_every_clip_once_and_are_named_in_order():
    rows = judge(pa.Table.from_pylist([clip(f"{n:04}") for n in range(CLIPS_PER_PART + 1)], JOINED), SHARP)
    parts = clips_parts(rows)
    assert [part["part"].unique().to_pylist() for part in parts] == [
        ["clips/part-00000.parquet"],
        ["clips/part-00001.parquet"],
    ]
    assert pa.concat_tables(parts)["clip_id"].to_pylist() == rows["clip_id"].to_pylist()


def test_the_name_of_a_part_of_the_media_says_which_clips_it_holds():
    def names(*without: int) -> list[str]:
        rows = [clip(f"{n:04}", blur=0.9 if n in without else 0.1) for n in range(3 * MEDIA_PER_PART)]
        parts = media_parts(judge(pa.Table.from_pylist(rows, JOINED), SHARP))
        return [part["part"][0].as_py() for part in parts]

    whole = names()
    assert [name[:17] for name in whole] == [f"media/part-{number:05}-" for number in range(3)]
    last = 3 * MEDIA_PER_PART - 1
    assert names(last)[:2] == whole[:2]
    assert names(last)[2] != whole[2]
    assert not set(names(0)) & set(whole)


def test_later_records_fill_in_or_fail_their_clips():
    rows = judge(pa.Table.from_pylist([clip("a"), clip("b"), failed("c")], JOINED), SHARP)
    assert updated(rows, []).equals(rows)
    later = updated(
        rows,
        [
            {"clip_id": "a", "caption": "A person waves.", "error_stage": None},
            {"clip_id": "b", **failure("media", OSError("gone"))},
        ],
    ).to_pylist()
    assert [row["status"] for row in later] == [KEPT, FAILED, FAILED]
    assert later[0]["caption"] == "A person waves."
    assert later[1]["error_message"] == "gone"


def test_files_of_an_earlier_table_are_deleted(tmp_path: Path):
    output = Folder(str(tmp_path))
    for name in ("clips/part-00000.parquet", "clips/part-00001.parquet", "media/other.parquet"):
        output.write(name, b"")
    delete_others(output, "clips", clips_parts(pa.Table.from_pylist([clip("a")], JOINED)))
    assert output.names("clips") == ["part-00000.parquet"]
    assert output.names("media") == ["other.parquet"]


@pytest.fixture
def config(tmp_path: Path) -> CurateConfig:
    """A run over two good videos and a bad one, planned, and scored but for the last clip, by figures made up here."""
    config = CurateConfig(str(tmp_path / "videos"), str(tmp_path / "dataset"))
    (tmp_path / "videos").mkdir()
    for name, (count, codec) in {"a.mp4": (30, "libx264"), "b.webm": (20, "libvpx")}.items():
        write_video(tmp_path / "videos" / name, range(count), codec=codec)
    (tmp_path / "videos" / "c.mp4").write_bytes(b"no video")
    list_videos(config)
    plan = make_planner(config)
    for row in read_part(config, listed_parts(config)[0]).to_pylist():
        plans = plan(row["path"])
        plan_journal(config).write(video_key(row), plans)
        for planned in plans.to_pylist():
            if planned["error_stage"] is None:
                score_journal(config).write(planned["clip_id"], record(planned))
    return config


def record(planned: dict[str, Any]) -> pa.Table:
    keypoints = np.full((3, 133, 3), 0.5, np.float32)
    row = {
        "clip_id": planned["clip_id"],
        "blur": 0.1,
        "perceptual_hashes": clip(planned["clip_id"])["perceptual_hashes"],
    }
    return table([row | pack_keypoints(keypoints) | {"preview": b"picture"}], SCORED)


def finished(config: CurateConfig) -> pa.Table:
    return judge(join_records(config, listed_parts(config)), SHARP)


def test_every_listed_file_is_a_row_of_the_finished_table(config: CurateConfig):
    (part,) = clips_parts(finished(config))
    write = make_clips_writer(config)
    assert write(part).to_pylist() == [{"part": "clips/part-00000.parquet"}]
    clips = Folder(config.output).read_table("clips/part-00000.parquet")
    assert clips.schema.equals(CLIPS)
    rows = {row["path"]: row for row in clips.to_pylist()}
    assert {path: row["status"] for path, row in rows.items()} == {
        "a.mp4": KEPT,
        "b.webm": KEPT,
        "c.mp4": FAILED,
    }
    assert (rows["a.mp4"]["preview"], rows["c.mp4"]["preview"]) == (b"picture", None)
    assert rows["a.mp4"]["keypoints_shape"] == [3, 133, 3]
    assert rows["c.mp4"]["error_stage"] == "probe"


def test_writing_a_part_again_gives_the_same_bytes(config: CurateConfig):
    clips, media = make_clips_writer(config), make_media_writer(config)
    output = Folder(config.output)

    def contents() -> list[bytes]:
        for part in clips_parts(finished(config)):
            clips(part)
        for part in media_parts(finished(config)):
            media(part)
        names = [f"{folder}/{name}" for folder in ("clips", "media") for name in output.names(folder)]
        read = [output.read(name) for name in names]
        for name in names:
            output.delete(name)
        return read

    assert contents() == contents()


def test_kept_clips_carry_their_video(config: CurateConfig, tmp_path: Path):
    (part,) = media_parts(finished(config))
    results = make_media_writer(config)(part)
    assert results["error_stage"].to_pylist() == [None, None]
    media = Folder(config.output).read_table(part["part"][0].as_py())
    assert media.schema.equals(MEDIA)
    for row, planned in zip(media.to_pylist(), part.to_pylist(), strict=True):
        (tmp_path / "clip.mp4").write_bytes(row["media"])
        info = probe(tmp_path / "clip.mp4")
        start = row["media_start"]
        indices = sample_indices(info, start, start + row["seconds"], row["rate"])
        numbers = [number_of(frame) for frames in read_frames(info, indices) for frame in frames]
        assert numbers == list(range(round(planned["stop"] * 30)))


def test_a_part_of_the_media_that_is_there_is_not_made_again(config: CurateConfig):
    (part,) = media_parts(finished(config))
    write = make_media_writer(config)
    first = write(part)
    file = Path(config.output) / part["part"][0].as_py()
    before = file.stat().st_mtime_ns
    assert write(part).equals(first)
    assert file.stat().st_mtime_ns == before


def test_a_video_that_is_gone_fails_its_clip_alone(config: CurateConfig):
    (Path(config.input) / "b.webm").unlink()
    clips = finished(config)
    (part,) = media_parts(clips)
    results = make_media_writer(config)(part).to_pylist()
    gone = [row for row in results if row["error_stage"]]
    assert [(row["error_stage"], row["error_type"]) for row in gone] == [("media", "VideoError")]
    rows = {row["path"]: row["status"] for row in updated(clips, gone).to_pylist()}
    assert rows == {"a.mp4": KEPT, "b.webm": FAILED, "c.mp4": FAILED}
    assert Folder(config.output).read_table(part["part"][0].as_py()).num_rows == 1


def test_a_clip_that_could_not_be_scored_is_failed_with_its_place(config: CurateConfig):
    (planned,) = make_planner(config)("a.mp4").to_pylist()
    score_journal(config).write(planned["clip_id"], failed_clip(planned, "score", ValueError("no luck")))
    row = next(row for row in finished(config).to_pylist() if row["path"] == "a.mp4")
    assert (row["status"], row["error_stage"], row["start"]) == (FAILED, "score", planned["start"])


def test_a_plan_that_failed_for_good_is_a_row_of_its_own(config: CurateConfig):
    listed = read_part(config, listed_parts(config)[0]).to_pylist()
    row = next(row for row in listed if row["path"] == "a.mp4")
    plan_journal(config).write(
        video_key(row), failed_video("a.mp4", "plan", RuntimeError("killed its worker"))
    )
    rows = {row["path"]: row for row in finished(config).to_pylist()}
    assert rows["a.mp4"]["error_message"] == "killed its worker"
