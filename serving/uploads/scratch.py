"""Folders on the local disk for files that are needed only while they are worked on.

A process holds a lock on the folder it works in, which ends with the process, however it ends. So the next process can
tell what killed ones have left behind, and deletes it; otherwise every kill would cost some of the disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "posegen-scratch-"
YOUNG_S = 60.0
"""Seconds for which a folder without a lock may be one that is just being made."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder, which is deleted when the block ends."""
    _sweep()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        lock = _lock(Path(name))
        try:
            yield Path(name)
        finally:
            os.close(lock)


def _sweep() -> None:
    """Deletes the folders that killed processes have left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # in use, or deleted meanwhile
            if time.time() - folder.stat().st_mtime > YOUNG_S:
                lock = _lock(folder)
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int:
    """Takes the lock on a folder, to be closed; raises OSError where another process has it."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
