"""What networks see in a clip's picture: writing, naked bodies, women and men.

Choices made: both networks come in wheels, run on one thread through onnxruntime, load once a process and
look at a frame every few seconds. Only their files and PP-OCR's contour code are taken from the wheels, whose
own classes start threads of their own and run more networks than are wanted.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.score.measures import People, Ticks, crop, mean
from posegen.driving.poses.runtime import ONNXModel


def load_networks() -> None:
    """Loads both networks now rather than at the first picture; raises ModuleNotFoundError without their wheels."""
    _text_detector()
    _body_part_detector()


class TextArea:
    """text_area, 0..1: share of the picture inside text boxes, mean of a frame every 5 seconds.

    The network is the text detector of PP-OCRv4 in the wheel rapidocr-onnxruntime, at a long side of 640
    pixels.
    """

    SIDE = 640

    def __init__(self) -> None:
        self.ticks, self.shares = Ticks(5.0), list[float]()

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        for index in self.ticks.pick(times):
            self.shares.append(text_share(frames[index]))

    def result(self) -> dict[str, Any]:
        return {"text_area": mean(self.shares)}


def text_share(frame: np.ndarray) -> float:
    """Share of one frame (H, W, 3) uint8 RGB that lies in text boxes, 0..1."""
    scale = min(1.0, TextArea.SIDE / max(frame.shape[:2]))
    height, width = (max(32, round(side * scale / 32) * 32) for side in frame.shape[:2])
    image = cv2.cvtColor(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    batch = (image.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    model, boxes_of = _text_detector()
    boxes, _ = boxes_of(model(batch)[0], (height, width))
    covered = np.zeros((height, width), np.uint8)
    cv2.fillPoly(covered, list(boxes.astype(np.int32)), 1)
    return float(covered.mean())


def _wheel_file(package: str, name: str) -> Path:
    """A file in an installed wheel's package, found without importing the package."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"the package {package} is not installed; install the project's requirements"
        )
    return Path(spec.origin).parent / name


@cache
def _text_detector() -> tuple[ONNXModel, Any]:
    from rapidocr_onnxruntime.ch_ppocr_det.utils import DBPostProcess

    path = _wheel_file("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx")
    # The wheel's own settings (config.yaml).
    return ONNXModel(path), DBPostProcess(box_thresh=0.5, unclip_ratio=1.6, use_dilation=True)


class BodyParts:
    """unsafe, 0..1: highest score of an explicit body part, by NudeNet (wheel nudenet), on the subject and
    surroundings every 2 seconds; None for an empty clip.
    """

    EXPLICIT = (
        "FEMALE_BREAST_EXPOSED",
        "FEMALE_GENITALIA_EXPOSED",
        "MALE_GENITALIA_EXPOSED",
        "BUTTOCKS_EXPOSED",
        "ANUS_EXPOSED",
    )

    def __init__(self) -> None:
        self.ticks, self.scores = Ticks(2.0), list[dict[str, float]]()

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        for index in self.ticks.pick(times):
            part = crop(frames[index], people[index][0].box, grow=0.25) if people[index] else frames[index]
            if part.size:
                self.scores.append(body_part_scores(part))

    def result(self) -> dict[str, Any]:
        explicit = [score[name] for score in self.scores for name in self.EXPLICIT]
        return {"unsafe": max(explicit, default=None)}


def body_part_scores(image: np.ndarray) -> dict[str, float]:
    """The highest score, 0..1, of each of NudeNet's 18 classes in a picture (H, W, 3) uint8 RGB."""
    model, labels = _body_part_detector()
    scale = 320 / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    padded = np.zeros((320, 320, 3), np.uint8)
    padded[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    batch = (padded.astype(np.float32) / 255).transpose(2, 0, 1)[None]
    scores = model(batch)[0][0, 4:]  # (18, anchors), after 4 rows of boxes
    return dict(zip(labels, scores.max(axis=1).tolist(), strict=True))


@cache
def _body_part_detector() -> tuple[ONNXModel, list[str]]:
    from nudenet import nudenet

    return ONNXModel(_wheel_file("nudenet", "320n.onnx")), getattr(nudenet, "__labels")
