"""The files below a local folder, through linked folders, past whatever cannot be followed.

Folders of the disk come before linked ones, each folder once: however links cross, the walk ends, and a file keeps the
name that it has without them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

LeftOut = Callable[[str, str], None]
"""Told the name of what is left out, and what kind of thing that is, in the plural: "links that lead nowhere"."""
UNREADABLE = "folders that may not be read"
NOWHERE = "links that lead nowhere"
TWICE = "links to folders that are listed already"
OUTPUT = "folders that are the output"
VANISHED = "files that cannot be looked at"


def walk_local(root: str, left_out: LeftOut, without: str | None = None) -> Iterator[tuple[str, int, int]]:
    """Every file below `root` but for those in the folder `without`, as (name, bytes, time of change in ns).

    Each entry is read as it is yielded. Raises OSError where the root itself cannot be read.
    """
    output = _identity(without) if without is not None and Path(without).is_dir() else None
    seen: set[tuple[int, int]] = set()
    folders, links = [root], list[str]()
    while folders or links:
        if not folders:
            links.sort(reverse=True)
        linked = not folders
        folder = links.pop() if linked else folders.pop()
        name = os.path.relpath(folder, root)
        try:
            identity = _identity(folder)
            if identity in seen or identity == output:
                if identity == output or linked:
                    left_out(name, OUTPUT if identity == output else TWICE)
                continue
            entries = os.scandir(folder)
        except OSError:
            if folder == root:
                raise
            left_out(name, UNREADABLE)
            continue
        seen.add(identity)
        with entries:
            for entry in entries:
                yield from _look_at(entry, root, folders, links, left_out)


def _look_at(
    entry: os.DirEntry[str], root: str, folders: list[str], links: list[str], left_out: LeftOut
) -> Iterator[tuple[str, int, int]]:
    """Yields a file, and puts a folder down for later."""
    name = os.path.relpath(entry.path, root)
    try:
        if entry.is_dir():
            (links if entry.is_symlink() else folders).append(entry.path)
        elif entry.is_file():
            status = entry.stat()
            yield name, status.st_size, status.st_mtime_ns
        elif entry.is_symlink() and not Path(entry.path).exists():
            left_out(name, NOWHERE)
    except OSError:  # a link to itself, or a file that was deleted since
        left_out(name, NOWHERE if entry.is_symlink() else VANISHED)


def _identity(folder: str) -> tuple[int, int]:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino
