"""Clips that show the same, by made embeddings whose duplicates are known."""

from __future__ import annotations

import numpy as np

from pipeline.score.semantic import (
    BLOCK,
    SCALE,
    assign,
    cluster_centres,
    fixed_point,
    semantic_duplicates,
)

WIDTH = 32


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def scattered(count: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    """Unit vectors without two that are near, for widths of some tens."""
    return unit(np.random.default_rng(seed).normal(size=(count, width)))


def turned(*degrees: float) -> np.ndarray:
    """Unit vectors of the plane at these angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def duplicates(vectors: np.ndarray, cosine: float = 0.9, apart: list[int] | None = None) -> list[int]:
    labels = np.array(apart if apart is not None else [-1] * len(vectors))
    return semantic_duplicates(fixed_point(vectors), labels, cosine).tolist()


def test_of_a_pair_the_first_stays_and_what_is_alone_stays() -> None:
    vectors = scattered(40)
    vectors[[7, 30]] = unit(vectors[2] + 0.02 * scattered(2, 1))
    assert {row: other for row, other in enumerate(duplicates(vectors)) if other >= 0} == {7: 2, 30: 2}
    assert duplicates(vectors[:1]) == [-1] and duplicates(vectors[:0]) == []


def test_of_a_chain_both_ends_stay() -> None:
    assert np.cos(np.radians(20)) > 0.9 > np.cos(np.radians(40))
    assert duplicates(turned(0, 20, 40)) == [-1, 0, -1]
    assert duplicates(turned(20, 0, 40)) == [-1, 0, 0]
    assert duplicates(turned(0, 40, 20)) == [-1, -1, 0]  # near both, it points at the better one


def test_a_cosine_at_the_bound_counts_and_equal_clips_always_do() -> None:
    pair = np.array([[1.0, 0.0], [0.8, 0.6]])
    assert duplicates(pair, 0.8) == [-1, 0] and duplicates(pair, 0.8001) == [-1, -1]
    equal = np.repeat(scattered(1), 5, axis=0)
    assert duplicates(equal, 0.999999) == [-1, 0, 0, 0, 0]


def test_clips_of_one_label_are_never_duplicates_of_each_other() -> None:
    equal = np.repeat(scattered(1), 4, axis=0)
    assert duplicates(equal, apart=[3, 3, -1, 3]) == [-1, -1, 0, -1]
    assert duplicates(equal, apart=[3, 5, 3, 5]) == [-1, 0, -1, 0]


def test_blocks_change_nothing() -> None:
    """As one matrix says that holds all pairs."""
    some = scattered(2500, width=8)
    vectors = some[np.random.default_rng(1).integers(0, len(some), 3 * BLOCK + 5)]
    vectors = unit(vectors + 0.1 * scattered(len(vectors), 2, 8))
    whole = fixed_point(vectors).astype(np.int64)
    lengths = np.sqrt((whole**2).sum(axis=1))
    near = whole @ whole.T >= 0.95 * lengths[:, None] * lengths
    expected: list[int] = []
    for row in range(len(vectors)):
        before = [other for other in np.flatnonzero(near[row, :row]).tolist() if expected[other] < 0]
        expected.append(before[0] if before else -1)
    found = duplicates(vectors, 0.95)
    assert found == expected and BLOCK < sum(other < 0 for other in found) < len(vectors)


def test_cosines_are_exact_whatever_the_order_of_the_sum() -> None:
    vectors = fixed_point(scattered(50, width=2048).astype(np.float16))
    assert np.abs(np.linalg.norm(vectors, axis=1) / SCALE - 1).max() < 1e-3
    exact = vectors.astype(np.int64) @ vectors.astype(np.int64).T
    shuffled = vectors[:, np.random.default_rng(0).permutation(2048)]
    np.testing.assert_array_equal(shuffled @ shuffled.T, exact)
    one = fixed_point(np.eye(1, 36_000))
    spread = fixed_point(np.full((1, 36_000), 36_000**-0.5))
    assert (one @ one.T).item() == SCALE**2 and (spread @ spread.T).item() < 2**24


def test_clusters_hold_what_lies_together() -> None:
    kinds = scattered(6)
    truth = np.random.default_rng(0).integers(0, 6, 500)
    vectors = fixed_point(unit(kinds[truth] + 0.05 * scattered(500, 1)))
    centres = cluster_centres(vectors, 6 * 4)  # more than there are, so that none holds two
    nearest = assign(vectors, centres)
    assert all(len(set(truth[nearest == cluster])) == 1 for cluster in set(nearest.tolist()))
    np.testing.assert_array_equal(cluster_centres(vectors, 24), centres)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), SCALE, rtol=1e-3)


def test_few_vectors_make_few_clusters_and_one_is_enough() -> None:
    vectors = fixed_point(scattered(3))
    np.testing.assert_array_equal(assign(vectors, cluster_centres(vectors, 8)), [0, 1, 2])
    assert assign(vectors, cluster_centres(vectors, 1)).tolist() == [0, 0, 0]
    equal = np.repeat(vectors[:1], 5, axis=0)
    assert assign(equal, cluster_centres(equal, 3)).tolist() == [0] * 5  # the first of equal centres
