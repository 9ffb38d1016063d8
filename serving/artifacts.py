"""Files of jobs, uploads and results: each whole or absent, in a folder or a bucket that all machines see.

Choices made: a job's files lie in a folder of its id, so they are deleted with it and no client's are mixed with
another's. Results are immutable and named by a digest of everything that they depend on, through all segments before;
so a name is known before its file is there, and a segment that is made anew never meets its old file. Frames are
stored as they are, without loss.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
from pyarrow import fs
from safetensors.numpy import load, save

from serving.state.rows import JobPlan
from serving.state.schedule import depends_on


class ArtifactsError(RuntimeError):
    """The folder or bucket cannot be used; the message says which and why."""


class Artifacts:
    """A folder by its local path or the URI of a bucket (s3://, gs://). Names are relative, with slashes."""

    def __init__(self, uri: str) -> None:
        """Opens the folder; raises ArtifactsError."""
        self._local = "://" not in uri
        self._filesystem: fs.FileSystem = fs.LocalFileSystem()
        self._root = str(Path(uri).resolve())
        try:
            if not self._local:
                self._filesystem, self._root = fs.FileSystem.from_uri(uri)
        except (pa.ArrowInvalid, OSError) as error:
            raise ArtifactsError(f"{uri} is no folder that can be opened: {error}") from error

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return self._filesystem.get_file_info(self._path(name)).is_file

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file."""
        with self._sink(name) as stream:
            stream.write(content)

    def save(self, name: str, file: Path) -> None:
        """Copies a local file, however large."""
        with file.open("rb") as source, self._sink(name) as stream:
            shutil.copyfileobj(source, stream, 1 << 20)

    def read(self, name: str) -> bytes:
        """A file's content; raises FileNotFoundError."""
        with self.open(name) as stream:
            return stream.read()

    def open(self, name: str) -> pa.NativeFile:
        """A file to read from, with `seek` and `size`; raises FileNotFoundError."""
        return self._filesystem.open_input_file(self._path(name))

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """A local path of a file as long as the block lasts: its own, or that of a copy of a bucket's object."""
        if self._local:
            yield Path(self._path(name))
            return
        with tempfile.TemporaryDirectory(prefix="posegen-") as scratch:
            copy = Path(scratch) / Path(name).name
            with self.open(name) as remote, copy.open("wb") as local:
                shutil.copyfileobj(remote, local, 1 << 20)
            yield copy

    def save_frames(self, name: str, frames: np.ndarray) -> None:
        """Keeps frames (F, H, W, 3) uint8."""
        self.write(name, save({"frames": frames}))

    def load_frames(self, name: str) -> np.ndarray:
        """Frames (F, H, W, 3) uint8; raises FileNotFoundError."""
        return load(self.read(name))["frames"]

    def folders(self) -> list[str]:
        """Names of the jobs that have files here."""
        selector = fs.FileSelector(self._root, allow_not_found=True)
        infos = self._filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)

    def delete(self, job_id: str) -> None:
        """Deletes all files of a job; none need be there."""
        if self._filesystem.get_file_info(self._path(job_id)).type != fs.FileType.NotFound:
            self._filesystem.delete_dir(self._path(job_id))

    @contextmanager
    def _sink(self, name: str) -> Iterator[IO[bytes]]:
        """A stream whose file appears when the block ends, and not if it ends in an error."""
        path = self._path(name)
        if not self._local:
            with self._bucket_sink(path) as stream:
                yield stream
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=Path(path).parent, suffix=".part", delete=False) as part:
            try:
                yield part
                part.flush()
                os.fsync(part.fileno())  # else a power cut could leave a committed result empty
                Path(part.name).replace(path)
            finally:
                Path(part.name).unlink(missing_ok=True)

    @contextmanager
    def _bucket_sink(self, path: str) -> Iterator[IO[bytes]]:
        whole = False
        try:
            with self._filesystem.open_output_stream(path) as stream:
                yield stream
                whole = True
        finally:
            if not whole:  # closing, which cannot be avoided, made an object of what was written
                self._filesystem.delete_file(path)

    def _path(self, name: str) -> str:
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{name!r} is no name of an artifact; give a relative path")
        return f"{self._root}/{name}"


def prepared_artifact(job_id: str) -> str:
    """The name of what a job's uploads were made into."""
    return f"{job_id}/prepared.safetensors"


def segment_artifacts(job_id: str, plan: JobPlan, seeds: Mapping[int, int]) -> dict[int, str]:
    """The names of all segments' frames, by segment. seeds: of each segment's noise."""
    digests: dict[int, str] = {}
    for index in plan.timeline.order():
        before = [digests[other] for other in depends_on(plan, index)]
        digests[index] = _digest(plan.content_id, index, seeds[index], before)
    return {index: f"{job_id}/segment-{index:05d}-{digests[index]}.safetensors" for index in sorted(digests)}


def video_artifact(job_id: str, segments: Mapping[int, str]) -> str:
    """The name of the video of these segments."""
    return f"{job_id}/video-{_digest(*sorted(segments.values()))}.mp4"


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
