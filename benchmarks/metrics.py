"""How well a generated video shows what was asked for: figures with the truth at hand, each with its interval.

Choices made: colours are compared in CIE Lab (D65), whose distances are near to what eyes see (CIE 1976: 2.3 is just
noticed). Where the person of a video is, is told by colour alone and never from the pose asked for: each pixel belongs
to whichever it looks more like, the known background at its place or one of the person's own colours. That is not
perfect; what it finds in the true video, and in the true video after the codec, is the most a model can reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from posegen.driving.skeleton import KEYPOINT_INDEX

PERSON_COLOURS = 8
APART = 5.0
"""Lab distance from the background from which on a pixel of the reference picture is the person's."""
BLUR = 0.7
"""Standard deviation in pixels of the distances' smoothing."""
RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """The mean of independent values, such as one for each clip, with its 95 % percentile bootstrap interval."""
    values = np.asarray(values, np.float64)
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def psnr(video: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of a uint8 video of any shape, from one mean squared error over all of it."""
    error = np.square(video.astype(np.float64) - truth).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks of one shape; 1 where both are empty."""
    union = (found | truth).sum()
    return float((found & truth).sum() / union) if union else 1.0


def lab(pictures: np.ndarray) -> np.ndarray:
    """CIE Lab (..., 3) float32 of uint8 RGB (..., 3): L 0..100, a and b about -127..127."""
    rows = pictures.reshape(-1, 1, 3).astype(np.float32) / 255
    return cv2.cvtColor(rows, cv2.COLOR_RGB2LAB).reshape(pictures.shape)


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


_BETWEEN = {
    "shirt": ({"left_shoulder": 0.3, "right_shoulder": 0.3, "left_hip": 0.2, "right_hip": 0.2},),
    "legs": ({"left_hip": 0.7, "left_knee": 0.3}, {"right_hip": 0.7, "right_knee": 0.3}),
    "skin": ({"nose": 1.0},),
    "hair": ({"left_ear": 0.9, "right_ear": 0.9, "left_shoulder": -0.4, "right_shoulder": -0.4},),
}
"""Where a part of a person is: places that are weighted means of joints; the top of the head lies behind the ears."""


def part_colours(video: np.ndarray, keypoints: np.ndarray, person: np.ndarray) -> dict[str, np.ndarray]:
    """Lab (n, 3) of a video at the places of shirt, legs, skin and hair, over all frames in which they are seen.

    video: (T, H, W, 3) uint8; keypoints: (T, 133, 3); person: (T, H, W) bool, where somebody is: a place outside it
    is not seen. A part that is never seen is left out.
    """
    height, width = video.shape[1:3]
    blurred = np.stack([cv2.blur(frame, (3, 3)) for frame in video])
    found = {}
    for part, places in _BETWEEN.items():
        seen = []
        for weights in places:
            joints = keypoints[:, [KEYPOINT_INDEX[name] for name in weights], :2]
            points = np.rint(joints.transpose(0, 2, 1) @ np.array([*weights.values()])).astype(int)  # (T, 2)
            x, y = points.T
            frames = np.flatnonzero((x >= 0) & (x < width) & (y >= 0) & (y < height))
            frames = frames[person[frames, y[frames], x[frames]]]
            seen.append(blurred[frames, y[frames], x[frames]])
        if sum(map(len, seen)):
            found[part] = lab(np.concatenate(seen))
    return found


def identity_error(video: np.ndarray, truth: np.ndarray, keypoints: np.ndarray, person: np.ndarray) -> float:
    """How far the person's colours are from the true ones: Lab distance of mean colours, mean over the parts.

    video, truth: (T, H, W, 3) uint8; keypoints, person: the truth's, as in `part_colours`. NaN where no part is seen.
    """
    there, wanted = (part_colours(frames, keypoints, person) for frames in (video, truth))
    distances = [np.linalg.norm(there[part].mean(0) - wanted[part].mean(0)) for part in wanted]
    return float(np.mean(distances)) if distances else float("nan")


def seam(video: np.ndarray, joints: Iterable[int]) -> float:
    """How much more a video (T, H, W, 3) jumps from one frame to the next at its joints than elsewhere; 1: the same.

    joints: the numbers of frames at which, or before which, segments meet. NaN where there is no other frame.
    """
    jumps = np.abs(np.diff(video.astype(np.float32), axis=0)).mean(
        axis=(1, 2, 3)
    )  # [t]: from frame t to t + 1
    at = np.zeros(len(jumps), bool)
    at[[joint - 1 for joint in joints]] = True
    return float(jumps[at].mean() / jumps[~at].mean()) if at.any() and not at.all() else float("nan")


def background_drift(video: np.ndarray, person: np.ndarray) -> np.ndarray:
    """How far the background's colours are from those of the first frame, (T,) mean Lab distance.

    video: (T, H, W, 3) uint8 of a still camera; person: (T, H, W) bool, generously where somebody is. NaN for a frame
    that shares no background with the first.
    """
    colours = lab(video)
    behind = ~person & ~person[0]
    distances = np.linalg.norm(colours - colours[0], axis=-1) * behind
    pixels = behind.sum(axis=(1, 2))
    return np.where(pixels > 0, distances.sum(axis=(1, 2)) / np.maximum(pixels, 1), np.nan)
