"""Fréchet video distance: how far a set of made videos is from a set of true ones, by what a video network sees.

Unterthiner et al., 2018 (arXiv 1812.01717): features of windows of 16 frames, each set taken for a normal distribution,
and the Fréchet distance of the two (Dowson & Landau, 1982). The network is the I3D that published figures are computed
with, in its TorchScript form, whose weights the user gives: they are not ours to pass on. A covariance of 400 features
needs more windows than that, and fewer make the distance larger, so only sets of the same size compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from posegen.common.weights import Weight, WeightsError, fetch
from posegen.longvideo.job import Frames

WINDOW_FRAMES = 16
SIDE = 224
"""Pixels of a side of what the network sees; pictures are stretched to it, as in the published figures."""
I3D = Weight("i3d_torchscript.pt")


class VideoFeatures:
    """Features of windows of videos by I3D.

    source: a TorchScript file, a folder that holds i3d_torchscript.pt, or another place of
    `posegen.common.weights.fetch`. It is a program: take it from somebody you trust. Raises WeightsError where it
    cannot be had or is no such network.
    """

    def __init__(self, source: str | Path, device: str = "cpu") -> None:
        path = fetch(I3D, source)
        try:
            self._network = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise WeightsError(
                f"{path}: this is no TorchScript file; give i3d_torchscript.pt as published for FVD."
            ) from error
        self._device = device

    @torch.no_grad()
    def __call__(self, video: Frames, frames: int) -> np.ndarray:
        """Features (N, 400) of the N whole windows, one after the other, of the first frames of a video."""
        found = [self._features(video[numbers]) for numbers in windows(frames)]
        return np.stack(found) if found else np.zeros((0, 0), np.float32)

    def _features(self, frames: np.ndarray) -> np.ndarray:
        """Those (400,) of one window (16, H, W, 3) uint8."""
        pictures = torch.from_numpy(np.ascontiguousarray(frames)).to(self._device).movedim(-1, 1).float()
        pictures = functional.interpolate(pictures, (SIDE, SIDE), mode="bilinear", align_corners=False)
        window = (pictures / 127.5 - 1).movedim(0, 1)[None]  # (1, 3, 16, 224, 224)
        features: Tensor = self._network(window, rescale=False, resize=False, return_features=True)
        return features[0].float().cpu().numpy()


def windows(frames: int) -> Iterator[np.ndarray]:
    """The numbers of the frames of each whole window of a video."""
    for start in range(0, frames - WINDOW_FRAMES + 1, WINDOW_FRAMES):
        yield np.arange(start, start + WINDOW_FRAMES)


def frechet_distance(features: np.ndarray, truth: np.ndarray) -> float:
    """The Fréchet distance of two sets (N, D) and (M, D) of features taken for normal distributions.

    |m - m'|^2 + trace(C + C' - 2 (C C')^(1/2)), with the covariances over N - 1; the trace of the root is the sum of
    the roots of the eigenvalues of C^(1/2) C' C^(1/2), which is symmetric. Raises ValueError for a set of one window.
    """
    if min(len(features), len(truth)) < 2:
        raise ValueError(
            "A Fréchet distance needs two windows or more in each set; give longer or more videos."
        )
    sets = features.astype(np.float64), truth.astype(np.float64)
    (mean, covariance), (true_mean, true_covariance) = (
        (each.mean(axis=0), np.atleast_2d(np.cov(each, rowvar=False))) for each in sets
    )
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = np.clip(np.linalg.eigvalsh(root @ true_covariance @ root), 0, None)
    traces = np.trace(covariance) + np.trace(true_covariance) - 2 * np.sqrt(product).sum()
    return float(np.square(mean - true_mean).sum() + traces)
