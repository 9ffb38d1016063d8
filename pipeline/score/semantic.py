"""Clips that show the same, found by their embeddings: clustered first, then compared within their cluster.

The method is SemDeDup's (Abbas et al., arXiv 2303.09540), but for which of two clips stays. Comparing all pairs of ten
million clips would take weeks, and those of clusters of some thousands take minutes of a cluster's cores; two clips at
the border of two clusters are not compared.

Vectors are held as whole numbers, `SCALE` for 1, in float32. Products of two of them and all sums on the way stay below
2**24, where float32 is exact, so a cosine is the same on every machine, whatever the number of threads or the order of
the sum, and no verdict depends on them.
"""

from __future__ import annotations

import numpy as np

SCALE = 4000.0
"""One, in whole numbers: (SCALE + sqrt(width) / 2)**2 < 2**24 holds up to a width of 36,000."""
ROUNDS = 10
"""Of k-means. The clusters only have to be even enough; a few more rounds would change few places."""
BLOCK = 1024
"""Rows compared at once."""


def fixed_point(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings (N, width), of any float type and unit length, as whole numbers (N, width) float32."""
    return np.rint(embeddings.astype(np.float32) * np.float32(SCALE))


def cluster_centres(vectors: np.ndarray, count: int) -> np.ndarray:
    """Centres (count, width) of clusters of vectors (N, width) by spherical k-means, all of them `fixed_point`.

    Fewer where there are fewer vectors. The same for the same vectors in the same order; the seed is fixed.
    """
    count = min(count, len(vectors))
    chosen = np.random.default_rng(0).choice(len(vectors), count, replace=False)
    centres = vectors[np.sort(chosen)]
    for _ in range(ROUNDS if count > 1 else 0):
        nearest = assign(vectors, centres)
        order = np.argsort(nearest, kind="stable")
        there, first = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(vectors[order].astype(np.float64), first, axis=0)  # exact, as whole numbers
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = centres.copy()  # a centre that has lost all vectors stays where it was
        centres[there] = np.rint(sums / np.maximum(lengths, 1) * SCALE)
    return centres


def assign(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest centre of each vector, (N,) int32; the first of those equally near. Both are `fixed_point`."""
    nearest = np.empty(len(vectors), np.int32)
    for start in range(0, len(vectors), BLOCK):
        nearest[start : start + BLOCK] = (vectors[start : start + BLOCK] @ centres.T).argmax(axis=1)
    return nearest


def semantic_duplicates(vectors: np.ndarray, videos: np.ndarray, cosine: float) -> np.ndarray:
    """For each of N clips the row of the clip that stands for it, (N,) int64; -1 for those that stay.

    vectors: (N, width), `fixed_point`, those first that are to stay. videos: (N,) int; two clips of one video are
    never duplicates of each other. cosine: above 0 and below 1, that of duplicates or more. Every duplicate
    points at the first clip that it duplicates and that stays itself: of a, b and c in a row, each like the next alone,
    a and c stay.
    """
    stands_for = np.full(len(vectors), -1, np.int64)
    staying = np.empty(0, np.int64)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    for start in range(0, len(vectors), BLOCK):
        left = np.arange(start, min(start + BLOCK, len(vectors)))
        for first in range(0, len(staying), BLOCK):
            others = staying[first : first + BLOCK]
            near = _near(vectors, lengths, videos, left, others, cosine)
            found = near.any(axis=1)
            stands_for[left[found]] = others[near[found].argmax(axis=1)]
            left = left[~found]
        near = _near(vectors, lengths, videos, left, left, cosine)
        stays = np.zeros(len(left), bool)
        for row in range(len(left)):
            before = np.flatnonzero(near[row, :row] & stays[:row])
            stays[row] = not len(before)
            if len(before):
                stands_for[left[row]] = left[before[0]]
        staying = np.concatenate([staying, left[stays]])
    return stands_for


def cosines(ours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The cosines (N,) float32 of pairs of vectors (N, width), each `fixed_point`."""
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(others, axis=1)
    found: np.ndarray = np.einsum("nd,nd->n", ours, others) / lengths
    return found.astype(np.float32)


def _near(
    vectors: np.ndarray,
    lengths: np.ndarray,
    videos: np.ndarray,
    ours: np.ndarray,
    others: np.ndarray,
    cosine: float,
) -> np.ndarray:
    """Whether clips of two lists of rows are near, (ours, others) bool."""
    least = cosine * lengths[ours, None] * lengths[others]
    apart = videos[ours, None] != videos[others]
    near: np.ndarray = (vectors[ours] @ vectors[others].T >= least) & apart
    return near
