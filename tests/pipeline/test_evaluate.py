"""The evaluation of a folder: same rows after a kill, failures as rows, two ways to say what belongs together."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest

from pipeline.evaluate import run
from pipeline.evaluating.config import EvaluateConfig
from pipeline.evaluating.listing import list_subjects
from pipeline.evaluating.summary import write_summary
from pipeline.evaluating.worker import EVALUATED, failed_video, make_evaluator
from posegen.common.storage import Folder, StorageError
from posegen.driving.poses.runtime import CudaError
from posegen.video import probe, read_frames, save_video
from testkit import ROOT, onnx_models
from testkit.video_network import write_video_network

DANCE = ROOT / "serving/page/samples/dance.mp4"
FRAMES, STARTS = 18, (0, 24, 48)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three stretches of a video as if they had been made from their first pictures, and one file that is none."""
    folder = tmp_path_factory.mktemp("made")
    for number, start in enumerate(STARTS):
        frames = np.concatenate(list(read_frames(probe(DANCE), range(start, start + FRAMES))))
        save_video(frames, folder / f"{number}.mp4", 12.0)
        shutil.copyfile(folder / f"{number}.mp4", folder / f"{number}.driving.mp4")
        cv2.imwrite(str(folder / f"{number}.reference.png"), frames[0][..., ::-1])
    for name in ("broken.mp4", "broken.driving.mp4"):
        (folder / name).write_bytes(b"no video")
    shutil.copyfile(folder / "0.reference.png", folder / "broken.reference.png")
    return folder


def command(videos: Path, output: Path) -> list[str]:
    options = [
        "--input",
        str(videos),
        "--output",
        str(output),
        "--align",
        "none",
        "--segments",
        "13",
        "5",
        "4",
    ]
    return [sys.executable, "pipeline/evaluate.py", *options]


@pytest.mark.slow
def test_a_killed_job_goes_on_and_ends_with_the_same_rows(
    ray_cluster: str, videos: Path, tmp_path: Path
) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    config = EvaluateConfig(str(videos), str(calm), align="none", segments=(13, 5, 4), workers=1)
    assert run(config) == {"measured": 3, "failed": 1}
    environment = os.environ | {"RAY_ADDRESS": ray_cluster}
    job = subprocess.Popen([*command(videos, killed), "--workers", "1"], cwd=ROOT, env=environment)
    until(lambda: any(killed.glob("work/evaluated/**/*.parquet")))
    job.send_signal(signal.SIGKILL)
    job.wait()
    before = {path: path.stat().st_mtime_ns for path in killed.glob("work/evaluated/**/*.parquet")}
    assert not (killed / "measurements.parquet").exists(), "the job ended before it was killed"
    again = subprocess.run(
        command(videos, killed), cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())  # not measured again
    assert "frames/s" in again.stderr
    assert "3 measured, 1 failed" in again.stdout
    for name in ("measurements.parquet", "videos.parquet"):
        assert rows_of(killed / name) == rows_of(calm / name)
    rows = pq.read_table(killed / "videos.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["measured"] * 3 + ["failed"]
    assert rows[-1]["video"] == "broken.mp4" and rows[-1]["error_type"] == "VideoError"
    summary = (killed / "summary.md").read_text()
    assert "| oks_body | 3 |" in summary and "| seam_warp_middle | 3 |" in summary


def test_measurements_are_summed_up_over_the_videos(videos: Path, tmp_path: Path) -> None:
    """Without Ray: a still video, nothing of which changes inside segments, and one that cannot be read."""
    still = np.repeat(next(iter(read_frames(probe(DANCE), [0]))), FRAMES, axis=0)
    for name in ("still.mp4", "still.driving.mp4"):
        save_video(still, tmp_path / name, 12.0)
    shutil.copyfile(videos / "0.reference.png", tmp_path / "still.reference.png")
    config = EvaluateConfig(str(tmp_path), str(tmp_path), align="none", segments=(13, 5, 4))
    (row,) = list_subjects(config)
    record = make_evaluator(config)(row)
    assert record.schema.equals(EVALUATED)
    failed = failed_video(row | {"video": "broken.mp4"}, ValueError("it cannot be read"))
    assert write_summary(Folder(str(tmp_path)), [record, failed]) == {"measured": 1, "failed": 1}
    assert pq.read_table(tmp_path / "videos.parquet")["status"].to_pylist() == ["failed", "measured"]
    summary = (tmp_path / "summary.md").read_text()
    assert "| background_first | 1 | 0" in summary and "| seam_colour_begin | 1 |" in summary
    curve = next(line for line in summary.splitlines() if line.startswith("| background_first"))
    assert curve.endswith("|  |  |  |")  # too short for a slope, and for a last 10 s beside the first


def test_the_frechet_video_distance_is_over_all_videos_with_a_truth(videos: Path, tmp_path: Path) -> None:
    """Without Ray: two videos of one window each; one is its own truth, the other one's is darker."""
    for number in (0, 1):
        for name in (f"{number}.mp4", f"{number}.driving.mp4", f"{number}.reference.png"):
            shutil.copyfile(videos / name, tmp_path / name)
    shutil.copyfile(videos / "0.mp4", tmp_path / "0.truth.mp4")
    frames = np.concatenate(list(read_frames(probe(videos / "1.mp4"), range(FRAMES))))
    save_video(frames // 2, tmp_path / "1.truth.mp4", 12.0)
    network = write_video_network(tmp_path / "i3d_torchscript.pt")
    records = {}
    for fvd in (None, str(network)):
        config = EvaluateConfig(str(tmp_path), str(tmp_path), align="none", fvd=fvd)
        evaluate = make_evaluator(config)
        records[fvd] = [evaluate(row) for row in list_subjects(config)]
        write_summary(Folder(str(tmp_path)), records[fvd])
        said = "Fréchet video distance (I3D)" in (tmp_path / "summary.md").read_text()
        assert said == (fvd is not None)
    assert "over 2 windows of 16 frames" in (tmp_path / "summary.md").read_text()
    kept = pq.read_table(tmp_path / "measurements.parquet")
    assert "features" not in kept.column_names
    write_summary(Folder(str(tmp_path)), records[str(network)][:1])
    assert "was not measured: it needs two windows" in (tmp_path / "summary.md").read_text()
    assert kept.num_rows == sum(record.num_rows for record in records[None])


def rows_of(table: Path) -> list[str]:
    """The rows of a Parquet file as text, in which NaN is the same as NaN."""
    return [repr(row) for row in pq.read_table(table).to_pylist()]


def until(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_table_says_what_belongs_together_as_names_do(videos: Path, tmp_path: Path) -> None:
    by_name = list_subjects(EvaluateConfig(str(videos), str(tmp_path)))
    assert [row["video"] for row in by_name] == ["0.mp4", "1.mp4", "2.mp4", "broken.mp4"]
    table = tmp_path / "videos"
    shutil.copytree(videos, table)
    (table / "rows.csv").write_text("video,reference,driving\n1.mp4,0.reference.png,2.driving.mp4\n")
    (row,) = list_subjects(EvaluateConfig(str(table), str(tmp_path), rows="rows.csv"))
    assert (row["video"], row["reference"], row["driving"]) == ("1.mp4", "0.reference.png", "2.driving.mp4")
    assert row["truth"] is None


def test_other_settings_are_another_evaluation(videos: Path, tmp_path: Path) -> None:
    keys = {
        list_subjects(EvaluateConfig(str(videos), str(tmp_path), align=align))[0]["key"]
        for align in ("none", "reference")
    }
    assert len(keys) == 2


def test_what_is_missing_is_said_in_a_sentence(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no video with its picture"):
        list_subjects(EvaluateConfig(str(tmp_path), str(tmp_path)))
    with pytest.raises(StorageError, match="does not exist"):
        list_subjects(EvaluateConfig(str(tmp_path / "nowhere"), str(tmp_path)))
    for text, sentence in (
        ("video,reference\n", "no column driving"),
        ("video,reference,driving\na,b,c\n", "a, which"),
    ):
        (tmp_path / "rows.csv").write_text(text)
        with pytest.raises(StorageError, match=sentence):
            list_subjects(EvaluateConfig(str(tmp_path), str(tmp_path), rows="rows.csv"))


def test_a_gpu_that_was_asked_for_is_used_or_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_models.heatmaps(tmp_path / "sapiens_pose.onnx", [onnx_models.GREEN] * 133)
    config = EvaluateConfig("in", "out", judge="sapiens", judge_weights=str(tmp_path), gpus_per_worker=0.5)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(CudaError, match="install onnxruntime-gpu"):
        make_evaluator(config)
