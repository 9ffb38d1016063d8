"""High dynamic range (PQ and HLG of ITU-R BT.2100) to the standard range of BT.709, as a display of it would show.

Light up to about 90 cd/m2 stays as it is, what is brighter is compressed by the curve of BT.2390-10
(5.4.1) so that 1000 cd/m2 become the standard range's white, which stands for 203 cd/m2 (BT.2408-7). The curve is
applied to the largest of the three colours, so that hues stay. FFmpeg's own mapping takes five seconds for each new
size of picture, so it is not used.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

TRANSFERS = {16: "pq", 18: "hlg"}  # AVColorTransferCharacteristic
PEAK, WHITE = 1000.0, 203.0  # cd/m2: the brightest that is told apart, and the standard range's white
GAMMA = 2.4  # of a standard display, BT.1886
SYSTEM_GAMMA = 1.2  # of HLG on a display of 1000 cd/m2, BT.2100 table 5
LUMA = np.array([[0.2627, 0.6780, 0.0593]], np.float32)  # of BT.2020's linear red, green and blue
TO_BT709 = np.array(  # linear light with the primaries of BT.2020 to those of BT.709, BT.2087-0
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
M1, M2, C1, C2, C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128  # PQ, BT.2100 table 4
A, B, C = 0.17883277, 0.28466892, 0.55991073  # HLG, BT.2100 table 5


def to_standard(picture: np.ndarray, transfer: str) -> np.ndarray:
    """(H, W, 3) uint16 RGB of full range with BT.2020's primaries -> (H, W, 3) uint8 RGB of BT.709.

    transfer: "pq" or "hlg".
    """
    light = _linear(transfer)[picture]  # (H, W, 3) float32
    if transfer == "hlg":
        luminance = cv2.transform(light, LUMA)  # (H, W)
        light *= (PEAK * cv2.pow(luminance, SYSTEM_GAMMA - 1))[..., None]
    light = np.maximum(cv2.transform(light, TO_BT709), 0)
    largest = light.max(axis=2)
    levels, compressed = _curve()
    light *= (np.interp(largest, levels, compressed) / np.maximum(largest, 1e-6)).astype(np.float32)[
        ..., None
    ]
    return np.round(255 * cv2.pow(light / WHITE, 1 / GAMMA)).astype(np.uint8)


@cache
def _linear(transfer: str) -> np.ndarray:
    """What each 16-bit value stands for, (65536,) float32: cd/m2 for PQ, 0..1 of the scene's light for HLG."""
    values = np.linspace(0, 1, 2**16)
    if transfer == "pq":
        return _from_pq(values).astype(np.float32)
    bright = (np.exp((values - C) / A) + B) / 12
    return np.where(values <= 0.5, values**2 / 3, bright).astype(np.float32)


@cache
def _curve() -> tuple[np.ndarray, np.ndarray]:
    """Levels of light and what they become, in cd/m2: (N,) each."""
    levels = _from_pq(np.linspace(0, 1, 4096))
    scaled = np.minimum(_to_pq(levels) / _to_pq(PEAK), 1)
    most = _to_pq(WHITE) / _to_pq(PEAK)
    knee = 1.5 * most - 0.5
    t = (scaled - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    )
    return levels, _from_pq(np.where(scaled < knee, scaled, spline) * _to_pq(PEAK))


def _from_pq(values: np.ndarray) -> np.ndarray:
    """PQ's signal 0..1 as cd/m2."""
    power = values ** (1 / M2)
    return 10_000 * (np.maximum(power - C1, 0) / (C2 - C3 * power)) ** (1 / M1)


def _to_pq(light: np.ndarray | float) -> np.ndarray:
    """Light in cd/m2 as PQ's signal 0..1."""
    power = (np.asarray(light) / 10_000) ** M1
    return ((C1 + C2 * power) / (1 + C3 * power)) ** M2
