"""The tables that training keeps beside the curated ones, and single rows of either read by their place.

- `latents/<hash>/`  a row for every span of a clip that may be trained on, or one for a clip that cannot, with why;
- `text/<hash>/`     a row for every caption, and one for the empty prompt.

The hash names the model and the settings that the rows depend on. Latents are kept as float16, which is exact to 3
digits and half as large; every training reads them from here, so they are the same in every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posegen import versions
from posegen.common.storage import Folder
from posegen.dataset import table

SPANS = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),  # of the clip, when it was encoded
        pa.field("error_type", pa.string()),  # null: the clip can be trained on
        pa.field("error_message", pa.string()),
        pa.field("start", pa.int32()),  # first frame of the span, counted at the model's rate
        pa.field("references", pa.list_(pa.int32())),  # frames of the clip outside the span, (R,)
        pa.field("media_file", pa.string()),
        pa.field("media_group", pa.int32()),
        pa.field("keypoints", pa.binary()),  # (F, 133, 3) float32, pixels of the bucket's size
        pa.field("keypoints_shape", pa.list_(pa.int32())),
        pa.field("latents", pa.binary()),  # (z, f, h, w) float16
        pa.field("latents_shape", pa.list_(pa.int32())),
        pa.field("reference_latents", pa.binary()),  # (R, z, 1, h, w) float16
        pa.field("reference_latents_shape", pa.list_(pa.int32())),
        pa.field("image", pa.binary()),  # (R, tokens, image_dim) float16; null where the model reads no image
        pa.field("image_shape", pa.list_(pa.int32())),
    ]
)

TEXTS = pa.schema(
    [
        pa.field("text_id", pa.string(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),  # rows of the whole embedding; zeros after those kept
        pa.field("states", pa.binary(), nullable=False),  # (n, text_dim) float16
        pa.field("states_shape", pa.list_(pa.int32()), nullable=False),
    ]
)

READERS = 16  # threads that read footers, most of whose time is spent waiting for the storage


class Place(NamedTuple):
    """Where a row is: a file and its row group."""

    file: str
    group: int


class Tables:
    """The Parquet files of a folder by path or URI; pickles into workers.

    Of a dataset those of one version, which stay readable when a later one is written meanwhile.
    """

    def __init__(self, uri: str, version: int | None = None) -> None:
        """Opens the folder, a dataset at this version or by default the newest; raises StorageError."""
        self.uri, self.version, self.folder = uri, version, Folder(uri)
        self._open = lru_cache(256)(self._parquet)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.uri, self.version)

    def files(self, folder: str) -> list[str]:
        """The finished Parquet files directly in a folder, sorted; none where there is no such folder.

        Raises posegen.versions.VersionError where the dataset has no such version.
        """
        if folder in versions.TABLES:
            return versions.files(self.folder, folder, self.version)
        return [f"{folder}/{name}" for name in self.folder.names(folder) if name.endswith(".parquet")]

    def row(self, place: Place, key: str, columns: Sequence[str]) -> dict[str, Any]:
        """Columns of the row whose first column is `key`, read with its row group alone.

        Raises LookupError where the file has been written anew since its place was found.
        """
        for row in self.group(place, columns):
            if row[columns[0]] == key:
                return row
        raise LookupError(
            f"{self.uri}/{place.file} has changed and no longer holds {key}; start the run again."
        )

    def groups(self, file: str) -> int:
        return self._open(file).num_row_groups

    def group(self, place: Place, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Columns of all rows of a row group."""
        parquet = self._open(place.file)
        return parquet.read_row_group(place.group, list(columns), use_threads=False).to_pylist()

    def scan(self, folder: str, columns: Sequence[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
        """All rows of a folder's files with their places, files by name; only these columns are read."""

        def read(file: str) -> list[tuple[Place, dict[str, Any]]]:
            with pq.ParquetFile(self.folder.open(file)) as parquet:
                groups = [
                    (Place(file, number), parquet.read_row_group(number, list(columns)).to_pylist())
                    for number in range(parquet.num_row_groups)
                ]
            return [(place, row) for place, rows in groups for row in rows]

        with ThreadPoolExecutor(READERS) as pool:
            for rows in pool.map(read, self.files(folder)):
                yield from rows

    def write(self, file: str, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
        """Writes a file with a row group for each row, so that a row is read without its neighbours."""
        self.folder.write_table(file, table(rows, schema), row_group_size=1)

    def _parquet(self, file: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.folder.open(file))
        except FileNotFoundError:  # a later version was written since the file was found
            return pq.ParquetFile(self.folder.open(f"{versions.SUPERSEDED}/{file}"))


def pack(name: str, array: np.ndarray, dtype: str = "<f2") -> dict[str, Any]:
    """The two columns that hold an array."""
    packed = np.ascontiguousarray(array, dtype)
    return {name: packed.tobytes(), f"{name}_shape": list(packed.shape)}


def unpack(row: dict[str, Any], name: str, dtype: str = "<f2") -> np.ndarray:
    """The array of a row, float32."""
    return np.frombuffer(row[name], dtype).reshape(row[f"{name}_shape"]).astype(np.float32)
