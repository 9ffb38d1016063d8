"""The colours a person wears above and below the waist, by name.

A colour is the median of the pixels in the middle of the chest and along the upper thighs, one frame a second, and has
the name of the nearest colour of a short table in CIE Lab. A region of the face's own colour counts as bare skin and
gets no name.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.score.measures import People, Ticks
from posegen.driving.skeleton import KEYPOINT_INDEX, VISIBLE, standing_height

SKIN_DISTANCE = 12.0  # CIE76; a colour nearer to the face's is taken for skin
LEAST_PIXELS = 60

# Names after the CSS colours they are near to, in sRGB; worn colours are duller than their namesakes.
COLOURS = (
    ("black", (18, 18, 20)),
    ("black", (40, 40, 42)),
    ("grey", (85, 85, 88)),
    ("grey", (128, 128, 128)),
    ("grey", (170, 170, 172)),
    ("white", (215, 215, 215)),
    ("white", (245, 245, 245)),
    ("red", (170, 30, 40)),
    ("red", (215, 45, 50)),
    ("dark red", (95, 25, 35)),
    ("orange", (225, 120, 40)),
    ("yellow", (230, 195, 60)),
    ("yellow", (205, 150, 30)),
    ("green", (50, 120, 60)),
    ("green", (110, 160, 70)),
    ("dark green", (35, 60, 40)),
    ("turquoise", (50, 160, 160)),
    ("blue", (40, 90, 180)),
    ("blue", (70, 110, 160)),
    ("light blue", (150, 190, 225)),
    ("dark blue", (25, 35, 75)),
    ("purple", (110, 60, 140)),
    ("pink", (225, 120, 160)),
    ("pink", (235, 180, 190)),
    ("brown", (100, 65, 45)),
    ("brown", (140, 95, 65)),
    ("beige", (205, 185, 155)),
)


@dataclass(frozen=True)
class Clothing:
    """Names of the colours worn above and below the waist; None where not seen, or bare."""

    upper: str | None = None
    lower: str | None = None


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """Colours (..., 3) sRGB 0..255 -> CIE Lab, L 0..100."""
    values = np.asarray(rgb, np.float32).reshape(1, -1, 3) / 255
    return cv2.cvtColor(values, cv2.COLOR_RGB2LAB).reshape(np.shape(rgb))


_TABLE = to_lab(np.array([rgb for _, rgb in COLOURS]))


def colour_name(lab: np.ndarray) -> str:
    """The name of a CIE Lab colour (3,): that of the nearest in `COLOURS` by CIE76."""
    return COLOURS[int(np.linalg.norm(_TABLE - lab, axis=1).argmin())][0]


class ClothingColours:
    """Gathers the subject's colours chunk by chunk; frames (n, H, W, 3) uint8 RGB, people best first."""

    def __init__(self) -> None:
        self.ticks = Ticks(1.0)
        self.colours: dict[str, list[np.ndarray]] = {"upper": [], "lower": [], "face": []}

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        for index in self.ticks.pick(times):
            if people[index]:
                keypoints = people[index][0].keypoints
                for name, mask in regions(keypoints, frames.shape[1:3]).items():
                    pixels = frames[index][mask > 0]
                    if len(pixels) >= LEAST_PIXELS:
                        self.colours[name].append(to_lab(np.median(pixels, axis=0)))

    def result(self) -> Clothing:
        colours = {name: np.median(found, axis=0) for name, found in self.colours.items() if found}
        face = colours.pop("face", None)
        names = {
            name: colour_name(lab)
            for name, lab in colours.items()
            if face is None or np.linalg.norm(lab - face) >= SKIN_DISTANCE
        }
        return Clothing(**names)


def regions(keypoints: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Masks (H, W) uint8 of the regions "upper", "lower" and "face" of a pose (133, 3), of those that are
    seen."""
    height = standing_height(keypoints)
    masks: dict[str, np.ndarray] = {}
    shoulders, hips, knees, ears = (_pair(keypoints, name) for name in ("shoulder", "hip", "knee", "ear"))
    if shoulders is not None:
        reach = np.linalg.norm(shoulders[0] - shoulders[1])
        below = hips if hips is not None else shoulders + np.array([0, 0.9 * reach])
        quad = np.concatenate([shoulders, below[::-1]])
        middle = quad.mean(axis=0)
        masks["upper"] = _filled(shape, middle + 0.6 * (quad - middle))
    if hips is not None and knees is not None:
        masks["lower"] = np.zeros(shape, np.uint8)
        for hip, knee in zip(hips, knees, strict=True):
            start, end = ((hip + share * (knee - hip)).round().astype(int).tolist() for share in (0.15, 0.6))
            cv2.line(masks["lower"], start, end, 1, max(1, round(0.03 * height)))
    if ears is not None and keypoints[0, 2] >= VISIBLE:
        masks["face"] = np.zeros(shape, np.uint8)
        radius = max(1, round(0.3 * float(np.linalg.norm(ears[0] - ears[1]))))
        cv2.circle(masks["face"], keypoints[0, :2].round().astype(int).tolist(), radius, 1, -1)
    return masks


def _pair(keypoints: np.ndarray, joint: str) -> np.ndarray | None:
    """The left and right point (2, 2) of a joint, if both are seen."""
    pair = keypoints[[KEYPOINT_INDEX[f"left_{joint}"], KEYPOINT_INDEX[f"right_{joint}"]]]
    return pair[:, :2] if (pair[:, 2] >= VISIBLE).all() else None


def _filled(shape: tuple[int, ...], polygon: np.ndarray) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [polygon.round().astype(np.int32)], 1)
    return mask
