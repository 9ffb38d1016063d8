"""Near-duplicate clips, found by perceptual hashes of three moments.

Two clips are near duplicates if each of their three 64-bit hashes differs in at most n bits. If a hash is
cut into n + 1 bands, at least one band of two such hashes is equal, so candidates are the clips that share a band of
their first hash and one of their last; sorting finds them, for a million clips in about a minute. Every duplicate
points at the first clip that it duplicates and that is no duplicate itself, so there are no chains.
"""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipeline.score.measures import People, Ticks, small_grey

NEIGHBOURS = 64  # clips of one band compared with each; more are alike only in crowds of near-identical clips


def near_duplicates(hashes: np.ndarray, bits: int) -> dict[int, int]:
    """For each clip that duplicates another: its row -> that of the clip that stands for both.

    hashes: (N, 3) uint64, three of each clip, those first that are to stay. bits: the most by which each hash may
    differ, 0..63.
    """
    if not len(hashes):
        return {}
    # Equal clips are merged first: one of them stands for all in the search, however many there are.
    _, first, group = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    same = first[group.ravel()]
    later = np.flatnonzero(same != np.arange(len(hashes)))
    stands_for = dict(zip(later.tolist(), same[later].tolist(), strict=True))
    kept = np.sort(first)
    for one, other in _alike(hashes[kept], bits):
        i, j = int(kept[one]), int(kept[other])
        if i not in stands_for:
            stands_for.setdefault(j, i)
    return {j: stands_for.get(i, i) for j, i in stands_for.items()}


def hash_numbers(hashes: pa.ChunkedArray) -> np.ndarray:
    """The column `perceptual_hashes` of N clips, three of 16 hexadecimal digits each, as (N, 3) uint64."""
    digits = pc.list_flatten(hashes).cast(pa.binary(16)).combine_chunks()
    start, stop = 16 * digits.offset, 16 * (digits.offset + len(digits))
    numbers = np.frombuffer(unhexlify(digits.buffers()[1][start:stop]), ">u8")
    return numbers.astype(np.uint64).reshape(len(hashes), 3)


def _alike(numbers: np.ndarray, bits: int) -> list[tuple[int, int]]:
    """Pairs i < j, sorted, of rows of (N, 3) uint64 that differ by at most `bits` in each column."""
    pairs: set[tuple[int, int]] = set()
    bands = [_band(bits, index) for index in range(bits + 1)]
    for first_shift, first_mask in bands:
        begin = (numbers[:, 0] >> first_shift) & first_mask
        for last_shift, last_mask in bands:
            keys = begin << np.uint64(32) | ((numbers[:, -1] >> last_shift) & last_mask)
            for one, other in _equal(keys):
                near = (np.bitwise_count(numbers[one] ^ numbers[other]) <= bits).all(axis=1)
                pairs.update(zip(one[near].tolist(), other[near].tolist(), strict=True))
    return sorted(pairs)


def _band(bits: int, index: int) -> tuple[np.uint64, np.uint64]:
    """Shift and mask of one of `bits` + 1 bands that share out a hash's 64 bits; of the first 32 of a
    band."""
    start, stop = 64 * index // (bits + 1), 64 * (index + 1) // (bits + 1)
    return np.uint64(start), np.uint64(2 ** min(32, stop - start) - 1)


def _equal(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index arrays i < j of equal keys, in portions; in a crowd only of near ones."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    for distance in range(1, min(NEIGHBOURS, len(keys) - 1) + 1):
        same = ordered[distance:] == ordered[:-distance]
        if not same.any():
            return
        yield order[:-distance][same], order[distance:][same]


def perceptual_hash(grey: np.ndarray) -> str:
    """The 64-bit pHash of a picture (H, W) uint8, 16 hexadecimal digits.

    Which of the 8 x 8 lowest frequencies of the picture at 32 x 32 pixels are above their median, row by row; the
    frequencies are those of a DCT-II without scaling, as in the package imagehash, whose hashes are the same.
    """
    small = np.asarray(Image.fromarray(grey).resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    scale = np.full(8, 1 / np.sqrt(2))  # cv2's DCT is orthonormal: its constant term is smaller by that
    scale[0] = 1
    low = cv2.dct(small)[:8, :8] * np.outer(scale, scale)
    return np.packbits(low > np.median(low)).tobytes().hex()


class PerceptualHashes:
    """perceptual_hashes: 64-bit pHashes (16 hexadecimal digits each) of the frames next to 1/6, 1/2 and 5/6
    of the clip's length; None for a clip without frames."""

    def __init__(self) -> None:
        self.ticks, self.hashes = Ticks(1.0), list[tuple[float, str]]()
        self.last = 0.0

    def update(self, frames: np.ndarray, people: People, times: np.ndarray) -> None:
        for index in self.ticks.pick(times):
            self.hashes.append((float(times[index]), perceptual_hash(small_grey(frames[index]))))
        self.last = float(times[-1]) if len(times) else self.last

    def result(self) -> dict[str, Any]:
        if not self.hashes:
            return {"perceptual_hashes": None}
        moments = [self.last * share for share in (1 / 6, 1 / 2, 5 / 6)]
        at = np.array([time for time, _ in self.hashes])
        nearest = [int(np.abs(at - moment).argmin()) for moment in moments]
        return {"perceptual_hashes": [self.hashes[index][1] for index in nearest]}
