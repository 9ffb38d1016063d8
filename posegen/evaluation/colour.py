"""Colours as eyes tell them apart."""

from __future__ import annotations

import cv2
import numpy as np


def lab(pictures: np.ndarray) -> np.ndarray:
    """CIE Lab (..., 3) float32 of uint8 RGB (..., 3): L 0..100, a and b about -127..127."""
    rows = pictures.reshape(-1, 1, 3).astype(np.float32) / 255
    return cv2.cvtColor(rows, cv2.COLOR_RGB2LAB).reshape(pictures.shape)
