"""Files of jobs, uploads and results, in a folder or a bucket that all machines see.

The folder may also hold files of other people or of another database, so a database keeps its own in a
folder that is named by its id and holds a marker with that id; nothing else is ever deleted. In there every job has a
folder of its own, which is deleted with it. Results never change: their names are digests of everything they depend on,
down to all segments before. So a name is known before its file is there, and a segment that is made anew never meets
its old file. Frames are compressed without loss. Previews of segments in the making are no results, and do change.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from typing import IO, NamedTuple

import numpy as np
from safetensors.numpy import save

from posegen.common.storage import Folder
from posegen.video.lossless import compress_frames, decompress_frames
from serving.state.rows import JOB_ID, JobPlan
from serving.state.schedule import depends_on

MARKER = "posegen-database-id"
"""The file that tells whose a folder of jobs is."""
VIDEO = r"video-[0-9a-f]{16}\.mp4"
"""Names of finished videos in a job's folder, see `video_artifact`."""

log = logging.getLogger(__name__)


class Artifacts(Folder):
    """The jobs of one database, in a folder by local path or the URI of a bucket; each file is whole or absent."""

    def __init__(self, uri: str, database_id: str) -> None:
        """Opens the database's part of the folder; raises StorageError."""
        super().__init__(uri, f"posegen-{database_id}")
        self._database_id = database_id

    def mark(self) -> None:
        """Writes the marker; to be called before the first file of a job is written."""
        if not self.exists(MARKER):
            self.write(MARKER, self._database_id.encode())

    def jobs(self) -> list[str]:
        """Ids of the jobs that have files here, sorted."""
        return [name for name in self.folders() if re.fullmatch(JOB_ID, name)]

    def delete_job(self, job_id: str) -> None:
        """Deletes a job's files, if there are any. Without this database's marker they stay, and a warning is logged.

        Raises ValueError for what is no id of a job.
        """
        if not re.fullmatch(JOB_ID, job_id):
            raise ValueError(f"{job_id!r} is no id of a job, so nothing of that name is deleted")
        if not self.exists(job_id):
            return
        if self._is_marked():
            self.delete_folder(job_id)
        else:
            log.warning(
                "%s stays: the file %s beside it does not name this database", self.path(job_id), MARKER
            )

    def _is_marked(self) -> bool:
        try:
            return self.read(MARKER) == self._database_id.encode()
        except FileNotFoundError:
            return False

    def versions(self, job_id: str) -> list[tuple[str, float]]:
        """The finished videos of a job, each the digest in its name and the time when it was written in seconds since
        1970, newest first."""
        names = [name for name in self.names(job_id) if re.fullmatch(VIDEO, name)]
        times = {name: self._info(self.path(f"{job_id}/{name}")).mtime_ns / 1e9 for name in names}
        return [(name[6:-4], times[name]) for name in sorted(names, key=lambda name: -times[name])]

    def save_frames(self, name: str, frames: np.ndarray, cuts: Collection[int] = ()) -> None:
        """Keeps frames (F, H, W, 3) uint8, which can be loaded from one cut (or end) to another."""
        edges = sorted({0, len(frames), *(cut for cut in cuts if 0 < cut < len(frames))})
        self.write(name, packed_frames(frames[start:stop] for start, stop in pairwise(edges)))

    def load_frames(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames start to stop, not included, or to the last one, (F, H, W, 3) uint8; raises FileNotFoundError.

        Only the parts between cuts that hold them are read. A negative start counts from the end.
        """
        with self.open(name) as stream:
            parts = _parts(stream)
            wanted = range(parts[-1].stop)[start:stop]
            read = [part for part in parts if part.start < wanted.stop and wanted.start < part.stop]
            frames = np.concatenate([decompress_frames(part.read(stream)) for part in read])
        skipped = wanted.start - read[0].start
        return frames[skipped : skipped + len(wanted)]

    def job_bytes(self) -> dict[str, int]:
        """How many bytes the files of each job here take, by its id."""
        taken: dict[str, int] = {}
        for name, size, _ in self.walk():
            if re.fullmatch(JOB_ID, job_id := name.partition("/")[0]):
                taken[job_id] = taken.get(job_id, 0) + size
        return taken


def packed_frames(spans: Iterable[np.ndarray]) -> bytes:
    """A file of frames (F, H, W, 3) uint8 that are given span by span, and can be loaded so.

    It is of safetensors' format; each tensor holds the compressed frames of the span that names it.
    """
    parts, start = {}, 0
    for frames in spans:
        parts[f"{start}-{start + len(frames)}"] = np.frombuffer(compress_frames(frames), np.uint8)
        start += len(frames)
    return save(parts)


class _Part(NamedTuple):
    """Compressed frames start to stop, not included, and where their bytes lie in their file."""

    start: int
    stop: int
    place: int
    size: int

    def read(self, stream: IO[bytes]) -> bytes:
        stream.seek(self.place)
        return stream.read(self.size)


def _parts(stream: IO[bytes]) -> list[_Part]:
    """The parts of a file of frames in their order; the format begins with a header's length and the header."""
    length = int.from_bytes(stream.read(8), "little")
    header = json.loads(stream.read(length))
    parts = []
    for span, tensor in header.items():
        (start, stop), (first, last) = map(int, span.split("-")), tensor["data_offsets"]
        parts.append(_Part(start, stop, 8 + length + first, last - first))
    return sorted(parts)


def sound_artifact(job_id: str) -> str:
    """The name of the sound that goes with a job's video, if there is any."""
    return f"{job_id}/sound.mp4"


def prepared_artifact(job_id: str) -> str:
    """The name of what a job's uploads were made into."""
    return f"{job_id}/prepared.safetensors"


def frames_artifact(job_id: str, parameter: str) -> str:
    """The name of the frames that an uploaded mask or hand video was made into."""
    return f"{job_id}/{parameter}.safetensors"


def preview_artifact(job_id: str, index: int) -> str:
    """The name of the small JPEG of a segment in the making, which is written over and over."""
    return f"{job_id}/preview-{index:05d}.jpg"


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
