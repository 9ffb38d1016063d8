"""The index of the clips that can be trained on: small columns of the curated tables, mapped by all who read it.

It is written once, by the driver, to `index/` in the cache, an Arrow file that takes no memory where it is mapped, and
a summary beside it that says that it is whole. Its name follows from the dataset's version and the settings, so each
training of the same finds it. A kept clip that is left out is counted by its reason, and one whose score is missing
does not pass a limit on that score. Whether a clip's video can be decoded is found out when its turn comes.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from posegen import versions
from posegen.common.storage import Folder
from posegen.dataset import KEPT, content_id
from training.data.items import Bucket, DataConfig
from training.data.tables import Place, Tables

COLUMNS = (
    *("clip_id", "status", "video_id", "caption", "rate"),
    *("width", "height", "keypoints_shape", "scored_by"),
)
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("key", pa.uint64()),  # a hash of the clip_id: what orders are made of
        ("video_key", pa.uint64()),  # the same of the video
        ("caption", pa.string()),
        ("scored_by", pa.string()),
        ("rate", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("length", pa.int32()),  # keypoint frames
        ("bucket", pa.int16()),
        *((name, pa.int32()) for name in ("clips_file", "clips_group", "media_file", "media_group")),
    ]
)
ROUNDING = 1e-6
"""Of frame counts and rates, which are no exact numbers: 12 of 24 a second is every second frame."""


@dataclass(frozen=True)
class Clip:
    """A clip to train on. size: (width, height) in pixels of its keypoints; length: its keypoint frames.

    row, media: where its rows of `clips/` and `media/` are. version: tells its poses from those of another estimator.
    """

    dataset: str
    clip_id: str
    caption: str
    rate: float
    size: tuple[int, int]
    length: int
    bucket: Bucket
    row: Place
    media: Place
    version: str

    def frames(self, rate: float) -> np.ndarray:
        """The clip's frames (N,), by number, that are on screen at `rate` frames a second."""
        count = math.floor((self.length - 1) * rate / self.rate + ROUNDING) + 1
        return np.floor(np.arange(count) * self.rate / rate + ROUNDING).astype(int)


class Index:
    """The clips of one dataset that can be trained on, as `prepare` found them.

    keys, videos: (N,) uint64 hashes of each clip and of its video; bucket_of: (N,) places in `buckets`. left_out: how
    many kept clips are not used, by reason.

    Raises ValueError where it is not written yet.
    """

    def __init__(self, config: DataConfig, dataset: str) -> None:
        folder, name = Folder(config.cache_folder), index_name(config, dataset)
        if not folder.exists(f"{name}.json"):
            raise ValueError(
                f"There is no index of {dataset} as it is now; start the training again, which writes one."
            )
        summary = json.loads(folder.read(f"{name}.json"))
        self.left_out: dict[str, int] = summary["left_out"]
        self._clips_files, self._media_files = summary["clips_files"], summary["media_files"]
        self.buckets, self._dataset = buckets(config), dataset
        with folder.local_copy(f"{name}.arrow") as path:  # a copy stays mapped when it has been deleted
            self._rows = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self.keys, self.videos, self.bucket_of = (
            self._rows.column(name).to_numpy() for name in ("key", "video_key", "bucket")
        )

    def __len__(self) -> int:
        return len(self.keys)

    def clip(self, number: int) -> Clip:
        row = {name: self._rows.column(name)[number].as_py() for name in SCHEMA.names}
        size = row["width"], row["height"]
        return Clip(
            dataset=self._dataset,
            clip_id=row["clip_id"],
            caption=row["caption"],
            rate=row["rate"],
            size=size,
            length=row["length"],
            bucket=self.buckets[row["bucket"]],
            row=Place(self._clips_files[row["clips_file"]], row["clips_group"]),
            media=Place(self._media_files[row["media_file"]], row["media_group"]),
            version=content_id(row["scored_by"], row["rate"], *size, row["length"]),
        )


def prepare(config: DataConfig, tell: Callable[[str], object] = print) -> None:
    """Writes the indexes of the datasets that are not there yet; `tell` is given a line for each.

    Raises FileNotFoundError for a folder without curated tables, ValueError for tables without a score that is asked
    for.
    """
    for taken in (config.dataset_versions, *(later for _, later in config.later_versions)):
        for dataset in config.datasets:
            _write(replace(config, dataset_versions=taken), dataset, tell)


def _write(config: DataConfig, dataset: str, tell: Callable[[str], object]) -> None:
    folder, name = Folder(config.cache_folder), index_name(config, dataset)
    if folder.exists(f"{name}.json"):
        return
    start = time.monotonic()
    tables, left_out, clips = source(config, dataset), Counter[str](), 0
    clips_files, media_files = tables.files("clips"), tables.files("media")
    if not clips_files:
        raise FileNotFoundError(f"{dataset} has no table clips/; give a folder that curation wrote.")
    media = _Media.read(tables, media_files)
    with tempfile.NamedTemporaryFile(prefix="posegen-", suffix=".arrow") as file:
        with pa.ipc.new_file(file.name, SCHEMA) as writer:
            for batch in _batches(config, tables, clips_files, media, left_out):
                writer.write_batch(batch)
                clips += len(batch)
        folder.save(f"{name}.arrow", Path(file.name))
    summary = {"left_out": left_out, "clips_files": clips_files, "media_files": media_files}
    folder.write(f"{name}.json", json.dumps(summary).encode())
    tell(f"indexed {clips:,} clips of {dataset} in {time.monotonic() - start:.1f} s")


def buckets(config: DataConfig) -> list[Bucket]:
    """All buckets, in the order in which the index counts them."""
    return [Bucket(*size, frames) for size in config.sizes for frames in sorted(config.frames)]


def source(config: DataConfig, dataset: str) -> Tables:
    """The tables of a dataset at the version that the settings name."""
    return Tables(dataset, config.dataset_versions.get(dataset))


def index_name(config: DataConfig, dataset: str) -> str:
    """Where the index is, below the cache folder, without its ending."""
    settings = (config.sizes, config.frames, config.rate, sorted(config.scores.items()))
    return f"index/{content_id(SCHEMA, dataset, _state(config, dataset), repr(settings))}"


def _state(config: DataConfig, dataset: str) -> str:
    """What tells this state of the tables from others."""
    folder = Folder(dataset)
    version = versions.load(folder, config.dataset_versions.get(dataset))
    if version:
        return content_id(json.dumps(version.tables, sort_keys=True))
    tables = [Folder(dataset, name) for name in versions.TABLES if folder.exists(name)]
    return content_id(*(sorted(table.walk()) for table in tables))  # names, sizes and times of change


@dataclass(frozen=True)
class _Media:
    """Where the rows of `media/` are: files and groups (N,) in the order of the keys (N,) of their clips."""

    keys: np.ndarray
    files: np.ndarray
    groups: np.ndarray

    @classmethod
    def read(cls, tables: Tables, files: Sequence[str]) -> _Media:
        number = {file: number for number, file in enumerate(files)}
        parts = [
            (keys_of(rows.column(0)), np.full(len(groups), number[file], np.int32), groups)
            for file, rows, groups in tables.scan("media", ["clip_id"])
        ]
        nothing = np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, np.int32)
        keys, of_files, of_groups = (np.concatenate(column) for column in zip(nothing, *parts, strict=True))
        order = np.argsort(keys)
        return cls(keys[order], of_files[order], of_groups[order])

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(whether it has a row, file, group) of each key."""
        if not len(self.keys):
            return np.zeros(len(keys), bool), np.zeros(len(keys), np.int32), np.zeros(len(keys), np.int32)
        place = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return self.keys[place] == keys, self.files[place], self.groups[place]


def _batches(
    config: DataConfig, tables: Tables, files: Sequence[str], media: _Media, left_out: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """The index's rows, a batch for each file; counts the kept clips that are left out, by reason."""
    number = {file: number for number, file in enumerate(files)}
    for file, rows, groups in tables.scan("clips", [*COLUMNS, *config.scores]):
        if missing := [name for name in config.scores if name not in rows.column_names]:
            raise ValueError(
                f"{file} has no score {missing[0]}: curate with the weights that measure it, or leave it out of scores."
            )
        kept = pc.equal(rows.column("status"), KEPT).to_numpy()
        rows, groups = rows.filter(kept), groups[kept]
        keys = keys_of(rows.column("clip_id"))
        found, media_files, media_groups = media.find(keys)
        lengths = _first(rows.column("keypoints_shape"))
        reasons = _reasons(rows, lengths, found, config)
        left_out.update(reason for reason in reasons if reason)
        used = np.array([not reason for reason in reasons], bool)
        columns: dict[str, Any] = {
            "key": keys,
            "length": lengths.astype(np.int32),
            "clips_file": np.full(len(keys), number[file], np.int32),
            "clips_group": groups,
            "media_file": media_files,
            "media_group": media_groups,
        }
        columns = {name: column[used] for name, column in columns.items()}
        rows = rows.filter(used)
        videos = pc.coalesce(rows.column("video_id"), rows.column("clip_id"))
        columns |= {"video_key": keys_of(videos), "caption": pc.fill_null(rows.column("caption"), "")}
        columns["bucket"] = _buckets_of(rows, columns["length"], config)
        columns |= {name: rows.column(name) for name in ("clip_id", "scored_by", "rate", "width", "height")}
        yield from pa.table(columns, SCHEMA).combine_chunks().to_batches()


def keys_of(ids: pa.ChunkedArray) -> np.ndarray:
    """A hash (N,) uint64 of each id of a column of text."""
    digests = b"".join(hashlib.blake2b(id_.encode(), digest_size=8).digest() for id_ in ids.to_pylist())
    return np.frombuffer(digests, "<u8")


def _first(shapes: pa.ChunkedArray) -> np.ndarray:
    """The first number (N,) of each list; 0 where there is none."""
    there = pc.fill_null(pc.list_value_length(shapes), 0).to_numpy() > 0
    first = np.zeros(len(shapes), np.int64)
    first[there] = pc.list_element(shapes.filter(there), 0).to_numpy()
    return first


def _reasons(rows: pa.Table, lengths: np.ndarray, has_media: np.ndarray, config: DataConfig) -> list[str]:
    """Why each kept clip cannot be used; an empty text where it can be."""
    reasons = np.full(len(rows), "", dtype=object)

    def leave_out(which: np.ndarray, reason: str) -> None:
        reasons[which & (reasons == "")] = reason

    for name, (low, high) in config.scores.items():
        score = rows.column(name).to_numpy()  # NaN where it is null
        leave_out(np.isnan(score), f"{name} is not known")
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        leave_out((score < low) | (score > high), f"{name} is out of range")
    leave_out(lengths == 0, "it has no keypoints")
    rate, width, height = (rows.column(name).to_numpy() for name in ("rate", "width", "height"))
    leave_out(np.isnan(rate) | np.isnan(width) | np.isnan(height), "its rate or size is not known")
    shown = (lengths - 1) / np.where(rate > 0, rate, np.nan) * config.rate + ROUNDING
    leave_out(~(shown >= min(config.frames) - 1), "it is too short")
    leave_out(~has_media, "it has no row in media/")
    return reasons.tolist()


def _buckets_of(rows: pa.Table, lengths: np.ndarray, config: DataConfig) -> np.ndarray:
    """The bucket (N,) int16 of each clip: the size nearest in aspect, the longest that it fills."""
    rate, width, height = (rows.column(name).to_numpy() for name in ("rate", "width", "height"))
    available = (lengths - 1) * config.rate / rate + 1 + ROUNDING
    sizes = np.array(config.sizes, float)
    apart = np.abs(np.log(sizes[:, 0] / sizes[:, 1]) - np.log(width / height)[:, None])
    longest = np.searchsorted(sorted(config.frames), available, side="right") - 1
    return (apart.argmin(axis=1) * len(config.frames) + longest).astype(np.int16)
