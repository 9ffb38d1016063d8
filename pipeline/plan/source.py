"""A video of the input folder while it is worked on: fetched when it is first read, and once."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from posegen.common.faults import StorageFaultError, is_fault
from posegen.common.storage import Folder
from posegen.video import VideoInfo, probe


class Source:
    """A file by its name in a folder, whose local copy, if it needs one, lasts as long as the block."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name = folder, name
        self._stack = ExitStack()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def path(self) -> Path:
        """Where it lies on this machine; raises OSError."""
        return self._stack.enter_context(self.folder.local_copy(self.name))

    @cached_property
    def info(self) -> VideoInfo:
        """What is known of it; raises VideoError and OSError."""
        return probe(self.path)

    @cached_property
    def id(self) -> str:
        """The first 24 hexadecimal digits of its SHA-256; raises OSError."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:24]

    def id_or(self, other: str) -> str:
        """Its id, or another where it cannot be read; raises StorageFaultError where the storage is at fault."""
        try:
            return self.id
        except OSError as error:
            if is_fault(error):
                raise StorageFaultError(str(error)) from error
            return other

    def said(self, error: Exception) -> Exception:
        """The same error with the file called by its name in the folder, not by where it lay on the worker."""
        where = str(self.__dict__.get("path", self.name))
        return type(error)(str(error).replace(where, self.name))
