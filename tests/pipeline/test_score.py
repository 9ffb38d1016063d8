"""A clip of anything gets one record: scores of what could be measured, the same bytes each time."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import CurateConfig
from pipeline.plan.planner import make_planner
from pipeline.plan.source import Source
from pipeline.sample_videos import SAMPLES
from pipeline.score.scorer import ANALYSIS_SIDE, SCORED, analysis_size, make_scorer
from pipeline.verdict import load_thresholds
from pipeline.workers import cut_record
from posegen.common.storage import Folder
from posegen.common.weights import wheel_file
from posegen.dataset import unpack_keypoints
from posegen.driving.skeleton import BODY
from posegen.video import probe, read_frames, sample_indices, save_video
from testkit.onnx_models import explicit
from testkit.videos import numbered_picture, write_video

Scorer = Callable[[Mapping[str, Any]], pa.Table]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A man who talks in a car, 176 x 144; numbers on plain ground."""
    folder = tmp_path_factory.mktemp("videos")
    shutil.copyfile(wheel_file(*SAMPLES["talk.mp4"]), folder / "talk.mp4")
    write_video(folder / "numbers.mp4", range(60))
    return folder


def scorer(folder: Path, **settings: Any) -> Scorer:
    """A function from a clip of a file in the folder to its record."""
    score = make_scorer(CurateConfig(str(folder), "nowhere", **settings))
    return lambda clip: score(clip, Source(Folder(str(folder)), clip["path"]))


@pytest.fixture(scope="module")
def score(folder: Path) -> Scorer:
    return scorer(folder)


@pytest.fixture(scope="module")
def upright(folder: Path) -> Scorer:
    return scorer(folder, tilted="turn")


def clip(path: str, start: float, stop: float, rate: float = 30.0) -> dict[str, Any]:
    return {"clip_id": "c1", "path": path, "start": start, "stop": stop, "rate": rate}


@pytest.fixture(scope="module")
def talk(score: Scorer) -> dict[str, Any]:
    return score(clip("talk.mp4", 0, 2)).to_pylist()[0]


def test_a_man_who_talks_is_one_human_being_well_seen(talk: dict[str, Any]):
    assert talk["error_stage"] is None
    assert (talk["seconds"], talk["frames"]) == (2, 60)
    assert (talk["one_person"], talk["second_person"], talk["head_visible"]) == (1, 0, 1)
    assert talk["human_evidence"] > 0.9
    assert abs(talk["face_oddity"]) < 1.8
    assert 0.5 < talk["person_height"] <= 1.1 and 0.2 < talk["face_size"] < 0.8
    assert talk["caption"] and talk["subject"] in talk["caption"] and talk["caption_source"] == "composed"
    assert [len(text) for text in talk["perceptual_hashes"]] == [16] * 3


def test_keypoints_are_in_pixels_of_the_video(talk: dict[str, Any]):
    keypoints = unpack_keypoints(talk)
    assert keypoints.shape == (60, 133, 3)
    x, y, confidence = keypoints[:, 0].T  # the nose
    assert ((x > 44) & (x < 132) & (y > 36) & (y < 108)).all() and (confidence > 0.5).all()


def test_keypoints_of_a_large_video_are_in_its_own_pixels(score: Scorer, folder: Path, talk: dict[str, Any]):
    (frames,) = read_frames(probe(folder / "talk.mp4"), range(3), (1440, 1080))
    save_video(frames, folder / "large.mp4", 30)
    (row,) = score(clip("large.mp4", 0, 0.1)).to_pylist()
    scale = 1080 / probe(folder / "talk.mp4").height
    nose, smaller = unpack_keypoints(row)[:, 0, :2], unpack_keypoints(talk)[:3, 0, :2]
    np.testing.assert_allclose(nose / scale, smaller, atol=8)  # the estimator sees more detail


def test_the_source_is_told(talk: dict[str, Any], folder: Path):
    info = probe(folder / "talk.mp4")
    assert (talk["source_rate"], talk["source_side"]) == (
        pytest.approx(info.rate),
        min(info.width, info.height),
    )
    kilobits = (folder / "talk.mp4").stat().st_size / 125
    assert talk["source_bit_rate"] == pytest.approx(kilobits / info.duration, rel=1e-3)


def test_the_preview_is_the_middle_frame(talk: dict[str, Any], folder: Path):
    picture = cv2.imdecode(np.frombuffer(talk["preview"], np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.shape == (240, 320, 3)
    assert talk["preview_frame"] == 30
    (frames,) = read_frames(probe(folder / "talk.mp4"), range(60), (320, 240), chunk=60)
    assert int(np.argmin(np.abs(frames - picture[..., ::-1].astype(float)).mean((1, 2, 3)))) == 30


def test_seconds_are_told_by_what_took_them(talk: dict[str, Any]):
    seconds = {spent["step"]: spent["seconds"] for spent in talk["cpu_seconds"]}
    assert {"all", "decode", "model", "pose", "evidence", "quality"} <= seconds.keys()
    assert seconds["decode"] + seconds["model"] <= seconds["all"]


def test_a_picture_of_no_one_is_measured_all_the_same(score: Scorer):
    table = score(clip("numbers.mp4", 0, 2))
    assert table.schema.equals(SCORED)
    (row,) = table.to_pylist()
    assert row["error_stage"] is None
    assert (row["one_person"], row["frames"]) == (0, 60)
    measured = {
        "brightness",
        "repeated_frames",
        "still_seconds",
        "text_area",
        "preview",
        "perceptual_hashes",
    }
    assert not [name for name in measured if row[name] is None]
    person = {
        "second_person",
        "human_evidence",
        "head_visible",
        "face_oddity",
        "pose_jitter",
        "person_height",
        "caption",
        "caption_source",
        "subject",
        "framing",
        "motion",
    }
    assert not [name for name in person if row[name] is not None]
    keypoints = unpack_keypoints(row)
    assert keypoints.shape == (60, 133, 3) and np.isnan(keypoints).all()


def test_a_second_person_is_on_the_preview(score: Scorer, folder: Path, talk: dict[str, Any]):
    assert talk["second_person_box"] is None
    (frames,) = read_frames(probe(folder / "talk.mp4"), range(30))
    save_video(np.concatenate([frames, frames[:, :, ::-1]], axis=2), folder / "two.mp4", 30)
    (row,) = score(clip("two.mp4", 0, 1)).to_pylist()
    assert row["second_person"] > 0.1
    x0, y0, x1, y1 = row["second_person_box"]
    assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    x = unpack_keypoints(row)[row["preview_frame"], 0, 0] / (2 * 176)
    assert not x0 < x < x1  # the other one


def test_explicit_content_is_measured_by_the_file_that_was_given_and_by_none_without(
    score: Scorer, folder: Path, tmp_path: Path
):
    path = explicit(tmp_path / "own.onnx")
    given = scorer(folder, explicit_detector=str(path))
    assert 0 < given(clip("numbers.mp4", 0, 0.1))["unsafe"][0].as_py() < 1
    assert score(clip("numbers.mp4", 0, 0.1))["unsafe"][0].as_py() is None


def test_the_same_clip_gives_the_same_record_whatever_came_before(
    score: Scorer, folder: Path, talk: dict[str, Any]
):
    score(clip("talk.mp4", 2, 2.5))  # leaves a track of the man where he is not yet
    again = score(clip("talk.mp4", 0, 2)).to_pylist()[0]
    anew = scorer(folder)(clip("talk.mp4", 0, 2)).to_pylist()[0]
    for row in (again, anew):
        assert row | {"cpu_seconds": None} == talk | {"cpu_seconds": None}


def test_a_clip_from_within_starts_there(score: Scorer, talk: dict[str, Any]):
    (row,) = score(clip("talk.mp4", 1, 2)).to_pylist()
    np.testing.assert_allclose(unpack_keypoints(row)[:, 0], unpack_keypoints(talk)[30:, 0], atol=4)


def test_a_lower_rate_takes_fewer_frames_and_a_higher_one_repeats_them(score: Scorer):
    (half,), (twice,) = (score(clip("talk.mp4", 0, 0.5, rate)).to_pylist() for rate in (15, 60))
    assert (half["keypoints_shape"], twice["keypoints_shape"]) == ([8, 133, 3], [30, 133, 3])
    keypoints = unpack_keypoints(twice)
    np.testing.assert_array_equal(keypoints[::2], keypoints[1::2])


def test_a_file_that_cannot_be_read_is_a_record_that_says_so(folder: Path):
    shutil.copyfile(folder / "numbers.mp4", folder / "damaged.mp4")
    source = Source(Folder(str(folder)), "damaged.mp4")
    assert source.info.duration == 2  # known before it is damaged
    content = bytearray((folder / "damaged.mp4").read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    (folder / "damaged.mp4").write_bytes(content)
    score = make_scorer(CurateConfig(str(folder), "nowhere"))
    (row,) = score(clip("damaged.mp4", 0, 1), source).to_pylist()
    assert (row["error_stage"], row["clip_id"], row["one_person"]) == ("read", "c1", None)
    assert "damaged.mp4" in row["error_message"] and str(folder) not in row["error_message"]


def test_what_is_planned_can_be_scored(score: Scorer, folder: Path):
    plan = make_planner(CurateConfig(str(folder), "nowhere", shots="adaptive"))
    planned = plan(Source(Folder(str(folder)), "talk.mp4")).to_pylist()
    assert planned[-1]["stop"] == pytest.approx(probe(folder / "talk.mp4").duration)
    last = planned[-1] | {"start": planned[-1]["stop"] - 0.5}
    assert score(last)["error_stage"][0].as_py() is None


def large(number: int) -> np.ndarray:
    return numbered_picture(number).repeat(2, axis=0).repeat(2, axis=1)


def test_memory_does_not_grow_with_the_clip(score: Scorer, folder: Path):
    write_video(folder / "long.mp4", range(180), picture=large)

    def peak(stop: float) -> float:
        """MB at most taken while scoring."""
        tracemalloc.start()
        score(clip("long.mp4", 0, stop))
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return taken / 2**20

    peak(1)
    assert peak(6) - peak(2.2) < 2  # though 114 frames more take 20 MB


def test_large_frames_are_measured_at_a_bounded_size(folder: Path):
    info = probe(folder / "talk.mp4")
    sizes = {(176, 144): (176, 144), (1920, 1080): (1280, 720), (2160, 3840): (720, 1280)}
    for (width, height), size in sizes.items():
        object.__setattr__(info, "width", width)
        object.__setattr__(info, "height", height)
        assert analysis_size(info) == size and min(size) <= ANALYSIS_SIDE


def walk(folder: Path, turns: int) -> dict[str, Any]:
    """A clip of a woman who walks, filmed turned by so many quarters to the left."""
    (frames,) = read_frames(probe(wheel_file(*SAMPLES["walk.mp4"])), range(0, 60, 2), (960, 540), chunk=60)
    save_video(np.ascontiguousarray(np.rot90(frames, turns, (1, 2))), folder / f"walk{turns}.mp4", 15)
    return clip(f"walk{turns}.mp4", 0, 2)


@pytest.mark.parametrize(("turns", "angle"), [(1, 90), (2, 180)])
def test_a_person_filmed_sideways_or_upside_down_is_rejected_as_such(
    score: Scorer, folder: Path, turns: int, angle: float
):
    (row,) = score(walk(folder, turns)).to_pylist()
    assert row["tilt"] == pytest.approx(angle, abs=25) and row["turned"] is None
    assert [reason for reason in load_thresholds().reasons(row) if reason.startswith("tilt: ")]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_person_filmed_sideways_or_upside_down_is_turned_where_asked(
    upright: Scorer, folder: Path, turns: int
):
    filmed = walk(folder, turns)
    (row,) = upright(filmed).to_pylist()
    assert (row["turned"] or 0, row["error_stage"]) == (90 * turns, None)
    assert row["tilt"] < 25
    (as_usual,) = upright(walk(folder, 0)).to_pylist()
    distances = np.linalg.norm((unpack_keypoints(row) - unpack_keypoints(as_usual))[:, BODY, :2], axis=-1)
    assert np.nanmedian(distances) < 4  # of 960 x 540 pixels; the files are encoded each on its own
    cut_out = cut_record(filmed | {"turned": row["turned"]}, probe(folder / filmed["path"]))
    (folder / "cut.mp4").write_bytes(cut_out["media"][0].as_py())
    ours, usual = (
        np.concatenate([*read_frames(info, sample_indices(info, 0, 2, 1))])
        for info in (probe(folder / "cut.mp4"), probe(folder / "walk0.mp4"))
    )
    assert np.abs(ours.astype(int) - usual).mean() < 3
