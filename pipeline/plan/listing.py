"""Which files there are: the input folder is walked once and written down in parts, so memory does not grow with it.

The finished tables cover what this listing covers: a file that is no longer there leaves them at the next run.
"""

from __future__ import annotations

import mimetypes
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from pipeline.config import CurateConfig
from posegen.common.progress import Progress, Stage
from posegen.common.storage import Folder, StorageError

LISTED = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("changed", pa.int64())])
PART = 5_000
"""Files in a part of the listing; the driver holds one part at a time."""
EXAMPLES = 3  # names that are said of each kind of thing left out
# Python's own table alone: the machine's mime.types would make the same folder list differently elsewhere.
_TYPES = mimetypes.MimeTypes()


def list_videos(config: CurateConfig) -> Stage:
    """Writes the listing of the input folder.

    What is no video by its name (text, pictures, hidden files, names that are no UTF-8) and what cannot be followed
    (folders that may not be read, links that lead nowhere or in a circle) is left out, and said so; so is the output
    where it lies within the input. Raises StorageError where the folder is not there, is the output, holds no such
    file, or cannot be read, and where the output cannot be written.
    """
    source, target = Folder(config.input), Folder(config.output)
    if source.root == target.root and source.filesystem.equals(target.filesystem):
        raise StorageError(f"{config.input} is both input and output; give the output a folder of its own")
    skipped, unfollowed = Counter[str](), dict[str, list[str]]()
    progress = Progress("list", "files")
    try:
        if not source.exists():
            raise StorageError(f"{config.input} does not exist; give the folder that holds the raw videos")
        found = source.walk(lambda name, kind: unfollowed.setdefault(kind, []).append(name), without=target)
        candidates = islice(_candidates(found, skipped), config.limit)
        _write_parts(candidates, Folder(config.output, "work"), progress)
    except OSError as error:
        raise StorageError(f"{config.input} cannot be listed into {config.output}: {error}") from error
    for sentence in _left_out(skipped, unfollowed):
        print(f"list     left out {sentence}", file=sys.stderr)
    if not progress.done:
        raise StorageError(f"{config.input} holds no video file; look for the folder that does")
    progress.total = progress.done
    return progress.end()


def _left_out(skipped: Counter[str], unfollowed: dict[str, list[str]]) -> Iterator[str]:
    """What is said of the files of these suffixes and the other things by kind."""
    if skipped:
        kinds = ", ".join(
            f"{count:,} {suffix or 'without suffix'}" for suffix, count in skipped.most_common(5)
        )
        yield f"{skipped.total():,} files that are no video by their name ({kinds})"
    for kind, names in unfollowed.items():
        shown = ", ".join(map(repr, sorted(names)[:EXAMPLES])) + ", .." * (len(names) > EXAMPLES)
        yield f"{kind}: {len(names):,} ({shown})"


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


def _candidates(
    found: Iterable[tuple[str, int, int]], skipped: Counter[str]
) -> Iterator[tuple[str, int, int]]:
    for name, size, changed in found:
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
