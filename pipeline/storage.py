"""Folders that may be local or in a bucket: one small class over pyarrow's file systems.

A file written here is whole or absent: locally it is renamed into place, and a bucket shows an object only when its
upload has ended. That one property is what resuming after a kill rests on.
"""

from __future__ import annotations

import mimetypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

# Python's own table alone: the machine's mime.types would make the same folder list differently elsewhere.
_TYPES = mimetypes.MimeTypes()


class StorageError(RuntimeError):
    """A folder or URI cannot be used; the message says which and why."""


class Folder:
    """A folder by local path or URI (s3://, gs://), or a folder `below` that one; pickles into workers."""

    def __init__(self, uri: str, below: str = ""):
        self.local = "://" not in uri
        self.filesystem: fs.FileSystem = fs.LocalFileSystem()
        self.root = str(Path(uri).resolve())
        try:
            if not self.local:
                self.filesystem, self.root = fs.FileSystem.from_uri(uri)
        except (pa.ArrowInvalid, OSError) as error:
            raise StorageError(f"{uri} is no folder that can be opened: {error}") from error
        # Joined to the path, not to the URI, which may end in options (?endpoint_override=..).
        self.root = f"{self.root}/{below}".rstrip("/")

    def path(self, name: str) -> str:
        """The name below this folder, as `filesystem` wants it."""
        return f"{self.root}/{name}"

    def exists(self, name: str = "") -> bool:
        """Whether the folder itself, or a file or folder in it, is there."""
        return self.filesystem.get_file_info(self.path(name).rstrip("/")).type != fs.FileType.NotFound

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file, replacing one of that name at once; folders on the way are made."""
        if not self.local:
            with self.filesystem.open_output_stream(self.path(name)) as stream:
                stream.write(content)
            return
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Hidden, so that readers of the folder pass over what a killed writer leaves.
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        part.write_bytes(content)
        part.replace(target)

    def write_table(self, name: str, table: pa.Table, row_group_size: int | None = None) -> None:
        """Writes a Parquet file (zstd), whole or not at all."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size)
        self.write(name, sink.getvalue())

    def read(self, name: str) -> bytes:
        """A file's content; raises FileNotFoundError where there is none."""
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            return stream.read()

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file as a table, or only some of its columns."""
        return pq.read_table(self.path(name), columns=columns, filesystem=self.filesystem, partitioning=None)

    def names(self, folder: str = "") -> list[str]:
        """Names of the finished files directly in a folder below this one, sorted; none where it does not exist."""
        selector = fs.FileSelector(self.path(folder).rstrip("/"), allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return sorted(i.base_name for i in infos if i.is_file and not i.base_name.endswith(".part"))

    def delete(self, name: str) -> None:
        """Deletes a file."""
        self.filesystem.delete_file(self.path(name))

    @contextmanager
    def local_copy(self, name: str) -> Iterator[str]:
        """A local path of a file for as long as the block lasts: itself, or a bucket's object copied to disk."""
        if self.local:
            yield self.path(name)
            return
        with tempfile.TemporaryDirectory(prefix="posegen-") as scratch:
            copy = Path(scratch) / Path(name).name
            with self.filesystem.open_input_stream(self.path(name)) as remote, copy.open("wb") as local:
                shutil.copyfileobj(remote, local, 1 << 20)
            yield str(copy)

    def walk(self) -> Iterator[tuple[str, int, int]]:
        """Every file below, as (name, bytes, time of change in ns), one after the other, in no order.

        Locally each entry is read as it is yielded; in a bucket one folder is listed at a time.
        """
        yield from self._walk_local(self.root) if self.local else self._walk_bucket(self.root)

    def _walk_local(self, directory: str) -> Iterator[tuple[str, int, int]]:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk_local(entry.path)
                elif entry.is_file():
                    status = entry.stat()
                    yield os.path.relpath(entry.path, self.root), status.st_size, status.st_mtime_ns

    def _walk_bucket(self, directory: str) -> Iterator[tuple[str, int, int]]:
        for info in self.filesystem.get_file_info(fs.FileSelector(directory)):
            if info.type == fs.FileType.Directory:
                yield from self._walk_bucket(info.path)
            elif info.type == fs.FileType.File:
                yield info.path.removeprefix(self.root).lstrip("/"), info.size, info.mtime_ns or 0


def may_be_video(name: str) -> bool:
    """Whether a file is worth opening as video: not hidden, and not text, picture or document by its name.

    A name that is no UTF-8, which tables cannot hold, counts as none.
    """
    hidden = any(part.startswith(".") for part in name.split("/"))
    if hidden or name.encode(errors="ignore").decode() != name:
        return False
    kind = _TYPES.guess_type(name)[0]
    return kind is None or kind.startswith(("video/", "audio/"))
