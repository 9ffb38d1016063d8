"""Single-shot detectors of MediaPipe's kind: anchors, decoding, weighted non-maximum suppression.

The anchors are centres only (the networks give sizes in input pixels), as MediaPipe's graphs set `fixed_anchor_size`;
overlapping detections are averaged by score, which steadies boxes and key points.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from posegen.driving.poses.regions import Region, letterbox, overlap
from posegen.driving.poses.runtime import TFLiteModel, sigmoid


@dataclass(frozen=True)
class Detection:
    """One detected thing: box (4,) x0, y0, x1, y1 and points (K, 2) in pixels of the frame, score 0..1."""

    box: np.ndarray
    points: np.ndarray
    score: float


class Detector:
    """A single-shot detector over a square input that sees pixel values from -1 to 1.

    strides, cells: the anchor layers' pixels a cell and anchors a cell, in the order of the network's output.
    """

    def __init__(self, model: TFLiteModel, strides: list[int], cells: list[int], threshold: float) -> None:
        self._model = model
        self._anchors = anchor_centres(model.size, strides, cells)
        self._threshold = threshold

    def __call__(self, frame: np.ndarray, region: Region | None = None) -> list[Detection]:
        """Detections in a frame (H, W, 3) uint8 RGB, or in a region of it, best first."""
        region = region or letterbox(frame.shape[1], frame.shape[0])
        side = self._model.size
        crop = region.crop(frame, side, cv2.BORDER_CONSTANT)
        values, logits = self._model(crop, scale=1 / 127.5, offset=-1.0)
        scores = sigmoid(logits[:, 0])
        found = scores >= self._threshold
        boxes, points = decode(values[found], self._anchors[found])
        merged = merge(boxes, points, scores[found])
        return [_in_frame(detection, region, side) for detection in merged]


def anchor_centres(size: int, strides: list[int], cells: list[int]) -> np.ndarray:
    """(N, 2) anchor centres in input pixels: layer after layer, row by row, each cell's anchors together."""
    layers = []
    for stride, each in zip(strides, cells, strict=True):
        line = (np.arange(-(-size // stride)) + 0.5) * stride
        grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
        layers.append(grid.repeat(each, 0))
    return np.concatenate(layers).astype(np.float32)


def decode(values: np.ndarray, anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) x0, y0, x1, y1 and points (N, K, 2) in input pixels.

    values: (N, 4 + 2K): centre x, y (from the anchor), width, height, then the points x, y (from the anchor).
    """
    centres, sizes = values[:, :2] + anchors, values[:, 2:4]
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], 1)
    return boxes, values[:, 4:].reshape(len(values), (values.shape[1] - 4) // 2, 2) + anchors[:, None]


def merge(boxes: np.ndarray, points: np.ndarray, scores: np.ndarray, limit: float = 0.3) -> list[Detection]:
    """Each best detection averaged, by score, with those that overlap it by more than `limit`; best first."""
    left = np.argsort(-scores, kind="stable")
    merged = []
    while len(left):
        same = overlap(boxes[left[0]], boxes[left]) > limit
        same[0] = True
        group = left[same]
        weights = scores[group] / scores[group].sum()
        box, mean = weights @ boxes[group], np.tensordot(weights, points[group], 1)
        merged.append(Detection(box, mean, float(scores[left[0]])))
        left = left[~same]
    return merged


def _in_frame(detection: Detection, region: Region, side: int) -> Detection:
    """From input pixels to pixels of the frame (the box of a turned region becomes its bounding box)."""
    x0, y0, x1, y1 = detection.box
    corners = region.to_frame(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), side)
    box = np.concatenate([corners.min(0), corners.max(0)])
    return Detection(box, region.to_frame(detection.points, side), detection.score)
