"""Each trainer's layout holds every kept clip: its very frames, its caption, and a pose for each frame."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import pytest

from pipeline.export import ExportConfig, ExportError, Layout, export
from posegen.common.storage import Folder
from posegen.dataset import CLIPS, REJECTED, unpack_keypoints
from posegen.video import probe
from testkit import ROOT
from testkit.puppet_tables import Rows, puppet_rows, write_tables

FRAMES = 13


@pytest.fixture(scope="module")
def rows() -> list[Rows]:
    """Two kept clips, one that is rejected, and one whose video is broken."""
    made = [puppet_rows(seed, FRAMES) for seed in range(4)]
    made[2][0]["status"] = REJECTED
    made[3][1]["media"] = b"this is no video"
    return made


@pytest.fixture(scope="module")
def dataset(rows: list[Rows], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_tables(folder, rows)
    return folder


def exported(dataset: Path, output: Path, layout: Layout) -> Path:
    assert export(ExportConfig(str(dataset), str(output), layout)) == 2
    return output


def check(rows: list[Rows], number: int, video: Path, poses: np.ndarray) -> None:
    """A file shows all of a clip and nothing else, and its poses are the clip's."""
    info = probe(video)
    assert len(info.frame_times) == len(poses) == FRAMES and info.rate == pytest.approx(12)
    np.testing.assert_array_equal(poses, unpack_keypoints(rows[number][0]))


def test_webdataset(
    dataset: Path, rows: list[Rows], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = exported(dataset, tmp_path / "out", "webdataset")
    assert "clip-003 was left out" in capsys.readouterr().err
    with tarfile.open(output / "clips-000000.tar") as tar:
        names = tar.getnames()
        content = {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    kinds = ("mp4", "txt", "json", "poses.npy")
    assert names == [f"clip-{number:03}.{kind}" for number in range(2) for kind in kinds]
    for number in range(2):
        (tmp_path / "clip.mp4").write_bytes(content[f"clip-{number:03}.mp4"])
        poses = np.load(io.BytesIO(content[f"clip-{number:03}.poses.npy"]))
        check(rows, number, tmp_path / "clip.mp4", poses)
        assert content[f"clip-{number:03}.txt"].decode() == rows[number][0]["caption"]


def test_diffsynth(dataset: Path, rows: list[Rows], tmp_path: Path) -> None:
    output = exported(dataset, tmp_path, "diffsynth")
    listed = list(csv.DictReader((output / "metadata.csv").open()))
    assert [row["prompt"] for row in listed] == [rows[number][0]["caption"] for number in range(2)]
    for number, row in enumerate(listed):
        check(rows, number, output / row["video"], np.load(output / f"poses/clip-{number:03}.npy"))
        control, video = probe(output / row["control_video"]), probe(output / row["video"])
        assert (control.width, control.height, len(control.frame_times)) == (
            video.width,
            video.height,
            FRAMES,
        )


@pytest.mark.parametrize("layout", ["musubi", "diffusion-pipe"])
def test_captions_beside_videos(layout: Layout, dataset: Path, rows: list[Rows], tmp_path: Path) -> None:
    output = exported(dataset, tmp_path, layout)
    config = tomllib.loads((output / "dataset.toml").read_text())
    if layout == "musubi":
        (part,) = config["datasets"]
        videos = Path(part["video_directory"])
        assert sorted(path.name for path in Path(part["control_directory"]).iterdir()) == sorted(
            path.name for path in videos.glob("*.mp4")
        )
    else:
        videos = Path(config["directory"][0]["path"])
    for number in range(2):
        video = videos / f"clip-{number:03}.mp4"
        check(rows, number, video, np.load(output / f"poses/clip-{number:03}.npy"))
        assert video.with_suffix(".txt").read_text() == rows[number][0]["caption"]


def test_finetrainers(dataset: Path, rows: list[Rows], tmp_path: Path) -> None:
    output = exported(dataset, tmp_path, "finetrainers")
    videos, prompts = ((output / name).read_text().splitlines() for name in ("videos.txt", "prompt.txt"))
    assert prompts == [rows[number][0]["caption"] for number in range(2)]
    for number, video in enumerate(videos):
        check(rows, number, output / video, np.load(output / f"poses/clip-{number:03}.npy"))


def test_nothing_kept_is_said_in_a_sentence(tmp_path: Path) -> None:
    Folder(str(tmp_path)).write_table("clips/a.parquet", CLIPS.empty_table())
    command = [
        sys.executable,
        "pipeline/export.py",
        "--dataset",
        str(tmp_path),
        "--output",
        str(tmp_path / "out"),
    ]
    done = subprocess.run([*command, "--to", "finetrainers"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "holds no kept clip" in done.stderr
    with pytest.raises(ExportError):
        export(ExportConfig(str(tmp_path), str(tmp_path / "out"), "webdataset"))
