"""What a clip is worth, by many measures at once; see measures.py, content.py and duplicates.py for each."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.score.content import BodyParts, TextArea
from pipeline.score.duplicates import PerceptualHashes
from pipeline.score.measures import (
    Blur,
    Brightness,
    CameraMotion,
    Measure,
    People,
    RepeatedFrames,
    SubjectMotion,
)


class Quality:
    """All measures of one clip: `update` with each chunk, then `result` once."""

    def __init__(self) -> None:
        self.measures: list[Measure] = [
            RepeatedFrames(),
            Blur(),
            Brightness(),
            SubjectMotion(),
            CameraMotion(),
            TextArea(),
            BodyParts(),
            PerceptualHashes(),
        ]

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        """frames (n, H, W, 3) uint8 RGB; people of each frame, best first; times (n,) seconds, increasing."""
        for measure in self.measures:
            measure.update(frames, people, times)

    def result(self) -> dict[str, Any]:
        """Scores by name; None for what could not be measured."""
        return {name: value for measure in self.measures for name, value in measure.result().items()}
