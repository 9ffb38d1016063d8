"""Writes the kept clips of a curated dataset as other trainers want them: files of video, caption and pose.

    python pipeline/export.py --dataset dataset --output export --to webdataset

Every video holds exactly the clip's frames at the clip's rate, one for each pose; where the stored video begins earlier
or shows other frames it is encoded anew. Poses are (T, 133, 3) float32 arrays in .npy files, x and y in pixels of the
video and a confidence, or, for trainers that take a control video, the skeletons drawn on black. The layouts are those
that the trainers' own documents describe:

- webdataset: tar files in which equal names make one sample (huggingface.co/docs/hub/datasets-webdataset);
- diffsynth: metadata.csv beside the files, columns prompt, video, control_video (DiffSynth-Studio,
  examples/wanvideo/model_training);
- musubi: a folder of videos with .txt beside each, one of control videos of the same names, and the TOML that names
  them (musubi-tuner, docs/dataset_config.md);
- diffusion-pipe: a folder of videos with .txt beside each, and the TOML that names it (examples/dataset.toml there);
- finetrainers: videos/, with videos.txt and prompt.txt of a line a clip (finetrainers, docs/dataset/README.md).
"""

from __future__ import annotations

import csv
import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow.parquet as pq
import tyro

from posegen import versions
from posegen.common.progress import Progress
from posegen.common.storage import Folder, StorageError, absolute
from posegen.dataset import KEPT, MEDIA, unpack_keypoints
from posegen.driving.drawing import draw
from posegen.video import VideoError, probe, read_frames, sample_indices, save_video

Layout = Literal["webdataset", "diffsynth", "musubi", "diffusion-pipe", "finetrainers"]
COLUMNS = ("clip_id", "status", "caption", "width", "height", "rate", "keypoints", "keypoints_shape")
TAR_BYTES = 1 << 30
"""A tar file is closed once it is so large, as the format's own document suggests."""
CHUNK = 16  # frames in memory at once


class ExportError(ValueError):
    """The dataset holds nothing to export; the message says so."""


@dataclass(frozen=True)
class ExportConfig:
    """Write the kept clips in the layout of another trainer."""

    dataset: str
    """Folder that curation wrote: a local path, s3:// or gs://."""
    output: str
    """Folder for the files: a local path, s3:// or gs://; files in it of the same names are replaced."""
    to: Layout
    """Whose layout."""
    version: int | None = None
    """Number of the dataset's version; by default the newest."""


@dataclass(frozen=True)
class Clip:
    """A kept clip. video: its file on this machine. poses: (T, 133, 3) float32, one for each frame of the video."""

    clip_id: str
    caption: str
    video: Path
    poses: np.ndarray
    rate: float
    size: tuple[int, int]

    def control(self, path: Path) -> None:
        """Writes the skeletons on black as a video of the same length, rate and size."""
        starts = range(0, len(self.poses), CHUNK)
        save_video((self._drawn(start) for start in starts), path, self.rate)

    def _drawn(self, start: int) -> np.ndarray:
        poses = np.nan_to_num(self.poses[start : start + CHUNK])  # nobody: all confidences 0
        return np.stack([draw(pose, self.size) for pose in poses])


class Writer(Protocol):
    """Writes clips in a layout."""

    def add(self, clip: Clip) -> None: ...


def export(config: ExportConfig) -> int:
    """Writes all kept clips; returns how many.

    A clip whose video cannot be read is left out and said so. Raises ExportError where no clip is kept.
    """
    source, done = Folder(config.dataset), 0
    progress = Progress("export", "clips")
    with LAYOUTS[config.to](Folder(config.output)) as writer, tempfile.TemporaryDirectory() as scratch:
        for row, media in kept_clips(source, config.version):
            video = Path(scratch) / f"{row['clip_id']}.mp4"
            try:
                writer.add(make_clip(row, media, video))
                done += 1
            except VideoError as error:
                print(f"export: clip {row['clip_id']} was left out: {error}", file=sys.stderr)
            progress.add()
            for file in Path(scratch).iterdir():
                file.unlink()
        if not done:
            raise ExportError(f"{config.dataset} holds no kept clip with a video; there is nothing to export")
    return done


def kept_clips(dataset: Folder, version: int | None) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The rows of the kept clips in `clips/` and in `media/`, a row group in memory at once."""
    places = {
        clip_id: (name, group)
        for name in versions.files(dataset, "media", version)
        for group, rows in _groups(dataset, name, ("clip_id",))
        for clip_id in (row["clip_id"] for row in rows)
    }
    for name in versions.files(dataset, "clips", version):
        for _, rows in _groups(dataset, name, COLUMNS):
            for row in rows:
                if row["status"] == KEPT and row["clip_id"] in places:
                    file, group = places[row["clip_id"]]
                    with dataset.open(file) as stream:
                        media = pq.ParquetFile(stream).read_row_group(group, MEDIA.names).to_pylist()
                    yield row, next(found for found in media if found["clip_id"] == row["clip_id"])


def _groups(
    dataset: Folder, name: str, columns: tuple[str, ...]
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    with dataset.open(name) as stream:
        file = pq.ParquetFile(stream)
        for group in range(file.num_row_groups):
            yield group, file.read_row_group(group, list(columns)).to_pylist()


def make_clip(row: dict[str, Any], media: dict[str, Any], video: Path) -> Clip:
    """The clip of a row, with its video written at `video`; raises VideoError."""
    stored = video.with_suffix(".stored.mp4")
    stored.write_bytes(media["media"])
    info, rate = probe(stored), media["rate"]
    start = media["media_start"]
    shown = sample_indices(info, start, start + media["seconds"], rate)
    if np.array_equal(shown, np.arange(len(info.frame_times))) and abs(info.rate - rate) < 0.01:
        stored.rename(video)
    else:
        save_video(read_frames(info, shown, chunk=CHUNK), video, rate)
    poses = unpack_keypoints(row)[: len(shown)]
    return Clip(row["clip_id"], row["caption"] or "", video, poses, rate, (row["width"], row["height"]))


def array_file(array: np.ndarray) -> bytes:
    """The content of a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def one_line(caption: str) -> str:
    """A caption without line breaks, for files of a caption a line."""
    return " ".join(caption.split())


class WebDataset:
    """clips-000000.tar ..: NAME.mp4, NAME.txt, NAME.json and NAME.poses.npy for each clip."""

    def __init__(self, output: Folder) -> None:
        self.output, self.number, self.scratch = output, 0, tempfile.TemporaryDirectory()
        self._begin()

    def add(self, clip: Clip) -> None:
        facts = {"clip_id": clip.clip_id, "rate": clip.rate, "width": clip.size[0], "height": clip.size[1]}
        parts = {
            "mp4": clip.video.read_bytes(),
            "txt": clip.caption.encode(),
            "json": json.dumps(facts).encode(),
            "poses.npy": array_file(clip.poses),
        }
        if self.file.stat().st_size + sum(map(len, parts.values())) > TAR_BYTES and self.tar.getmembers():
            self.end()
            self._begin()
        for kind, content in parts.items():
            entry = tarfile.TarInfo(f"{clip.clip_id}.{kind}")
            entry.size = len(content)
            self.tar.addfile(entry, io.BytesIO(content))

    def end(self) -> None:
        """Writes the tar file that is open."""
        self.tar.close()
        self.output.save(f"clips-{self.number:06}.tar", self.file)
        self.number += 1

    def _begin(self) -> None:
        self.file = Path(self.scratch.name) / "clips.tar"
        self.tar = tarfile.TarFile(self.file, "w")


class VideosWithCaptions:
    """Videos with a .txt of the same name beside each, poses apart; `control`: also videos of the skeletons."""

    def __init__(self, output: Folder, control: bool) -> None:
        self.output, self.with_control = output, control

    def add(self, clip: Clip) -> None:
        self.output.save(f"videos/{clip.clip_id}.mp4", clip.video)
        self.output.write(f"videos/{clip.clip_id}.txt", clip.caption.encode())
        self.output.write(f"poses/{clip.clip_id}.npy", array_file(clip.poses))
        if self.with_control:
            save_control(self.output, clip)


class Listed:
    """Videos, skeletons and poses in folders, listed line by line."""

    def __init__(self, output: Folder, control: bool) -> None:
        self.output, self.with_control, self.rows = output, control, list[dict[str, str]]()

    def add(self, clip: Clip) -> None:
        row = {"prompt": one_line(clip.caption), "video": f"videos/{clip.clip_id}.mp4"}
        self.output.save(row["video"], clip.video)
        self.output.write(f"poses/{clip.clip_id}.npy", array_file(clip.poses))
        if self.with_control:
            row["control_video"] = save_control(self.output, clip)
        self.rows.append(row)


def save_control(output: Folder, clip: Clip) -> str:
    """Saves the clip's skeletons as a video; returns its name."""
    name = f"control/{clip.clip_id}.mp4"
    drawn = clip.video.with_suffix(".control.mp4")
    clip.control(drawn)
    output.save(name, drawn)
    return name


@contextmanager
def webdataset(output: Folder) -> Iterator[Writer]:
    """Tar files."""
    writer = WebDataset(output)
    yield writer
    writer.end()


@contextmanager
def diffsynth(output: Folder) -> Iterator[Writer]:
    """--dataset_base_path OUTPUT --dataset_metadata_path OUTPUT/metadata.csv --data_file_keys video,control_video"""
    writer = Listed(output, control=True)
    yield writer
    text = io.StringIO()
    table = csv.DictWriter(text, ["prompt", "video", "control_video"], quoting=csv.QUOTE_ALL)
    table.writeheader()
    table.writerows(writer.rows)
    output.write("metadata.csv", text.getvalue().encode())


@contextmanager
def musubi(output: Folder) -> Iterator[Writer]:
    """--dataset_config OUTPUT/dataset.toml; resolution and frames in it are Wan's own, to be changed there."""
    yield VideosWithCaptions(output, control=True)
    output.write("dataset.toml", MUSUBI.format(root=output.root).encode())


@contextmanager
def diffusion_pipe(output: Folder) -> Iterator[Writer]:
    """dataset = 'OUTPUT/dataset.toml' in the training's own TOML; resolutions and frames are to be changed there."""
    yield VideosWithCaptions(output, control=False)
    output.write("dataset.toml", DIFFUSION_PIPE.format(root=output.root).encode())


@contextmanager
def finetrainers(output: Folder) -> Iterator[Writer]:
    """--data_root OUTPUT --caption_column prompt.txt --video_column videos.txt"""
    writer = Listed(output, control=False)
    yield writer
    for file, column in (("prompt.txt", "prompt"), ("videos.txt", "video")):
        output.write(file, "".join(f"{row[column]}\n" for row in writer.rows).encode())


MUSUBI = """[general]
resolution = [832, 480]
caption_extension = ".txt"
batch_size = 1
enable_bucket = true
bucket_no_upscale = true

[[datasets]]
video_directory = "{root}/videos"
control_directory = "{root}/control"
cache_directory = "{root}/cache"
target_frames = [81]
frame_extraction = "head"
"""

DIFFUSION_PIPE = """resolutions = [480]
enable_ar_bucket = true
min_ar = 0.5
max_ar = 2.0
num_ar_buckets = 7
frame_buckets = [1, 81]

[[directory]]
path = "{root}/videos"
num_repeats = 1
"""

LAYOUTS: dict[str, Callable[[Folder], AbstractContextManager[Writer]]] = {
    "webdataset": webdataset,
    "diffsynth": diffsynth,
    "musubi": musubi,
    "diffusion-pipe": diffusion_pipe,
    "finetrainers": finetrainers,
}


def main() -> None:
    """The command line."""
    config = tyro.cli(ExportConfig, description=__doc__)
    config = ExportConfig(absolute(config.dataset), absolute(config.output), config.to, config.version)
    try:
        done = export(config)
    except (ExportError, StorageError, versions.VersionError) as error:
        sys.exit(f"export: {error}")
    print(f"{done:,} clips in {config.output}")


if __name__ == "__main__":
    main()
