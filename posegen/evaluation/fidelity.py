"""How near a video is to the true one, where there is one: PSNR and SSIM."""

from __future__ import annotations

import cv2
import numpy as np

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def psnr(video: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of a uint8 video of any shape, from one mean squared error over all of it."""
    error = np.square(video.astype(np.float64) - truth).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(frame: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of two pictures (H, W, 3) uint8, at most 1, which is the same picture.

    Wang et al., 2004: an 11x11 Gaussian window of standard deviation 1.5, K1 0.01, K2 0.03; the mean over the channels
    and over the places whose window lies within the picture. Raises ValueError for a picture smaller than the window.
    """
    if min(frame.shape[:2]) < WINDOW:
        raise ValueError(
            f"SSIM needs pictures of {WINDOW} pixels or more a side; these have {frame.shape[:2]}."
        )
    x, y = frame.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y = _windows(x), _windows(y)
    var_x, var_y = _windows(x * x) - mean_x**2, _windows(y * y) - mean_y**2
    covariance = _windows(x * y) - mean_x * mean_y
    c1, c2 = (255 * K1) ** 2, (255 * K2) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((similar / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def _windows(picture: np.ndarray) -> np.ndarray:
    """Weighted means over all whole windows of a picture."""
    rim = WINDOW // 2
    return cv2.GaussianBlur(picture, (WINDOW, WINDOW), SIGMA)[rim:-rim, rim:-rim]
