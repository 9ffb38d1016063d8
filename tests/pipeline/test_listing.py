"""The listing holds every file that could be video, in memory that does not grow with their number."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import CurateConfig
from pipeline.plan import listing
from pipeline.plan.listing import LISTED, list_videos, listed_parts, may_be_video, read_part
from pipeline.plan.planner import make_planner
from pipeline.plan.source import Source
from posegen.common.storage import Folder, StorageError

NOBODY = 65534


@pytest.fixture
def config(tmp_path: Path) -> CurateConfig:
    (tmp_path / "videos").mkdir()
    return CurateConfig(str(tmp_path / "videos"), str(tmp_path / "dataset"))


def fill(config: CurateConfig, *names: str) -> None:
    for name in names:
        Folder(config.input).write(name, b"12345")


def listed(config: CurateConfig) -> list[str]:
    return sorted(
        name for part in listed_parts(config) for name in read_part(config, part)["path"].to_pylist()
    )


def test_every_file_that_could_be_video_is_listed(config: CurateConfig):
    fill(config, "a.mp4", "below/deep/b c.mov", "below/without suffix", "ü.webm")
    stage = list_videos(config)
    assert listed(config) == ["a.mp4", "below/deep/b c.mov", "below/without suffix", "ü.webm"]
    assert (stage.name, stage.things, stage.unit) == ("list", 4, "files")


def test_a_row_says_size_and_time_of_change(config: CurateConfig):
    fill(config, "a.mp4")
    os.utime(Path(config.input) / "a.mp4", ns=(0, 1_700_000_000_123_456_789))
    list_videos(config)
    table = read_part(config, listed_parts(config)[0])
    assert table.schema == LISTED
    assert table.to_pylist() == [{"path": "a.mp4", "bytes": 5, "changed": 1_700_000_000_123_456_789}]


def test_files_beside_the_videos_are_left_out_and_counted(
    config: CurateConfig, capsys: pytest.CaptureFixture[str]
):
    fill(config, "a.mp4", "a.json", "b.json", "cover.JPG", ".hidden.mp4", ".cache/b.mp4")
    (Path(config.input) / os.fsdecode(b"caf\xe9.mp4")).touch()
    list_videos(config)
    assert listed(config) == ["a.mp4"]
    assert (
        "left out 6 files that are no video by their name (3 .mp4, 2 .json, 1 .jpg)"
        in capsys.readouterr().err
    )


def test_a_bucket_is_listed_like_a_folder(tmp_path: Path, bucket: str):
    config = CurateConfig(f"{bucket}/videos", f"{bucket}/dataset")
    fill(config, "a.mp4", "below/b c.mp4", "below/notes.txt")
    list_videos(config)
    assert listed(config) == ["a.mp4", "below/b c.mp4"]


def test_a_shorter_listing_leaves_nothing_of_a_longer_one(
    config: CurateConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(listing, "PART", 2)
    fill(config, *(f"{number}.mp4" for number in range(5)))
    list_videos(config)
    assert len(listed_parts(config)) == 3
    for number in range(3):
        (Path(config.input) / f"{number}.mp4").unlink()
    list_videos(config)
    assert listed(config) == ["3.mp4", "4.mp4"]
    assert len(listed_parts(config)) == 1


def test_linked_files_and_folders_are_listed_once(config: CurateConfig, capsys: pytest.CaptureFixture[str]):
    fill(config, "own/a.mp4", "new\nline <b>&'.mp4", "x.mp4/q? #1 50%.mp4")
    elsewhere = Path(config.input).parent / "elsewhere"
    Folder(str(elsewhere)).write("week/b.mp4", b"12345")
    for name, target in {
        "week": elsewhere / "week",
        "week again": elsewhere / "week",
        "file.mp4": elsewhere / "week" / "b.mp4",
        "own/circle": Path(config.input),
        "gone.mp4": elsewhere / "gone.mp4",
        "itself.mp4": Path(config.input) / "itself.mp4",
    }.items():
        (Path(config.input) / name).symlink_to(target)
    list_videos(config)
    assert listed(config) == [
        *("file.mp4", "new\nline <b>&'.mp4", "own/a.mp4", "week/b.mp4", "x.mp4/q? #1 50%.mp4"),
    ]
    said = capsys.readouterr().err
    assert "left out links that lead nowhere: 2 ('gone.mp4', 'itself.mp4')" in said
    assert "left out links to folders that are listed already: 2 ('own/circle', 'week again')" in said


def test_folders_that_link_to_one_another_are_listed_once(config: CurateConfig):
    fill(config, *(f"{number}/a.mp4" for number in range(12)))
    for one in range(12):
        for other in range(12):
            (Path(config.input) / str(one) / f"to {other}").symlink_to(Path(config.input) / str(other))
    assert list_videos(config).things == 12


def test_what_may_not_be_read_does_not_end_the_listing(
    unprivileged: Path, capsys: pytest.CaptureFixture[str]
):
    config = CurateConfig(str(unprivileged / "videos"), str(unprivileged / "dataset"))
    fill(config, "a.mp4", "locked.mp4", "lost+found/b.mp4")
    (unprivileged / "videos" / "locked.mp4").chmod(0)
    (unprivileged / "videos" / "lost+found").chmod(0)
    list_videos(config)
    assert listed(config) == ["a.mp4", "locked.mp4"]
    assert "left out folders that may not be read: 1 ('lost+found')" in capsys.readouterr().err
    (row,) = make_planner(config)(Source(Folder(config.input), "locked.mp4")).to_pylist()
    assert (row["error_stage"], row["error_type"]) == ("read", "PermissionError")


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user who may not read everything, which is this process's user while the test runs."""
    with tempfile.TemporaryDirectory() as folder:
        root = os.geteuid() == 0
        if root:
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)
            for path in Path(folder).rglob("*"):
                path.chmod(0o700)


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_an_output_within_the_input_is_no_input(place: str, tmp_path: Path, request: pytest.FixtureRequest):
    root = request.getfixturevalue("bucket") if place == "bucket" else str(tmp_path)
    config = CurateConfig(f"{root}/videos", f"{root}/videos/below/dataset")
    fill(config, "a.mp4", "below/b.mp4", "below/dataset/clips/0.parquet", "below/dataset more/c.mp4")
    for _ in range(2):
        list_videos(config)
        assert listed(config) == ["a.mp4", "below/b.mp4", "below/dataset more/c.mp4"]


def test_an_output_that_is_the_input_is_refused(config: CurateConfig):
    fill(config, "a.mp4")
    with pytest.raises(StorageError, match="videos is both input and output"):
        list_videos(CurateConfig(config.input, config.input + "/"))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(StorageError, match="nowhere does not exist; give the folder"):
        list_videos(CurateConfig(str(tmp_path / "nowhere"), str(tmp_path / "dataset")))


def test_a_folder_without_video_is_named(config: CurateConfig):
    fill(config, "notes.txt")
    with pytest.raises(StorageError, match="videos holds no video file; look for"):
        list_videos(config)


def test_an_output_that_cannot_be_written_is_named(config: CurateConfig):
    fill(config, "a.mp4")
    Path(config.output).write_text("a file")
    with pytest.raises(StorageError, match=r"videos cannot be listed into .*dataset: .*Not a directory"):
        list_videos(config)


def test_a_bucket_out_of_reach_is_named(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=f"{bucket}/videos cannot be listed into .* connect to server"):
        list_videos(CurateConfig(f"{bucket}/videos", str(tmp_path / "dataset")))


GROWTH = """
import resource, sys
from pipeline.config import CurateConfig
from pipeline.plan.listing import list_videos
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
list_videos(CurateConfig(*sys.argv[1:]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_hundred_thousand_files_take_no_more_memory_than_a_thousand(tmp_path: Path):
    def growth(files: int) -> float:
        """MB by which the peak memory of a process grows while it lists so many files."""
        videos = tmp_path / str(files)
        videos.mkdir()
        for number in range(files):
            os.close(os.open(f"{videos}/a video of some length in its name {number}.mp4", os.O_CREAT))
        command = [sys.executable, "-c", GROWTH, str(videos), str(tmp_path / f"dataset of {files}")]
        return int(subprocess.run(command, capture_output=True, check=True).stdout) / 1024

    assert growth(100_000) - growth(1_000) < 20


@pytest.mark.parametrize("name", ["a.mp4", "A.MOV", "a/b.webm", "no suffix", "a.xyz", "song.mp3", "raw.h264"])
def test_a_file_that_could_be_video_is_tried(name: str):
    assert may_be_video(name)


@pytest.mark.parametrize(
    "name", [".hidden.mp4", ".cache/a.mp4", "a.txt", "a.JSON", "a.jpg", "a.pdf", "a\udce9.mp4"]
)
def test_a_file_that_is_no_video_by_its_name_is_not(name: str):
    assert not may_be_video(name)
