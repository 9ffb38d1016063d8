"""People in frames by YOLOX, from its ONNX files with raw outputs (strides 8, 16, 32).

The numbers are those that the publishers' files expect: BGR 0..255, letterbox in grey 114, class 0 of COCO, score
(objectness x class) above 0.3, non-maximum suppression at IoU 0.45. Only candidates above the score are decoded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from posegen.common.weights import Weight
from posegen.driving.poses.boxes import letterbox, suppress
from posegen.driving.poses.network import PictureNetwork
from posegen.driving.poses.runtime import OpenModel, on_cpu

DETECTOR = Weight("yolox_l.onnx", hub="yzd-v/DWPose")  # Apache-2.0
STRIDES = (8, 16, 32)
SCORE = 0.3
SAME_PERSON = 0.45
PERSON = 0  # COCO's class


class YoloxDetector:
    """Detects people; the input size (640 for YOLOX-l, 416 for nano and tiny) is read from the file.

    batch: frames whose inputs are held in memory, and run at once where the file leaves their number open.
    """

    def __init__(self, path: Path, open_model: OpenModel = on_cpu, batch: int = 8) -> None:
        self._network = PictureNetwork(path, open_model=open_model)
        self._cells, self._strides = grid(self._network.size)
        self._batch = batch

    def __call__(self, frames: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each frame of (N, H, W, 3) uint8 RGB: boxes (K, 4) in its pixels and scores (K,), best first.

        A box may reach beyond the frame, as the person may.
        """
        found = []
        for start in range(0, len(frames), self._batch):
            seen = [letterbox(frame, self._network.size) for frame in frames[start : start + self._batch]]
            raw = self._network(self._network.inputs([picture[..., ::-1] for picture, _ in seen]))[0]
            if raw.shape[1:] != (len(self._cells), 85):
                raise ValueError(
                    f"{self._network.path} gives {raw.shape}, not YOLOX's raw cells: give another file."
                )
            found += [self._decode(cells, scale) for cells, (_, scale) in zip(raw, seen, strict=True)]
        return found

    def _decode(self, raw: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """raw: (cells, 85): offset and log size in strides, objectness, 80 classes."""
        scores = raw[:, 4] * raw[:, 5 + PERSON]
        found = scores > SCORE
        scores, strides = scores[found], self._strides[found, None]
        centres = (raw[found, :2] + self._cells[found]) * strides
        halves = np.exp(raw[found, 2:4]) * strides / 2
        boxes = np.concatenate([centres - halves, centres + halves], axis=1) / scale
        kept = suppress(boxes, scores, SAME_PERSON)
        return boxes[kept], scores[kept]


def grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Column and row (cells, 2) and stride (cells,) of the output's rows, for an input of (width, height)."""
    cells, strides = [], []
    for stride in STRIDES:
        columns, rows = np.meshgrid(np.arange(size[0] // stride), np.arange(size[1] // stride))
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        strides.append(np.full(columns.size, stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)
