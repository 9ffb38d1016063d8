"""A skeleton in motion: joints that turn about their parents, on an even clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Motion:
    """J joints over T frames at `rate` frames/s, in the unit and the axes of the file that it came from.

    names: of the joints, the root first and each after its parent; the end of a joint without children is "NAME end".
    parents: (J,) indices, -1 for the root. rotations: (T, J, 3, 3) in the parent's axes, columns are where x, y and z
    go. places: (T, J, 3) in the parent's axes, the root's in the world's.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    rotations: np.ndarray
    places: np.ndarray
    rate: float

    def __len__(self) -> int:
        return len(self.rotations)

    def __getitem__(self, frames: slice) -> Motion:
        """Some of its frames."""
        return replace(self, rotations=self.rotations[frames], places=self.places[frames])

    def world(self) -> tuple[np.ndarray, np.ndarray]:
        """Where all joints are, (T, J, 3), and how they are turned, (T, J, 3, 3), in the world's axes."""
        turned, at = np.empty_like(self.rotations), np.empty_like(self.places)
        for joint, parent in enumerate(self.parents):
            if parent < 0:
                turned[:, joint], at[:, joint] = self.rotations[:, joint], self.places[:, joint]
                continue
            turned[:, joint] = turned[:, parent] @ self.rotations[:, joint]
            at[:, joint] = at[:, parent] + np.einsum("tij,tj->ti", turned[:, parent], self.places[:, joint])
        return at, turned


def resampled(motion: Motion, rate: float) -> Motion:
    """The motion at another rate, frames/s, from its first frame on; what lies between two frames is blended."""
    count = int(np.floor((len(motion) - 1) * rate / motion.rate + 1e-6)) + 1
    moments = np.minimum(np.arange(count) * motion.rate / rate, len(motion) - 1)
    before = np.minimum(moments.astype(int), max(len(motion) - 2, 0))
    after = np.minimum(before + 1, len(motion) - 1)
    return replace(blended(motion, before, motion, after, moments - before), rate=rate)


def blended(one: Motion, frames: np.ndarray, other: Motion, others: np.ndarray, share: np.ndarray) -> Motion:
    """Frames (n,) of one motion and as many of another of the same skeleton, mixed; share: (n,) of the other, 0..1.

    Rotations are mixed as matrices and made rotations again, the nearest ones (chordal mean; Hartley et al., Rotation
    Averaging, 2013, section 5.3).
    """
    weight = share[:, None, None]
    places = (1 - weight) * one.places[frames] + weight * other.places[others]
    weight = weight[..., None]
    mixed = (1 - weight) * one.rotations[frames] + weight * other.rotations[others]
    return replace(one, rotations=nearest_rotations(mixed), places=places)


def nearest_rotations(matrices: np.ndarray) -> np.ndarray:
    """The rotations (..., 3, 3) nearest to matrices, by singular value decomposition."""
    left, _, right = np.linalg.svd(matrices)
    left[..., 2] *= np.sign(np.linalg.det(left @ right))[..., None]  # no mirror images
    return left @ right
