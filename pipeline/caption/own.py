"""Captions that people already have: they win over every model's.

A text file beside a video, `walk.txt` beside `walk.mp4`, captions it, or a row of a table (Parquet or CSV) with the
columns `path`, as below the input folder, and `caption`; the table wins. The caption holds for each clip of the video
and is taken over as it is.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.config import CurateConfig
from posegen.captions.subject_words import SUBJECT_OF
from posegen.common.storage import Folder, StorageError
from posegen.dataset import KEPT

SIDECAR, TABLE = "sidecar", "table"
"""What `caption_source` says of such captions."""


def read_captions(place: str) -> dict[str, str]:
    """The captions of a Parquet or CSV file, a path or URI, by path of the video.

    Raises StorageError, a sentence, where it is none or has no such columns.
    """
    folder, _, name = place.rpartition("/")
    content = Folder(folder or ".").read(name)
    try:
        if name.endswith(".csv"):
            rows = pyarrow.csv.read_csv(io.BytesIO(content))
        else:
            rows = pq.read_table(io.BytesIO(content))
        rows = rows.select(["path", "caption"]).cast(pa.schema([("path", "string"), ("caption", "string")]))
    except (pa.ArrowInvalid, KeyError) as error:
        reason = " ".join(str(error).split())
        raise StorageError(
            f"{place} is no table of captions ({reason}): give a Parquet or CSV file with the columns path and caption"
        ) from error
    captions = zip(rows["path"].to_pylist(), rows["caption"].to_pylist(), strict=True)
    return {path: " ".join(text.split()) for path, text in captions if path and text and text.strip()}


def with_own(clips: pa.Table, config: CurateConfig, captions: Mapping[str, str]) -> pa.Table:
    """The rows of a group with the captions that people gave their videos, in the table `captions` or beside them."""
    paths = pc.unique(clips.filter(pc.equal(clips["status"], KEPT))["path"]).to_pylist()
    folder = Folder(config.input)
    given = {path: (captions[path], TABLE) for path in paths if path in captions}
    for path in paths:
        if path not in given and (text := _sidecar(folder, path)):
            given[path] = text, SIDECAR
    if not given:
        return clips
    rows = clips.to_pylist()
    for row in rows:
        # What people wrote of a video tells of all who are in it, a crop shows one of them.
        if row["path"] in given and row["status"] == KEPT and row["cropped_from"] is None:
            text, source = given[row["path"]]
            row |= {"caption": text, "caption_source": source, "subject": subject_of(text)}
    return pa.Table.from_pylist(rows, clips.schema)


def _sidecar(folder: Folder, path: str) -> str | None:
    name = str(PurePosixPath(path).with_suffix(".txt"))
    if not folder.exists(name):
        return None
    return " ".join(folder.read(name).decode("utf-8", "replace").split())


def is_own(clips: pa.Table) -> pa.Array:
    """Which rows have a caption that people gave them."""
    return pc.fill_null(pc.is_in(clips["caption_source"], pa.array([SIDECAR, TABLE])), False)


def with_trigger(clips: pa.Table, word: str) -> pa.Table:
    """The rows of a group with a word in front of each caption, by which a training is told from others."""
    led = pc.binary_join_element_wise(word, clips["caption"], ", ")
    return clips.set_column(clips.schema.get_field_index("caption"), clips.schema.field("caption"), led)


def subject_of(text: str) -> str | None:
    """The kind of person that a text mentions first, one of SUBJECT_WORDS; None where it mentions none."""
    words = re.findall(r"\w+", text.lower())
    return next((SUBJECT_OF[word] for word in words if word in SUBJECT_OF), None)
