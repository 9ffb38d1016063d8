"""The tables that curation wrote, and groups of their rows read by their place."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posegen import versions
from posegen.common.storage import Folder
from posegen.dataset import table

READERS = 8  # files that are read at once, most of whose time is spent waiting for the storage


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

    def files(self, name: str) -> list[str]:
        """The Parquet files of the table of this name, sorted; none where there is no such table.

        Raises posegen.versions.VersionError where the dataset has no such version.
        """
        return versions.files(self.folder, name, self.version)

    def row(self, place: Place, key: str, columns: Sequence[str]) -> dict[str, Any]:
        """Columns of the row whose first column is `key`, read with its row group alone.

        Raises LookupError where the file has been written anew since its place was found.
        """
        parquet = self._open(place.file)
        if place.group < parquet.num_row_groups:
            group = parquet.read_row_group(place.group, list(columns), use_threads=False)
            found = group.column(columns[0]).index(key).as_py()
            if found >= 0:
                row: dict[str, Any] = group.slice(found, 1).to_pylist()[0]
                return row
        raise LookupError(
            f"{self.uri}/{place.file} has changed and no longer holds {key}; start the run again."
        )

    def scan(self, name: str, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table, np.ndarray]]:
        """Each file of the table of this name: the file, these columns of all its rows, and each row's group (N,).

        Few files are in memory at once, however many there are.
        """

        def read(file: str) -> tuple[str, pa.Table, np.ndarray]:
            with self._parquet(file) as parquet:
                sizes = [
                    parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)
                ]
                rows = parquet.read(list(columns), use_threads=False)
            return file, rows, np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)

        files = iter(self.files(name))
        with ThreadPoolExecutor(READERS) as pool:
            ahead: deque[Future[tuple[str, pa.Table, np.ndarray]]] = deque()
            ahead.extend(pool.submit(read, file) for file in islice(files, READERS))
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(pool.submit(read, file) for file in islice(files, 1))

    def write(self, file: str, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
        """Writes a file with a row group for each row, so that a row is read without its neighbours."""
        self.folder.write_table(file, table(rows, schema), row_group_size=1)

    def _parquet(self, file: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.folder.open(file))
        except FileNotFoundError:  # a later version was written since the file was found
            return pq.ParquetFile(self.folder.open(f"{versions.SUPERSEDED}/{file}"))
