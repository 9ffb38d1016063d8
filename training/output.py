"""A training's output folder, local or in a bucket: checkpoints, log, samples, adapter, and files that end a training.

What is written here is whole or absent, and calls to a bucket are patient; `ray_storage` makes Ray Train's the same.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from posegen.common.faults import patiently
from posegen.common.storage import Folder, StorageError

STOP_FILE = "stop"
"""Ends the training with a checkpoint."""
DIVERGED_FILE = "diverged.txt"
"""In the folder of a training without finite gradients: the sentence that says so."""
PROBE = "writable"


def open_output(uri: str) -> Folder:
    """The output folder, from which what ended an earlier run is removed.

    Raises StorageError, a sentence, where it cannot be written.
    """
    folder = Folder(uri)
    if not folder.local and "/" not in folder.root:
        raise StorageError(f"{uri} is a whole bucket; give the output a folder in it, such as {uri}/run")
    try:
        folder.write(PROBE, b"")
        for name in (PROBE, STOP_FILE, DIVERGED_FILE):
            if folder.exists(name):
                folder.delete(name)
    except OSError as error:
        raise StorageError(
            f"{uri} cannot be written: {error}; look for a mistake in it, and whether this machine may write there"
        ) from error
    return folder


def below(uri: str, name: str) -> str:
    """The URI of what lies in a folder."""
    path, mark, options = uri.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


@contextmanager
def fetched(uri: str, name: str) -> Iterator[Path]:
    """A folder in this one as a local path for as long as the block lasts: itself, or a copy of it on disk."""
    folder = Folder(uri)
    if folder.local:
        yield Path(folder.path(name))
        return
    with tempfile.TemporaryDirectory(prefix="posegen-") as scratch:
        for file in folder.names(name, below=True):
            path = Path(scratch) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(folder.read(f"{name}/{file}"))
        yield Path(scratch)


def save_folder(source: Path, uri: str, name: str, last: str | None = None) -> None:
    """Copies a local folder into this one, the file `last` at the end: it says that the others are there."""
    folder = Folder(uri)
    files = [str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda file: (file == last, file)):
        folder.save(f"{name}/{file}", source / file)


def ray_storage(uri: str) -> dict[str, Any]:
    """The fields of Ray Train's RunConfig that say where the output is."""
    folder = Folder(uri)
    parent, _, name = folder.root.rpartition("/")
    if folder.local:
        return {"name": name, "storage_path": parent or "/"}
    return {
        "name": name,
        "storage_path": parent,
        "storage_filesystem": fs.PyFileSystem(_Patient(folder.filesystem)),
    }


def _patient(name: str) -> Callable[..., Any]:
    def call(self: _Patient, *arguments: Any, **options: Any) -> Any:
        return patiently(lambda: getattr(self.inner, name)(*arguments, **options))

    return call


class _Patient(fs.FileSystemHandler):  # type: ignore[misc]
    """A bucket's file system whose every call is patient, for small files; pickles into workers."""

    def __init__(self, inner: fs.FileSystem) -> None:
        self.inner = inner

    def get_type_name(self) -> str:
        return f"patient+{self.inner.type_name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Patient) and bool(self.inner.equals(other.inner))

    __hash__ = None  # type: ignore[assignment]

    get_file_info = _patient("get_file_info")
    get_file_info_selector = _patient("get_file_info")
    delete_dir = _patient("delete_dir")
    delete_file = _patient("delete_file")
    move = _patient("move")
    copy_file = _patient("copy_file")
    normalize_path = _patient("normalize_path")

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(patiently(lambda: self._read(path)))

    open_input_stream = open_input_file

    def _read(self, path: str) -> bytes:
        with self.inner.open_input_file(path) as file:
            content: bytes = file.read()
            return content

    def create_dir(self, path: str, recursive: bool) -> None:
        patiently(lambda: self.inner.create_dir(path, recursive=recursive))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        patiently(lambda: self.inner.delete_dir_contents(path, missing_dir_ok=missing_dir_ok))

    def delete_root_dir_contents(self) -> None:
        raise OSError("a bucket's root is never emptied")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        raise OSError("nothing can be added to a file in a bucket")

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(_Written(self.inner, path), mode="w")


class _Written(io.BytesIO):
    """A small file that is written at once when it is closed, so that it can be written again after a fault."""

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        super().__init__()
        self._filesystem, self._path = filesystem, path

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            patiently(lambda: self._write(content))

    def _write(self, content: bytes) -> None:
        with self._filesystem.open_output_stream(self._path) as stream:
            stream.write(content)
