"""Where the person of a video is, told by colour alone and never by the pose that was asked for.

Each pixel belongs to whichever it looks more like, the known background at its place or one of the person's own
colours. That is not perfect; what it finds in the true video is the most that a generated one can reach.
"""

from __future__ import annotations

import cv2
import numpy as np

from posegen.evaluation.colour import lab

PERSON_COLOURS = 8
APART = 5.0
"""Lab distance from the background from which on a pixel of the reference picture is the person's."""
BLUR = 0.7
"""Standard deviation in pixels of the distances' smoothing."""


def person_colours(picture: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The main colours (K, 3) in Lab of whoever stands before a known background, both (H, W, 3) uint8.

    Raises ValueError where the two pictures are the same.
    """
    colours = lab(picture)
    there = (np.linalg.norm(colours - lab(background), axis=-1) > APART).astype(np.uint8)
    inner = cv2.erode(there, np.ones((3, 3), np.uint8))  # without the rim, which is half background
    person = colours[(inner if inner.sum() > PERSON_COLOURS else there) > 0]
    if not len(person):
        raise ValueError("The picture shows its background alone; give one with the person in it.")
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.1)
    count, labels = min(PERSON_COLOURS, len(person)), np.empty(0, np.int32)
    return cv2.kmeans(person, count, labels, stop, 2, cv2.KMEANS_PP_CENTERS)[2]


def find_person(video: np.ndarray, background: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Where the person is in a video (T, H, W, 3) uint8: (T, H, W) bool.

    background: (H, W, 3) or (T, H, W, 3) uint8, what the video would show without them, and as blurred. colours: those
    of `person_colours`.
    """
    pixels = lab(video)
    behind = np.linalg.norm(pixels - lab(background), axis=-1)
    person = np.min([np.linalg.norm(pixels - colour, axis=-1) for colour in colours], axis=0)
    difference = (behind - person).astype(np.float32)
    return np.stack([cv2.GaussianBlur(frame, (0, 0), BLUR) for frame in difference]) > 0


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks of one shape; 1 where both are empty."""
    union = (found | truth).sum()
    return float((found & truth).sum() / union) if union else 1.0
