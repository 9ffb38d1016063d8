"""Which files there are: the input folder is walked once and written down in parts, so memory does not grow with it.

The finished tables cover what this listing covers: a file that is no longer there leaves them at the next run.
"""

from __future__ import annotations

import mimetypes
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from pipeline.config import CurateConfig
from posegen.common.progress import Progress, Stage
from posegen.common.storage import Folder, StorageError

LISTED = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("changed", pa.int64())])
PART = 5_000
"""Files in a part of the listing; the driver holds one part at a time."""
# Python's own table only: with the machine's mime.types the same folder could be listed differently elsewhere.
_TYPES = mimetypes.MimeTypes()


def list_videos(config: CurateConfig) -> Stage:
    """Writes the listing of the input folder.

    Files that are no video by their name (text, pictures, hidden files, names that are no UTF-8) are left out, and said
    so. Raises StorageError where the folder is not there, holds no such file, or cannot be read, and where the output
    cannot be written.
    """
    source, work = Folder(config.input), Folder(config.output, "work")
    skipped: Counter[str] = Counter()
    progress = Progress("list", "files")
    try:
        if not source.exists():
            raise StorageError(f"{config.input} does not exist; give the folder that holds the raw videos")
        _write_parts(_candidates(source, skipped), work, progress)
    except OSError as error:
        raise StorageError(f"{config.input} cannot be listed into {config.output}: {error}") from error
    if not progress.done:
        raise StorageError(f"{config.input} holds no video file; look for the folder that does")
    if skipped:
        kinds = ", ".join(
            f"{count:,} {suffix or 'without suffix'}" for suffix, count in skipped.most_common(5)
        )
        print(
            f"list     left out {skipped.total():,} files that are no video by their name ({kinds})",
            file=sys.stderr,
        )
    progress.total = progress.done
    return progress.end()


def _write_parts(rows: Iterator[tuple[str, int, int]], work: Folder, progress: Progress) -> None:
    """Writes rows of `LISTED` part by part, and deletes the parts that a longer listing left."""
    parts = 0
    while part := list(islice(rows, PART)):
        columns = [list(column) for column in zip(*part, strict=True)]
        work.write_table(f"listing/{parts:06}.parquet", pa.table(columns, LISTED))
        parts += 1
        progress.add(len(part))
    for name in work.names("listing"):
        if int(Path(name).stem) >= parts:
            work.delete(f"listing/{name}")


def _candidates(source: Folder, skipped: Counter[str]) -> Iterator[tuple[str, int, int]]:
    for name, size, changed in source.walk():
        if may_be_video(name):
            yield name, size, changed
        else:
            skipped[Path(name).suffix.lower()] += 1


def may_be_video(name: str) -> bool:
    """Whether a file is worth opening as video: not hidden, and not text, picture or document by its name.

    A name that is no UTF-8, which tables cannot hold, counts as none.
    """
    hidden = any(part.startswith(".") for part in name.split("/"))
    if hidden or name.encode(errors="ignore").decode() != name:
        return False
    kind = _TYPES.guess_type(name)[0]
    return kind is None or kind.startswith(("video/", "audio/"))


def listed_parts(config: CurateConfig) -> list[str]:
    """Names of the listing's parts, below the output's work folder."""
    return [f"listing/{name}" for name in Folder(config.output, "work").names("listing")]


def read_part(config: CurateConfig, name: str) -> pa.Table:
    """One part of the listing, a table of schema `LISTED`."""
    return Folder(config.output, "work").read_table(name)
