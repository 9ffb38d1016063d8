"""Latents as small pictures while a segment is made, without decoding them.

A linear map from a latent to the colour of its place is all that a preview needs. It is fitted, by ridge regression, to
the job's own picture and that picture's latents, which show the very person and place of the video; so it knows any
VAE, and no table of numbers is needed. A VAE that is itself linear says so by `linear = True` and is simply asked.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch

from posegen.longvideo.conditions import decode_latents, encode_frames
from posegen.video.pictures import jpeg

SHOWN, HEIGHT, MOST_WIDTH = 4, 192, 480
"""Frames of a segment in a preview, and their height and greatest width in pixels."""
RIDGE = 1e-3
"""Of the regression, as a share of the latents' mean square."""


class Preview:
    """Shows latents of the videos that begin with one picture (H, W, 3) uint8."""

    @torch.no_grad()
    def __init__(self, vae: Any, picture: np.ndarray) -> None:
        self._vae, self._colours = vae, None
        if not getattr(vae, "linear", False):
            self._colours = latent_colours(encode_frames(vae, picture[None, None])[0, :, 0], picture)

    @torch.no_grad()
    def frames(self, latents: torch.Tensor) -> np.ndarray:
        """Pictures (n, h, w, 3) uint8, n at most 4, spread over a segment of latents (1, z, f, h, w)."""
        if self._colours is None:
            return _spread(decode_latents(self._vae, latents)[0].numpy())
        shown = _spread(latents[0].movedim(0, -1)).cpu().double()  # (n, h, w, z)
        colours = shown @ self._colours[:-1] + self._colours[-1]
        return colours.clamp(0, 255).round().to(torch.uint8).numpy()

    def jpeg(self, latents: torch.Tensor) -> bytes:
        """The same, side by side, as a JPEG of 192 rows and at most 1,920 columns."""
        frames = self.frames(latents)
        height, width = frames.shape[1:3]
        size = max(1, min(MOST_WIDTH, round(width * HEIGHT / height))), HEIGHT
        strip = np.concatenate(
            [cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in frames], 1
        )
        return jpeg(strip, HEIGHT)


def latent_colours(latents: torch.Tensor, picture: np.ndarray) -> torch.Tensor:
    """What takes latents to colours 0..255: (z + 1, 3) float64, the last row a constant.

    latents: (z, h, w) of the picture (H, W, 3) uint8.
    """
    channels, height, width = latents.shape
    colours = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    rows = latents.cpu().double().reshape(channels, -1).T  # (h w, z)
    wanted = torch.from_numpy(colours).double()
    middle, mean = rows.mean(0), wanted.mean(0)
    centred = rows - middle
    squares = centred.T @ centred
    squares.diagonal().add_(RIDGE * squares.trace() / channels + 1e-9)  # the picture may be of one colour
    weights = torch.linalg.solve(squares, centred.T @ (wanted - mean))
    return torch.cat([weights, (mean - middle @ weights)[None]])


def _spread(frames: Any) -> Any:
    """At most `SHOWN` of the frames (f, ...), the first and the last among them."""
    count = len(frames)
    return frames[np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int)]
