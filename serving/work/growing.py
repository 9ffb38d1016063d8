"""A video that can be watched while it is made: fragmented MP4 in numbered parts, and a list of their sizes.

The parts one after another are one playable file, which only grows: the first begins with the header (ffmpeg's
`empty_moov`), and every part ends with a whole fragment. Encoding is reproducible, so a writer that takes over from a
lost one writes the same parts again, and the list, the only file here that changes, never gets shorter.
"""

from __future__ import annotations

import json

from serving.state.artifacts import Artifacts


class GrowingVideo:
    """The parts of the video that will be the artifact `video`."""

    def __init__(self, artifacts: Artifacts, video: str) -> None:
        self._artifacts, self._video = artifacts, video
        self._written: list[int] = []

    def append(self, part: bytes) -> None:
        """Adds the next part; the writer's first is the video's first."""
        self._artifacts.write(self.part(len(self._written)), part)
        self._written.append(len(part))
        if len(self._written) > len(self.sizes()):
            self._artifacts.write(self._list, json.dumps(self._written).encode())

    def sizes(self) -> list[int]:
        """The sizes in bytes of the parts that are there."""
        try:
            return json.loads(self._artifacts.read(self._list))
        except FileNotFoundError:
            return []

    def part(self, number: int) -> str:
        """The name of a part's file."""
        return f"{self._video}.part-{number:05d}"

    @property
    def _list(self) -> str:
        return f"{self._video}.parts"
