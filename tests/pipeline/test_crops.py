"""A clip of two people gives a clip of each, of one person throughout; the job loses none and does nothing twice.

One cluster serves the module. The folder holds two made videos of two people and a copy of one; the claims below are
about that folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.config import CurateConfig
from pipeline.crop.cropper import CROPPED, failed_crops, make_cropper, score_crop, worth_cropping, write_crop
from pipeline.curate import run
from pipeline.feeds import listed_videos
from pipeline.groups import Groups
from pipeline.journals import crop_journal, score_journal
from pipeline.plan.planner import PLAN
from pipeline.plan.source import Source
from pipeline.score.scorer import make_scorer
from pipeline.tables.join import JOINED, with_crops
from pipeline.tables.verdicts import duplicates, judge
from pipeline.verdict import Rule, Thresholds, load_thresholds
from posegen.common.storage import Folder
from posegen.dataset import FAILED, KEPT, REJECTED, table, unpack_keypoints
from posegen.driving.poses import load_estimator
from posegen.video import probe, read_frames
from testkit.two_people import write_talkers, write_walker
from testkit.videos import WIDTH, write_video

RULES = Thresholds((Rule("blur", max=0.5),), near_duplicate_bits=4)
DROPPED = ("source_side", "hand_confidence", "human_evidence")
"""Rules left out: the videos are small, the hands of one man are seen for a moment, the other's face hardly at all."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_talkers(folder / "talkers.mp4")
    shutil.copyfile(folder / "talkers.mp4", folder / "zz.mp4")
    write_walker(folder / "walker.mp4")
    return folder


def without(folder: Path, *rules: str) -> Path:
    """The usual thresholds without these rules."""
    path = folder / f"without {len(rules)}.yaml"
    path.write_text(yaml.safe_dump(dict.fromkeys(rules)))
    return path


def settings(videos: Path, output: Path, **how: Any) -> CurateConfig:
    usual: dict[str, Any] = {"thresholds": without(videos.parent, *DROPPED), "people": "crop"}
    return CurateConfig(str(videos), str(output), **usual | how)


@pytest.fixture(scope="module")
def dataset(ray_cluster: str, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run makes of the folder."""
    output = tmp_path_factory.mktemp("cropped")
    run(settings(videos, output))
    return output


def rows(output: Path) -> list[dict[str, Any]]:
    return pq.read_table(output / "clips").drop_columns(["cpu_seconds"]).to_pylist()


def crops_of(output: Path, path: str) -> list[dict[str, Any]]:
    """The crops of a file, from left to right."""
    found = [row for row in rows(output) if row["path"] == path and row["cropped_from"]]
    return sorted(found, key=lambda row: row["crop_x"][0])


@pytest.mark.long
def test_each_of_two_people_is_a_clip_and_the_source_says_so(dataset: Path) -> None:
    for path in ("talkers.mp4", "walker.mp4"):
        (source,) = [row for row in rows(dataset) if row["path"] == path and not row["cropped_from"]]
        assert source["status"] == REJECTED
        crops = crops_of(dataset, path)
        assert [crop["status"] for crop in crops] == [KEPT, KEPT]
        assert {crop["cropped_from"] for crop in crops} == {source["clip_id"]}
        assert len({crop["clip_id"] for crop in crops} | {source["clip_id"]}) == 3
        for crop in crops:
            assert any(crop["clip_id"] in said for said in source["crops"])
            assert source["start"] <= crop["start"] < crop["stop"] <= source["stop"]
            assert crop["source_rate"] == pytest.approx(30) and crop["source_side"] == min(
                crop["width"], crop["height"]
            )
    copies = [row for row in rows(dataset) if row["path"] == "zz.mp4"]
    assert len(copies) == 3
    assert {row["reasons"][0].split(":")[0] for row in copies} == {"duplicate_file"}


@pytest.mark.long
def test_the_crops_hold_one_person_throughout(dataset: Path, tmp_path: Path) -> None:
    media = {row["clip_id"]: row for row in pq.read_table(dataset / "media").to_pylist()}
    crops = [row for row in rows(dataset) if row["status"] == KEPT]
    assert len(crops) == 4 and media.keys() == {row["clip_id"] for row in crops}
    for row in crops:
        video = tmp_path / "crop.mp4"
        video.write_bytes(media[row["clip_id"]]["media"])
        info = probe(video)
        keypoints = unpack_keypoints(row)
        assert (info.width, info.height) == (row["width"], row["height"])
        assert len(info.frame_times) == len(keypoints) == len(row["crop_x"]) == len(row["crop_y"])
        places = keypoints[..., :2]
        inside = np.all((places >= 0) & (places < (row["width"], row["height"])), axis=-1)
        assert (keypoints[~inside, 2] == 0).all() and inside[:, 0].mean() > 0.95  # the nose
        assert np.abs(np.diff(row["crop_x"], 2)).max() <= 4  # no jerk: 2 are whole pixels
        estimator = load_estimator("blazepose", max_people=3, whole=0, search=5)
        found = [
            people for frames in read_frames(info, range(len(keypoints))) for people in estimator(frames)
        ]
        assert np.mean([len(people) == 1 for people in found]) > 0.97


@pytest.mark.long
def test_a_walker_is_followed(dataset: Path) -> None:
    walker, balance = crops_of(dataset, "walker.mp4")
    assert np.ptp(walker["crop_x"]) > 300 and np.ptp(balance["crop_x"]) == 0
    middle = unpack_keypoints(walker)[:, :17, 0].mean(axis=1)
    assert ((middle > 0.05 * walker["width"]) & (middle < 0.95 * walker["width"])).all()


@pytest.mark.long
def test_a_rerun_crops_nothing_again_and_a_lost_score_is_made_again(dataset: Path, videos: Path) -> None:
    config, before = settings(videos, dataset), rows(dataset)
    groups = Groups(config, listed_videos(config))
    groups.join()
    assert not groups.uncropped(load_thresholds(config.thresholds), False, None)
    assert not groups.unscored(False, None)
    lost = crops_of(dataset, "walker.mp4")[0]["clip_id"]
    journal = score_journal(config)
    for files in journal.files().values():
        for name in files.packed:
            kept = journal.folder.read_table(name)
            kept = kept.filter([key != lost for key in kept["key"].to_pylist()])
            journal.folder.write_table(name, kept)
    run(config)
    assert rows(dataset) == before


@pytest.mark.long
def test_without_crops_the_same_scores_give_the_usual_rows(dataset: Path, videos: Path) -> None:
    run(settings(videos, dataset, people="one", rescore=True))
    usual = rows(dataset)
    assert len(usual) == 3 and not any(row["cropped_from"] or row["crops"] for row in usual)
    run(settings(videos, dataset, rescore=True))
    assert len(rows(dataset)) == 9


@pytest.mark.long
def test_a_clip_that_is_kept_whole_needs_no_crops(dataset: Path, videos: Path, tmp_path: Path) -> None:
    lenient = without(tmp_path, *DROPPED, "one_person", "second_person")
    run(settings(videos, dataset, rescore=True, thresholds=lenient))
    status = {(row["path"], row["cropped_from"] is None): row["status"] for row in rows(dataset)}
    assert status[("talkers.mp4", True)] == KEPT and status[("talkers.mp4", False)] == REJECTED
    reasons = {row["reasons"][0].split(":")[0] for row in crops_of(dataset, "talkers.mp4")}
    assert reasons == {"cropped_from"}


@pytest.mark.long
def test_the_report_shows_what_became_of_each_person(dataset: Path) -> None:
    text = (dataset / "report.html").read_text()
    assert "of them cropped out of others" in text and "cropped out as clip" in text


def test_a_crop_is_the_very_part_of_the_picture(tmp_path: Path) -> None:
    info = probe(write_video(tmp_path / "a.mp4", range(40)))
    corners = np.arange(30) % 7 * 2
    clip = {"start": 5 / 30, "stop": 35 / 30, "rate": 30.0, "width": 100, "height": 60}
    write_crop(info, clip | {"crop_x": corners.tolist(), "crop_y": corners.tolist()}, tmp_path / "crop.mp4")
    whole = np.concatenate(list(read_frames(info, range(5, 35))))
    part = np.concatenate(list(read_frames(probe(tmp_path / "crop.mp4"), range(30))))
    assert part.shape == (30, 60, 100, 3)
    for frame, own, corner in zip(whole, part, corners.tolist(), strict=True):
        expected = frame[corner : corner + 60, corner : corner + 100]
        assert cv2.PSNR(expected, own) > 30
    assert 100 + corners.max() < WIDTH


def test_a_clip_without_two_people_says_so_and_one_that_cannot_be_read_too(tmp_path: Path) -> None:
    write_video(tmp_path / "nobody.mp4", range(90))
    (tmp_path / "text.mp4").write_text("no video")
    crop = make_cropper(CurateConfig(str(tmp_path), "nowhere"))
    for name, said in (("nobody.mp4", "0 people at once"), ("text.mp4", "could not be cropped: text.mp4")):
        clip = {"clip_id": "c", "path": name, "start": 0.0, "stop": 3.0, "rate": 30.0}
        (row,) = crop(clip, Source(Folder(str(tmp_path)), name)).to_pylist()
        assert row["said"].startswith(said) and row["clip_id"] is None
        assert (row["error_stage"] == "crop") == (name == "text.mp4")
    clip |= {"crop_x": [0], "crop_y": [0], "width": 64, "height": 64, "cropped_from": "d"}
    score = make_scorer(CurateConfig(str(tmp_path), "nowhere"))
    (row,) = score_crop(score, clip, Source(Folder(str(tmp_path)), "text.mp4")).to_pylist()
    assert row["error_stage"] == "read" and "text.mp4" in row["error_message"]


def test_only_clips_rejected_for_their_people_are_cropped() -> None:
    assert worth_cropping(["second_person: 0.3 is above 0.05", "human_evidence: 0.2 is below 0.5"])
    assert worth_cropping(["one_person: 0.4 is below 0.975", "text_area: 0.3 is above 0.1"])
    assert not worth_cropping(["second_person: 0.3 is above 0.05", "distinct_rate: 2 is below 9"])
    assert not worth_cropping(["blur: 0.9 is above 0.7"]) and not worth_cropping([])


def test_copies_of_a_file_have_their_crops_each() -> None:
    clips: list[dict[str, Any]] = [
        {"clip_id": "clip", "video_id": "v", "path": path, "rate": 30.0} for path in ("a.mp4", "b.mp4")
    ]
    others: list[dict[str, Any]] = [{"clip_id": "other", "video_id": "v", "path": "a.mp4", "rate": 30.0}]
    plan = table(clips + others, PLAN)
    for name, values in (("video", ["v"] * 3), ("key", ["ka", "kb", "ka"])):
        plan = plan.append_column(name, [values])
    crop = {"clip_id": "crop", "video_id": "v", "cropped_from": "clip", "crop_x": [1], "crop_y": [2]}
    crops = table([crop | {"said": "cropped out"}, {"said": "nowhere alone"}], CROPPED)
    crops = crops.append_column("key", [["clip", "clip"]])
    found = with_crops(plan, crops).to_pylist()
    assert len(found) == 5
    assert {(row["path"], row["key"]) for row in found if row["clip_id"] == "crop"} == {
        ("a.mp4", "ka"),
        ("b.mp4", "kb"),
    }
    assert [row["crops"] for row in found if row["clip_id"] == "clip"] == [
        ["cropped out", "nowhere alone"]
    ] * 2
    assert with_crops(plan, crops.slice(0, 0)).num_rows == 3


def row_of(clip_id: str, **columns: Any) -> dict[str, Any]:
    blank = dict.fromkeys(JOINED.names) | {"status": FAILED, "reasons": [], "path": "a.mp4", "video": "v"}
    return blank | {"clip_id": clip_id, "perceptual_hashes": ["00000000000000ff"] * 3, "blur": 0.1} | columns


def test_two_crops_of_one_clip_are_no_duplicates_of_each_other() -> None:
    size = {"width": 9, "height": 9}
    clips = [row_of(id_, cropped_from=source, **size) for id_, source in (("a", "s"), ("b", "s"), ("c", "t"))]
    assert duplicates(pa.Table.from_pylist(clips, JOINED), RULES) == {"c": "a"}


def test_a_failed_search_is_a_record_of_one_row() -> None:
    (row,) = failed_crops(ValueError("broken")).to_pylist()
    assert row["said"] == "could not be cropped: broken" and row["error_type"] == "ValueError"
    assert crop_journal(CurateConfig("in", "out")).kind.startswith("crops-")


def test_a_crop_of_a_clip_that_passes_is_rejected() -> None:
    clips = [row_of("whole"), row_of("crop", cropped_from="whole")]
    found = {row["clip_id"]: row for row in judge(pa.Table.from_pylist(clips, JOINED), RULES).to_pylist()}
    assert found["whole"]["status"] == KEPT
    assert found["crop"]["reasons"] == ["cropped_from: clip whole is kept whole"]
