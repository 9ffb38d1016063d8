"""Which videos there are to evaluate, and the files that belong to each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import csv

from pipeline.evaluating.config import EvaluateConfig
from posegen.common.storage import Folder, StorageError
from posegen.dataset import content_id

PICTURES = (".reference.png", ".reference.jpg", ".reference.jpeg")
FILES = ("video", "reference", "driving", "truth")


def list_subjects(config: EvaluateConfig) -> list[dict[str, Any]]:
    """A row for each video: `key`, which changes with its files and the settings, and the paths of its files.

    Raises StorageError, a sentence, where there is none, or where a row names a file that is not there.
    """
    folder = Folder(config.input)
    if not folder.exists():
        raise StorageError(f"{config.input} does not exist; give the folder that holds the videos")
    found = {name: (size, changed) for name, size, changed in folder.walk()}
    rows = list(_from_table(folder, config.rows) if config.rows else _by_name(found))
    if not rows:
        raise StorageError(
            f"{config.input} holds no video with its picture and driving video: NAME.mp4 goes with "
            "NAME.reference.png and NAME.driving.mp4, or give --rows"
        )
    for row in rows:
        paths = [row[name] for name in FILES if row[name]]
        if missing := [path for path in paths if path not in found]:
            raise StorageError(f"{missing[0]}, which {config.rows} names, is not in {config.input}")
        row["key"] = content_id(config.version, *(part for path in paths for part in (path, *found[path])))
    return sorted(rows, key=lambda row: row["video"])


def _by_name(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for driving in found:
        if not driving.endswith(".driving.mp4"):
            continue
        stem = driving.removesuffix(".driving.mp4")
        picture = next((stem + suffix for suffix in PICTURES if stem + suffix in found), None)
        if picture and f"{stem}.mp4" in found:
            truth = f"{stem}.truth.mp4"
            files = (f"{stem}.mp4", picture, driving, truth if truth in found else None)
            yield dict(zip(FILES, files, strict=True))


def _from_table(folder: Folder, name: str) -> list[dict[str, Any]]:
    try:
        with folder.open(name) as stream:
            table = folder.read_table(name) if name.endswith(".parquet") else csv.read_csv(stream)
    except FileNotFoundError:
        raise StorageError(f"{name} is not in the input folder; give --rows as a path below it") from None
    except pa.ArrowInvalid as error:
        raise StorageError(f"{name} cannot be read as a table: {error}") from error
    if missing := {*FILES[:3]} - {*table.column_names}:
        raise StorageError(
            f"{name} has no column {sorted(missing)[0]}; it needs video, reference and driving"
        )
    return [{file: row.get(file) or None for file in FILES} for row in table.to_pylist()]
