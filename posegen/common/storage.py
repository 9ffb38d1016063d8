"""A folder that may be local or in a bucket: one small class over pyarrow's file systems.

Calls to a bucket are patient (see faults.py). A file written here is whole or absent. Locally it is renamed into place,
and a bucket shows an object only when its upload has ended. That one property is what resuming after a kill rests on.
Names are relative to the folder, with slashes, and cannot leave it.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from posegen.common.faults import patiently
from posegen.common.files import written_whole
from posegen.common.walk import LeftOut, walk_local

CHUNK = 8 << 20  # bytes copied at once


class StorageError(RuntimeError):
    """A folder or URI cannot be used; the message says which and why."""


def absolute(uri: str) -> str:
    """A local path made absolute, so that it means the same in processes that run elsewhere; a URI as it is."""
    return uri if "://" in uri else str(Path(uri).resolve())


class Folder:
    """A folder by local path or URI (s3://, gs://), or a folder `below` that one; pickles into workers."""

    def __init__(self, uri: str, below: str = "") -> None:
        """Opens the folder, which need not be there yet; raises StorageError."""
        try:
            self.filesystem, root = fs.FileSystem.from_uri(absolute(uri))
        except (pa.ArrowInvalid, OSError) as error:
            raise StorageError(f"{uri} is no folder that can be opened: {error}") from error
        self.local = isinstance(self.filesystem, fs.LocalFileSystem)
        # Joined to the path, not to the URI, which may end in options (?endpoint_override=..).
        self.root = f"{root}/{below}".rstrip("/")

    def path(self, name: str) -> str:
        """The name below this folder, as `filesystem` wants it; raises ValueError for one that leads out of it."""
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{name!r} is no name of a file in a folder; give a relative path")
        return f"{self.root}/{name}"

    def exists(self, name: str = "") -> bool:
        """Whether the folder itself, or a file or folder in it, is there."""
        return self._info(self._folder(name)).type != fs.FileType.NotFound

    @contextmanager
    def sink(self, name: str) -> Iterator[IO[bytes]]:
        """A stream whose file appears when the block ends, and not if it ends in an error.

        It replaces a file of that name; folders on the way are made.
        """
        path = self.path(name)
        with self._local_sink(path) if self.local else self._bucket_sink(path) as stream:
            yield stream

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file."""

        def write() -> None:
            with self.sink(name) as stream:
                stream.write(content)

        patiently(write)

    def save(self, name: str, file: Path) -> None:
        """Copies a local file, however large."""

        def save() -> None:
            with file.open("rb") as source, self.sink(name) as stream:
                shutil.copyfileobj(source, stream, CHUNK)

        patiently(save)

    def write_table(self, name: str, table: pa.Table, row_group_size: int | None = None) -> None:
        """Writes a Parquet file (zstd)."""
        stream = pa.BufferOutputStream()
        pq.write_table(table, stream, compression="zstd", row_group_size=row_group_size)
        self.write(name, stream.getvalue())

    def open(self, name: str) -> pa.NativeFile:
        """A file to read from, with `seek` and `size`; raises FileNotFoundError where there is none."""
        file = patiently(lambda: self.filesystem.open_input_file(self.path(name)))
        return file if self.local else pa.PythonFile(_PatientFile(file), mode="r")

    def read(self, name: str) -> bytes:
        """A file's content; raises FileNotFoundError."""
        with self.open(name) as stream:
            return stream.read()

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file as a table, or only some of its columns; raises FileNotFoundError."""
        with self.open(name) as stream:
            return pq.read_table(stream, columns=columns, partitioning=None)

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """A local path of a file for as long as the block lasts: itself, or a bucket's object copied to disk."""
        if self.local:
            yield Path(self.path(name))
            return
        with tempfile.TemporaryDirectory(prefix="posegen-") as scratch:
            copy = Path(scratch) / Path(name).name
            with self.open(name) as remote, copy.open("wb") as local:
                shutil.copyfileobj(remote, local, CHUNK)
            yield copy

    def names(self, folder: str = "", below: bool = False) -> list[str]:
        """Names of the finished files directly in a folder below this one, sorted; none where it does not exist.

        below: those in its folders too, at any depth, by their names within the folder; a bucket lists them at once.
        """
        names = self._names(folder, fs.FileType.File, below)
        return [name for name in names if not name.endswith(".part")]

    def folders(self) -> list[str]:
        """Names of the folders directly in this one, sorted; none where it does not exist."""
        return self._names("", fs.FileType.Directory)

    def walk(
        self, left_out: LeftOut = lambda name, kind: None, without: Folder | None = None
    ) -> Iterator[tuple[str, int, int]]:
        """Every file below, as (name, bytes, time of change in ns), one after the other, in no order.

        Locally links are followed and each entry is read as it is yielded; in a bucket one folder is listed at a time.
        `left_out` is told of whatever cannot be followed. Files in the folder `without` are none of them.
        """
        same = without is not None and without.filesystem.equals(self.filesystem)
        other = without.root if without is not None and same else None
        if self.local:
            yield from walk_local(self.root, left_out, other)
        else:
            yield from self._walk_bucket(self.root, other)

    def delete(self, name: str) -> None:
        """Deletes a file."""
        patiently(lambda: self.filesystem.delete_file(self.path(name)))

    def move(self, name: str, to: str) -> None:
        """Gives a file another name in this folder; folders on the way are made."""
        if self.local:
            Path(self.path(to)).parent.mkdir(parents=True, exist_ok=True)
        patiently(lambda: self.filesystem.move(self.path(name), self.path(to)))

    def delete_folder(self, name: str) -> None:
        """Deletes a folder in this one with all that is in it; it need not be there."""
        if self._info(self.path(name)).type != fs.FileType.NotFound:
            patiently(lambda: self.filesystem.delete_dir(self.path(name)))

    def _folder(self, name: str) -> str:
        return self.path(name) if name else self.root

    @contextmanager
    def _local_sink(self, path: str) -> Iterator[IO[bytes]]:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with written_whole(Path(path)) as part, part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # else a power cut could leave the file there and empty

    @contextmanager
    def _bucket_sink(self, path: str) -> Iterator[IO[bytes]]:
        stream = self.filesystem.open_output_stream(path)
        try:
            yield stream
        except BaseException:
            stream.close()  # which cannot be avoided, and makes an object of what was written
            self.filesystem.delete_file(path)
            raise
        stream.close()

    def _info(self, path: str) -> fs.FileInfo:
        return patiently(lambda: self.filesystem.get_file_info(path))

    def _names(self, folder: str, kind: fs.FileType, below: bool = False) -> list[str]:
        root = self._folder(folder)
        selector = fs.FileSelector(root, allow_not_found=True, recursive=below)
        infos = patiently(lambda: self.filesystem.get_file_info(selector))
        return sorted(info.path.removeprefix(f"{root}/") for info in infos if info.type == kind)

    def _walk_bucket(self, directory: str, without: str | None) -> Iterator[tuple[str, int, int]]:
        infos = patiently(lambda: self.filesystem.get_file_info(fs.FileSelector(directory)))
        for info in infos:
            if info.type == fs.FileType.Directory and info.path != without:
                yield from self._walk_bucket(info.path, without)
            elif info.type == fs.FileType.File:
                yield info.path.removeprefix(self.root).lstrip("/"), info.size, info.mtime_ns or 0


class _PatientFile(io.RawIOBase):
    """A bucket's file that is read patiently, piece by piece, so that a fault repeats one piece and not the file."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size()}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = self._file.size() - self._at
        count = left if size is None or size < 0 else min(size, left)
        content: bytes = patiently(lambda: self._file.read_at(count, self._at)) if count > 0 else b""
        self._at += len(content)
        return content
