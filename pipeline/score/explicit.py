"""Explicit content, by a detector of the user's own: none comes with the project, as no good one has a free licence.

The detector is an ONNX file with

- one input (n, 3, height, width) float32: pictures in red, green, blue, 0..1, scaled to fit, black below or to the
  right; height and width are fixed, n may be 1 or open;
- one output (n, 1) float32: how surely the picture is explicit, 0..1.

A network of several classes is brought to this form by a reduction inside the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.score.looks import Looks
from pipeline.score.measures import People, crop
from posegen.driving.poses.network import PictureNetwork
from posegen.driving.poses.runtime import OpenModel, on_cpu

CHECKED = 0.5
"""Score from which a look is checked by further ones."""
FORM = "give an ONNX file of one input (n, 3, height, width) and one output (n, 1) of scores between 0 and 1"


class ExplicitDetector:
    """The network of a file as described above. Raises ValueError, a sentence, for a file of another form."""

    def __init__(self, path: Path, open_model: OpenModel = on_cpu) -> None:
        self.path = path
        self._network = PictureNetwork(path, std=(255, 255, 255), open_model=open_model)
        width, height = self._network.size
        try:
            outputs = self._network(self._network.inputs([np.zeros((height, width, 3), np.uint8)]))
        except Exception as error:  # whatever the runtime raises, the file does not have the form
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} cannot be run on one picture ({reason}): {FORM}") from error
        shapes = [output.shape for output in outputs]
        if shapes != [(1, 1)]:
            raise ValueError(f"{path} answers one picture with arrays of shapes {shapes}: {FORM}")

    def __call__(self, picture: np.ndarray) -> float:
        """How explicit a picture (H, W, 3) uint8 RGB is, 0..1; raises ValueError where the answer lies outside."""
        width, height = self._network.size
        scale = min(width / picture.shape[1], height / picture.shape[0])
        inner = tuple(max(1, round(side * scale)) for side in picture.shape[1::-1])
        padded = np.zeros((height, width, 3), np.uint8)
        padded[: inner[1], : inner[0]] = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
        score = self._network(self._network.inputs([padded]))[0].item()
        if not 0 <= score <= 1:
            raise ValueError(f"{self.path} gave {score} for a picture: {FORM}")
        return score


class ExplicitContent:
    """unsafe, 0..1: highest score of the subject and surroundings, or of the whole picture where nobody is seen; None
    for an empty clip.

    A score of 0.5 or more is checked in further frames, and counts as the median of those looks: one false answer does
    not decide. seconds: length of the clip.
    """

    def __init__(self, detector: ExplicitDetector, seconds: float) -> None:
        self.detector = detector
        self.looks = Looks(seconds)
        self.scores: list[list[float]] = []  # of each look, and of the further ones that checked it

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        for frame, present, time in zip(frames, people, times.tolist(), strict=True):
            if not self.looks.due(time):
                continue
            part = crop(frame, present[0].box, grow=0.25) if present else frame
            score = self.detector(part if part.size else frame)
            if self.looks.further:
                self.scores[-1].append(score)
                continue
            self.scores.append([score])
            if score >= CHECKED:
                self.looks.found(time)

    def result(self) -> dict[str, Any]:
        return {"unsafe": max((float(np.median(scores)) for scores in self.scores), default=None)}
