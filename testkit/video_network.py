"""A network of the file format and signature of the I3D that Fréchet video distances are computed with."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


class ChannelMeans(nn.Module):
    """Features (B, 5) of videos (B, 3, T, H, W): the channels' means, the pixels of a frame, the frames."""

    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        if rescale or resize or not return_features:
            raise ValueError("the video comes scaled, and features are asked for")
        shape = torch.tensor([x.shape[3] * x.shape[4], x.shape[2]], dtype=x.dtype)
        return torch.cat([x.mean((2, 3, 4)), shape.expand(len(x), 2)], dim=1)


def write_video_network(path: Path) -> Path:
    """Writes it as TorchScript and returns the path."""
    torch.jit.script(ChannelMeans()).save(str(path))
    return path
