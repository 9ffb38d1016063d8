"""ONNX networks that see pictures: their size, scaling and batches.

The picture size and the batch are the file's own. A file whose batch is fixed (1 for the published detectors) is run as
often as needed, filled up with zeros; one whose batch is open runs what it is given at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posegen.driving.poses.runtime import OpenModel, on_cpu

Channels = tuple[float, float, float]


class PictureNetwork:
    """A network of one input (n, 3, height, width) float32, which holds (value - mean) / std of each channel.

    size: (width, height) of the pictures. Raises ValueError for a file that is no ONNX model or of another
    input.
    """

    def __init__(
        self,
        path: Path,
        mean: Channels = (0, 0, 0),
        std: Channels = (1, 1, 1),
        open_model: OpenModel = on_cpu,
    ) -> None:
        self._model = open_model(path)
        shape = self._model.input_shape
        if len(shape) != 4 or shape[1] != 3 or not all(isinstance(side, int) for side in shape[2:]):
            raise ValueError(
                f"{path} takes {shape} where (n, 3, height, width) is needed: give another file."
            )
        self.path = path
        self.size = int(shape[3]), int(shape[2])
        self._fixed = int(shape[0]) if isinstance(shape[0], int) else None
        self._mean = np.array(mean, np.float32).reshape(3, 1, 1)
        self._std = np.array(std, np.float32).reshape(3, 1, 1)

    def inputs(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """What the network takes, (n, 3, height, width) float32, for n pictures (height, width, 3) uint8."""
        inputs = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32, order="C")
        inputs -= self._mean
        inputs /= self._std
        return inputs

    def __call__(self, inputs: np.ndarray) -> list[np.ndarray]:
        """All outputs, (n, ...) each, for n > 0 inputs."""
        step = self._fixed or len(inputs)
        runs = []
        for start in range(0, len(inputs), step):
            some = inputs[start : start + step]
            if len(some) < step:
                some = np.concatenate([some, np.zeros((step - len(some), *some.shape[1:]), np.float32)])
            runs.append(self._model(some))
        return [np.concatenate(outputs)[: len(inputs)] for outputs in zip(*runs, strict=True)]
