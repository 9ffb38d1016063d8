"""The order of training: all that a step sees follows from its number, and nobody is left out or seen too often."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.items import Bucket
from training.data.sampler import BatchSampler, Clips, share, validation_split

BUCKETS = [Bucket(64, 96, 17), Bucket(96, 64, 17), Bucket(64, 96, 33)]


def keys(count: int, salt: int = 0) -> np.ndarray:
    return np.random.default_rng([count, salt]).integers(0, 2**63, count, dtype=np.uint64)


def order(sizes: list[int], batch_size: int = 4, seed: int = 0) -> BatchSampler:
    clips = {bucket: [Clips(keys(size))] for bucket, size in zip(BUCKETS, sizes, strict=False)}
    return BatchSampler(clips, batch_size, seed)


def seen(made: BatchSampler, steps: range) -> list[tuple[Bucket, int, int, int]]:
    """(bucket, part, clip, epoch) of all items of these steps."""
    return [
        (bucket, item.part, item.clip, item.epoch)
        for step in steps
        for bucket, items in [made.step(step)]
        for item in items
    ]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 99))
def test_a_step_has_whole_batches_of_one_bucket(sizes: list[int], batch_size: int, step: int) -> None:
    bucket, items = order(sizes, batch_size).step(step)
    assert len(items) == batch_size
    assert all(0 <= item.clip < sizes[BUCKETS.index(bucket)] for item in items)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=3), st.integers(1, 9))
def test_no_item_comes_twice_and_clips_of_a_bucket_equally_often(sizes: list[int], batch_size: int) -> None:
    made = order(sizes, batch_size)
    items = seen(made, range(3 * made.steps_per_epoch))
    assert len(set(items)) == len(items)
    for bucket, size in zip(BUCKETS, sizes, strict=False):
        counts = Counter(clip for of, _, clip, _ in items if of == bucket)
        assert sum(counts.values()) == 3 * batch_size * max(1, round(size / batch_size))
        assert max(counts.values()) - min(counts.get(clip, 0) for clip in range(size)) <= 1


def test_clips_and_batches_come_in_another_order_each_epoch() -> None:
    made = order([12, 8])
    epochs = [seen(made, range(5 * epoch, 5 * epoch + 5)) for epoch in range(3)]
    assert made.steps_per_epoch == 5
    clips = [[item[:3] for item in epoch] for epoch in epochs]
    assert sorted(clips[0]) == sorted(clips[1]) == sorted(clips[2])
    assert clips[0] != clips[1] != clips[2]
    assert len({tuple(bucket for bucket, *_ in epoch) for epoch in epochs}) > 1


def test_the_order_is_the_same_for_ever() -> None:
    """Held against what it was when it was written: a change would break every resumed run."""
    assert seen(order([5, 3]), range(2, 3)) == EXPECTED


EXPECTED = [
    (BUCKETS[0], 0, 4, 0),
    (BUCKETS[0], 0, 0, 1),
    (BUCKETS[0], 0, 3, 1),
    (BUCKETS[0], 0, 2, 1),
]


def test_the_order_does_not_depend_on_how_clips_are_listed() -> None:
    listed, other = keys(9), keys(9)[::-1]
    samplers = [BatchSampler({BUCKETS[0]: [Clips(held)]}, 4, 1) for held in (listed, other)]
    for step in range(6):
        ids = [
            [held[item.clip] for item in made.step(step)[1]]
            for made, held in zip(samplers, (listed, other), strict=True)
        ]
        assert ids[0] == ids[1]
    stand_ins = [
        held[made.substitute(BUCKETS[0], "clip", 2, 1)[1]]
        for made, held in zip(samplers, (listed, other), strict=True)
    ]
    assert stand_ins[0] == stand_ins[1]
    fingerprints = {made.fingerprint for made in samplers}
    assert len(fingerprints) == 1
    assert BatchSampler({BUCKETS[0]: [Clips(listed)]}, 4, 2).fingerprint not in fingerprints
    assert BatchSampler({BUCKETS[0]: [Clips(listed[1:])]}, 4, 1).fingerprint not in fingerprints


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.5]))
def test_datasets_are_mixed_by_how_often_an_epoch_shows_their_clips(
    first: int, second: int, repeats: float
) -> None:
    parts = [Clips(keys(first)), Clips(keys(second, salt=1), repeats)]
    made = BatchSampler({BUCKETS[0]: parts}, 1, 0)
    turn = sum(part.slots for part in parts)
    items = seen(made, range(2 * turn))
    assert len(set(items)) == len(items)
    counts = Counter(part for _, part, _, _ in items)
    assert counts == {0: 2 * first, 1: 2 * max(1, round(repeats * second))}
    clips = Counter(clip for _, part, clip, _ in items if part == 1)
    assert max(clips.values()) - min(clips.get(clip, 0) for clip in range(second)) <= 1


def test_no_clip_is_an_error() -> None:
    with pytest.raises(ValueError, match="no clip to train on"):
        BatchSampler({BUCKETS[0]: []}, 4, 0)


@given(st.integers(1, 20), st.integers(1, 20))
def test_shares_are_all_items_and_nearly_equal(count: int, workers: int) -> None:
    if workers > count:
        with pytest.raises(ValueError, match="workers cannot share"):
            share(range(count), 0, workers)
        return
    shares = [share(range(count), rank, workers) for rank in range(workers)]
    assert sorted(item for part in shares for item in part) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1 <= min(map(len, shares))


def test_whole_videos_are_validation_split() -> None:
    clips, videos = keys(12), np.repeat(keys(4, salt=1), 3)
    chosen, kept_from = validation_split(clips, videos, 4)
    assert len(chosen) == 4 and kept_from[chosen].all() and kept_from.sum() == 6
    assert set(videos[kept_from]) == set(videos[chosen])
    again, _ = validation_split(clips[::-1], videos[::-1], 4)
    assert clips[::-1][again].tolist() == clips[chosen].tolist()
    assert not validation_split(clips, videos, 0)[1].any()
