"""All measures of a clip's picture and motion at once, from the files beside this one."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.score.distinct import DistinctPictures
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
from pipeline.score.text import TextArea


class Quality:
    """All measures of one clip: `update` with each chunk, then `result` once.

    further: measures that need weights of the user's own, explicit content and the embedding.
    """

    def __init__(self, *further: Measure) -> None:
        self.measures: list[Measure] = [
            RepeatedFrames(),
            DistinctPictures(),
            Blur(),
            Brightness(),
            SubjectMotion(),
            CameraMotion(),
            TextArea(),
            PerceptualHashes(),
            *further,
        ]

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        """frames (n, H, W, 3) uint8 RGB; people of each frame, best first; times (n,) seconds, increasing."""
        for measure in self.measures:
            measure.update(frames, people, times)

    def result(self) -> dict[str, Any]:
        """Scores by name; None for what could not be measured."""
        return {name: value for measure in self.measures for name, value in measure.result().items()}
