"""What was encoded and is kept: spans, reference pictures and captions, a small file each, bounded in bytes.

- `latents/`  by model, for each span its latents and poses, for each reference picture its latents and image features;
- `text/`     by model, for each caption its states.

Names are hashes of all that the content depends on, so trainings with the same cache share what fits both. Latents are
kept as float16, which is exact to 3 digits and half as large, and an item is the same whether it was just encoded or
read from here. Files are whole or absent; one that another training has removed is encoded again.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np
from pyarrow import fs
from safetensors.numpy import load, save

from posegen.common.storage import Folder

Arrays = dict[str, np.ndarray]

FOLDERS = ("latents", "text")
ENDING = ".safetensors"
FREE = 0.1
"""Share of the bound that is left free, for what other trainings write between two looks at the folder."""
LOOK_AGAIN = 0.05
"""Share of the bound after whose writing the folder is looked at again."""


class Room(Protocol):
    """Asked before a file is written: whether there is room for so many bytes, which may be made."""

    def __call__(self, step: int | None, name: str, size: int) -> bool: ...


class Cache:
    """The files of a cache folder, local or in a bucket."""

    def __init__(self, folder: str, room: Room) -> None:
        self._folder, self._room = Folder(folder), room

    def read(self, name: str) -> Arrays | None:
        """A file's arrays; None where there is none."""
        try:
            content = self._folder.read(name + ENDING)
            if self._folder.local:  # when it was last needed, for trainings that begin later
                os.utime(self._folder.path(name + ENDING))
        except FileNotFoundError:
            return None
        return load(content)

    def write(self, step: int | None, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps arrays that were made for a step (None: for validation), unless there is no room for them."""
        content = save({key: np.ascontiguousarray(array) for key, array in arrays.items()})
        if self._room(step, name, len(content)):
            self._folder.write(name + ENDING, content)


class Keeper:
    """Keeps a cache within its bound; there is one in each training.

    What was not needed for longest leaves first. What a step of the window needs stays, so where the bound does not
    hold even that, files are not kept at all. Other trainings may use the folder too, each with a keeper of its own.

    names: the files, without their ending, that a step needs. window: so many steps are needed at once.
    """

    def __init__(self, folder: str, bound: float, names: Callable[[int], Iterable[str]], window: int) -> None:
        self._folder, self._bound, self._names, self._window = Folder(folder), bound, names, window
        self._sizes: dict[str, int] = {}  # by name, in the order in which they were last needed
        self._total = self._written = 0
        self._ahead: deque[tuple[int, list[str]]] = deque()
        self._needed: Counter[str] = Counter()
        self._look()

    def room(self, step: int | None, name: str, size: int) -> bool:
        """Whether a file of so many bytes may be written; removes others for it."""
        if step is not None:
            self._move_to(step)
        if self._written > LOOK_AGAIN * self._bound:
            self._look()
        self._forget(name)
        if not self._remove(self._total + size - int(self._bound * (1 - FREE))):
            return False
        self._sizes[name] = size
        self._total += size
        self._written += size
        return True

    def _remove(self, excess: int) -> bool:
        """Removes so many bytes, all or none, of files that the window does not need."""
        if excess <= 0:
            return True
        leaving: list[str] = []
        for name, size in self._sizes.items():
            if not self._needed[name]:
                leaving.append(name)
                excess -= size
                if excess <= 0:
                    break
        if excess > 0:
            return False
        for name in leaving:
            self._forget(name)
            try:
                self._folder.delete(name + ENDING)
            except FileNotFoundError:  # another training was faster
                continue
        return True

    def _forget(self, name: str) -> None:
        self._total -= self._sizes.pop(name, 0)

    def _move_to(self, step: int) -> None:
        """Moves the window on to begin a little before this step; encoders do not take steps quite in their order."""
        first = max(0, step - self._window)
        if self._ahead and not self._ahead[0][0] <= step:
            self._ahead.clear()
            self._needed.clear()
        while self._ahead and self._ahead[0][0] < first:
            self._needed.subtract(self._ahead.popleft()[1])
        self._needed = +self._needed
        following = self._ahead[-1][0] + 1 if self._ahead else first
        for later in range(following, step + self._window):
            names = list(self._names(later))
            self._ahead.append((later, names))
            self._needed.update(names)
            for name in names:
                if name in self._sizes:
                    self._sizes[name] = self._sizes.pop(name)

    def _look(self) -> None:
        """Finds out what is in the folder; files that are new to this keeper come first by their times."""
        found: dict[str, int] = {}
        for info in sorted(self._infos(), key=lambda info: info.mtime_ns or 0):
            name = info.path.removeprefix(f"{self._folder.root}/").removesuffix(ENDING)
            found[name] = info.size
        known = [name for name in self._sizes if name in found]
        others = [name for name in found if name not in self._sizes]
        self._sizes = {name: found[name] for name in (*others, *known)}
        self._total, self._written = sum(self._sizes.values()), 0

    def _infos(self) -> list[fs.FileInfo]:
        selectors = [
            fs.FileSelector(self._folder.path(name), allow_not_found=True, recursive=True) for name in FOLDERS
        ]
        infos = (info for selector in selectors for info in self._folder.filesystem.get_file_info(selector))
        return [info for info in infos if info.type == fs.FileType.File and info.path.endswith(ENDING)]
