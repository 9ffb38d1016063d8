"""Every clip ends as one row with one verdict, whatever order it came in, and kept clips carry their video."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.tables.write as write_module
from pipeline.config import CurateConfig
from pipeline.feeds import listed_videos
from pipeline.journals import CAPTIONED, CUT, cut_journal, plan_journal, score_journal, video_key
from pipeline.plan.listing import list_videos, listed_parts, read_part
from pipeline.plan.planner import failed_video, failure, make_planner
from pipeline.plan.source import Source
from pipeline.records.journal import Files, Journal
from pipeline.score.scorer import SCORED, failed_clip
from pipeline.tables.join import ERROR as ERRORS
from pipeline.tables.join import JOINED, join_group
from pipeline.tables.media import MediaReader, newest_media
from pipeline.tables.shards import overlapping
from pipeline.tables.verdicts import (
    duplicates,
    judge,
    kept,
    reject_duplicates,
    with_captions,
    with_errors,
)
from pipeline.tables.write import divide, table_schema, write_files
from pipeline.verdict import Rule, Thresholds
from pipeline.workers import cut_record
from posegen import versions
from posegen.common.storage import Folder
from posegen.dataset import CLIPS, FAILED, KEPT, MEDIA, REJECTED, content_id, pack_keypoints, table
from posegen.video import VideoError, probe, read_frames, sample_indices
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
    return blank | row | {"record": clip_id, "video": clip_id, "key": clip_id} | more


def failed(clip_id: str, path: str = "") -> dict[str, Any]:
    return clip(clip_id, path) | failure("read", ValueError("damaged")) | {"record": None}


def verdicts(clips: pa.Table) -> pa.Table:
    """The rows by the rules and without near duplicates."""
    by_rules = judge(clips, SHARP)
    return reject_duplicates(by_rules, duplicates(kept(by_rules), SHARP))


def judged(*rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Judged rows by their path."""
    return {row["path"]: row for row in verdicts(pa.Table.from_pylist(list(rows), JOINED)).to_pylist()}


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
    first = verdicts(pa.Table.from_pylist(rows, JOINED))
    random.shuffle(rows)
    assert verdicts(pa.Table.from_pylist(rows, JOINED)).equals(first)
    ids = first["clip_id"].to_pylist()
    assert ids == sorted(set(ids)) and len(ids) == len(rows)
    for row in first.to_pylist():
        assert (row["status"] == FAILED) == (row["error_stage"] is not None)
        assert (row["status"] == REJECTED) == bool(row["reasons"])


def test_later_steps_fill_in_or_fail_their_clips():
    rows = judge(pa.Table.from_pylist([clip("a"), clip("b"), failed("c")], JOINED), SHARP)
    none = pa.table({name: pa.array([], pa.string()) for name in ("clip_id", *ERRORS)})
    assert with_errors(rows, none).equals(rows)
    captions = [
        {"clip_id": "a", "caption": "A person waves.", "subject": "person", "caption_source": "a model"},
        {"clip_id": "b", **failure("caption", OSError("gone"))},
        {"clip_id": "c", "caption": "Of a clip that is not kept.", "caption_source": "a model"},
    ]
    later = with_captions(rows, table(captions, CAPTIONED)).to_pylist()
    assert [row["status"] for row in later] == [KEPT, FAILED, FAILED]
    assert later[0]["caption"] == "A person waves."
    assert later[1]["error_message"] == "gone" and later[2]["caption"] is None


@pytest.fixture
def config(tmp_path: Path) -> CurateConfig:
    """A run over two good videos and a bad one, planned, scored by figures made up here, and cut."""
    config = CurateConfig(str(tmp_path / "videos"), str(tmp_path / "dataset"))
    (tmp_path / "videos").mkdir()
    for name, (count, codec) in {"a.mp4": (30, "libx264"), "b.webm": (20, "libvpx")}.items():
        write_video(tmp_path / "videos" / name, range(count), codec=codec)
    (tmp_path / "videos" / "c.mp4").write_bytes(b"no video")
    list_videos(config)
    plan = make_planner(config)
    for row in read_part(config, listed_parts(config)[0]).to_pylist():
        source = Source(Folder(config.input), row["path"])
        plans = plan(source)
        plan_journal(config).write(source.id, video_key(row), plans)
        for planned in plans.to_pylist():
            if planned["error_stage"] is None:
                video_id, clip_id = planned["video_id"], planned["clip_id"]
                score_journal(config).write(video_id, clip_id, record(planned))
                cut_journal(config).write(video_id, clip_id, cut_record(planned, source.info))
    return config


def record(planned: dict[str, Any]) -> pa.Table:
    keypoints = np.full((3, 133, 3), 0.5, np.float32)
    row = {
        "clip_id": planned["clip_id"],
        "blur": 0.1,
        "perceptual_hashes": clip(planned["clip_id"])["perceptual_hashes"],
    }
    return table([row | pack_keypoints(keypoints) | {"preview": b"picture"}], SCORED)


def test_a_turned_clip_has_the_size_of_its_turned_pictures(config: CurateConfig):
    for planned in joined(config).to_pylist():
        if planned["error_stage"] is None:
            (row,) = record(planned).to_pylist()
            turned = table([row | {"turned": 270 if planned["path"] == "a.mp4" else 180}], SCORED)
            score_journal(config).write(planned["video_id"], planned["clip_id"], turned)
    sizes = {row["path"]: (row["turned"], row["width"], row["height"]) for row in joined(config).to_pylist()}
    assert sizes == {"a.mp4": (270, 96, 160), "b.webm": (180, 160, 96), "c.mp4": (None, None, None)}


def packed(journal: Journal) -> dict[str, Files]:
    return {group: journal.pack(group, files) for group, files in journal.files().items()}


def joined(config: CurateConfig) -> pa.Table:
    """The rows of all groups without verdicts."""
    keys = listed_videos(config)["key"].combine_chunks()
    plans, scores = packed(plan_journal(config)), packed(score_journal(config))
    groups = [join_group(config, keys, plans[group], Files(), scores.get(group, Files())) for group in plans]
    return pa.concat_tables(groups)


def finished(config: CurateConfig) -> pa.Table:
    return verdicts(joined(config))


def write(config: CurateConfig, clips: pa.Table) -> dict[str, dict[str, int]]:
    """Writes both tables as a version; returns its files."""
    division = divide(Folder(config.output), clips.num_rows, kept(clips).num_rows)
    records = packed(score_journal(config)), packed(cut_journal(config))
    written = write_files(config, table_schema(config), division, *records, newest_media(config), clips)
    versions.publish(Folder(config.output), written)
    return written


def read(config: CurateConfig, name: str) -> pa.Table:
    folder = Folder(config.output)
    return pa.concat_tables(folder.read_table(file) for file in versions.files(folder, name))


def test_every_listed_file_is_a_row_of_the_finished_table(config: CurateConfig):
    write(config, finished(config))
    clips = read(config, "clips")
    assert clips.schema.equals(CLIPS)
    assert clips["clip_id"].to_pylist() == sorted(clips["clip_id"].to_pylist())
    rows = {row["path"]: row for row in clips.to_pylist()}
    assert {path: row["status"] for path, row in rows.items()} == {
        "a.mp4": KEPT,
        "b.webm": KEPT,
        "c.mp4": FAILED,
    }
    assert (rows["a.mp4"]["preview"], rows["c.mp4"]["preview"]) == (b"picture", None)
    assert rows["a.mp4"]["keypoints_shape"] == [3, 133, 3]
    assert rows["c.mp4"]["error_stage"] == "probe"


def test_writing_again_gives_the_same_bytes_and_writes_no_file(config: CurateConfig, tmp_path: Path):
    def contents() -> dict[str, bytes]:
        files = [path for name in versions.TABLES for path in (tmp_path / "dataset" / name).iterdir()]
        return {str(path): path.read_bytes() for path in files}

    written = write(config, finished(config))
    first, files = contents(), [tmp_path / "dataset" / name for names in written.values() for name in names]
    changed = [file.stat().st_mtime_ns for file in files]
    assert write(config, finished(config)) == written
    assert [file.stat().st_mtime_ns for file in files] == changed
    assert versions.numbers(Folder(config.output)) == [1]
    for name in ("versions", *versions.TABLES):
        shutil.rmtree(tmp_path / "dataset" / name)
    assert write(config, finished(config)) == written
    assert contents() == first


def test_kept_clips_carry_their_video(config: CurateConfig, tmp_path: Path):
    clips = finished(config)
    write(config, clips)
    media = read(config, "media")
    assert media.schema.equals(MEDIA)
    planned = {row["clip_id"]: row for row in kept(clips).to_pylist()}
    assert media["clip_id"].to_pylist() == sorted(planned)
    for row in media.to_pylist():
        (tmp_path / "clip.mp4").write_bytes(row["media"])
        info = probe(tmp_path / "clip.mp4")
        start = row["media_start"]
        indices = sample_indices(info, start, start + row["seconds"], row["rate"])
        numbers = [number_of(frame) for frames in read_frames(info, indices) for frame in frames]
        assert numbers == list(range(round(planned[row["clip_id"]]["stop"] * 30)))


def test_videos_are_found_before_and_after_they_are_in_the_table(config: CurateConfig):
    rows = kept(finished(config)).to_pylist()
    before = [media for _, media in MediaReader(config, packed(cut_journal(config)), []).of(rows)]
    write(config, finished(config))
    after = [media for _, media in MediaReader(config, {}, newest_media(config)).of(rows)]
    assert len(before) == 2 and before == after


def test_a_clip_that_could_not_be_cut_out_fails_alone(config: CurateConfig):
    clips = finished(config)
    (gone,) = (row for row in clips.to_pylist() if row["path"] == "b.webm")
    failed_cut = {"clip_id": gone["clip_id"], **failure("media", VideoError("gone"))}
    cut_journal(config).write(gone["video_id"], gone["clip_id"], table([failed_cut], CUT))
    files = packed(cut_journal(config))
    for group in files:
        missing = MediaReader(config, files, []).missing(group, kept(clips))
        if group == gone["video_id"][:2]:
            clips = with_errors(clips, missing.filter(pc.equal(missing["clip_id"], gone["clip_id"])))
    write(config, clips)
    rows = {row["path"]: row for row in read(config, "clips").to_pylist()}
    assert {path: row["status"] for path, row in rows.items()} == {
        "a.mp4": KEPT,
        "b.webm": FAILED,
        "c.mp4": FAILED,
    }
    assert rows["b.webm"]["error_message"] == "gone"
    assert read(config, "media").num_rows == 1


def test_a_clip_that_could_not_be_scored_is_failed_with_its_place(config: CurateConfig):
    (planned,) = (row for row in joined(config).to_pylist() if row["path"] == "a.mp4")
    failed_record = failed_clip(planned, "score", ValueError("no luck"))
    score_journal(config).write(planned["video_id"], planned["clip_id"], failed_record)
    row = next(row for row in finished(config).to_pylist() if row["path"] == "a.mp4")
    assert (row["status"], row["error_stage"], row["start"]) == (FAILED, "score", planned["start"])


def test_a_plan_that_failed_for_good_is_a_row_of_its_own(config: CurateConfig):
    listed = read_part(config, listed_parts(config)[0]).to_pylist()
    row = next(row for row in listed if row["path"] == "a.mp4")
    video_id = Source(Folder(config.input), "a.mp4").id
    failed_plan = failed_video("a.mp4", "plan", RuntimeError("killed its worker"), video_id)
    plan_journal(config).write(video_id, video_key(row), failed_plan)
    rows = {row["path"]: row for row in finished(config).to_pylist()}
    assert rows["a.mp4"]["error_message"] == "killed its worker"


def made(count: int) -> pa.Table:
    """Kept rows of so many clips of made videos of five clips each, without records."""
    rows = [
        clip(content_id("clip", n), f"{n // 5}.mp4", status=KEPT, record=None, video=content_id(n // 5))
        for n in range(count)
    ]
    return pa.Table.from_pylist(rows, JOINED)


class NoMedia(MediaReader):
    """Gives each clip an empty video."""

    def shard(self, prefix: str, clip_ids: list[str]) -> pa.Table:
        row = {"media": b"", "media_start": 0.0, "seconds": 1.0, "rate": 30.0}
        return table([row | {"clip_id": clip_id} for clip_id in clip_ids], MEDIA)


def test_a_few_new_videos_touch_a_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(write_module, "MediaReader", NoMedia)
    config = CurateConfig(str(tmp_path / "videos"), str(tmp_path / "dataset"))
    first = write(config, made(2000))
    assert 8 <= len(first["clips"]) <= 16 and len(first["media"]) > 200
    second = write(config, made(2020))
    for name, most in (("clips", 4), ("media", 4)):
        assert len(second[name].keys() - first[name].keys()) <= most
    folder = Folder(config.output)
    assert read(config, "clips").num_rows == 2020
    assert sum(folder.read_table(name).num_rows for name in versions.files(folder, "clips", 1)) == 2000


@pytest.mark.parametrize(
    "names, prefix, found",
    [
        (["media/all-1.parquet"], "0a", [0]),
        (["media/0a-1.parquet", "media/0b-1.parquet", "media/b0-1.parquet"], "0b", [1]),
        (["media/0a-1.parquet", "media/0b-1.parquet", "media/b0-1.parquet"], "0", [0, 1]),
        (["media/0a-1.parquet", "media/0b-1.parquet", "media/b0-1.parquet"], "0b77", [1]),
        (["media/0a-1.parquet", "media/0b-1.parquet", "media/b0-1.parquet"], "", [0, 1, 2]),
        (["media/0a-1.parquet", "media/b0-1.parquet"], "c", []),
        ([], "0a", []),
    ],
)
def test_the_files_that_may_hold_ids_are_found_by_what_the_ids_begin_with(
    names: list[str], prefix: str, found: list[int]
):
    assert overlapping(names, prefix) == [names[number] for number in found]
