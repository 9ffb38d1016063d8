"""People who go out of the picture and may come back: clips in some of whose frames there is nobody.

Who goes keeps moving as before and is carried sideways at an even speed, to the left or the right.
"""

from __future__ import annotations

import numpy as np

from mini_model.puppets.motions import SIZE

FASTEST, SLOWEST = 6, 15
"""Frames from the first step to the last point out of sight."""
MARGIN = 0.1
"""Of the picture's height: how far hair and clothes reach beyond the points."""


def leave(poses: np.ndarray, first: int, seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The poses (T, 133, 3) of somebody who leaves their picture of size (width, height), at frame `first` or later.

    Who has left is away for some frames or until the end; outside the picture the confidence is 0.
    """
    random = np.random.default_rng([seed, 302])
    going = int(random.integers(FASTEST, SLOWEST, endpoint=True))
    start = random.integers(first, max(len(poses) - going, first), endpoint=True)
    back = start + going + random.integers(len(poses))  # often after the last frame
    frames = np.arange(len(poses))
    share = np.clip((frames - start) / going, 0, 1) - np.clip((frames - back) / going, 0, 1)
    width, height = size
    right, left = width - poses[..., 0].min(), -poses[..., 0].max()
    way = right + MARGIN * height if random.uniform() < 0.5 else left - MARGIN * height
    gone = poses.astype(np.float32)
    gone[..., 0] += (share * way)[:, None]
    inside = ((gone[..., :2] >= 0) & (gone[..., :2] <= np.array(size) - 1)).all(axis=-1)
    gone[..., 2] *= inside
    return gone
