"""The order of training: all that a step sees follows from its number, and nobody is left out or seen too often."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.items import Bucket
from training.data.sampler import BatchSampler, share, validation_split

BUCKETS = [Bucket(64, 96, 17), Bucket(96, 64, 17), Bucket(64, 96, 33)]


def order(sizes: list[int], batch_size: int = 4, seed: int = 0) -> BatchSampler:
    clips = {
        bucket: [f"{bucket.width}-{bucket.frames}-{n}" for n in range(size)]
        for bucket, size in zip(BUCKETS, sizes, strict=False)
    }
    return BatchSampler(clips, batch_size, seed)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 99))
def test_a_step_has_whole_batches_of_one_bucket(sizes: list[int], batch_size: int, step: int) -> None:
    bucket, items = order(sizes, batch_size).step(step)
    assert len(items) == batch_size
    assert all(item.clip_id.startswith(f"{bucket.width}-{bucket.frames}-") for item in items)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=3), st.integers(1, 9))
def test_no_item_comes_twice_and_clips_of_a_bucket_equally_often(sizes: list[int], batch_size: int) -> None:
    made = order(sizes, batch_size)
    items = [item for step in range(3 * made.steps_per_epoch) for item in made.step(step)[1]]
    assert len(set(items)) == len(items)
    for bucket, size in zip(BUCKETS, sizes, strict=False):
        ours = [clip_id for clip_id, _ in items if clip_id.startswith(f"{bucket.width}-{bucket.frames}-")]
        counts = Counter(ours)
        assert len(ours) == 3 * batch_size * max(1, round(size / batch_size))
        assert (
            max(counts.values())
            - min(counts.get(f"{bucket.width}-{bucket.frames}-{n}", 0) for n in range(size))
            <= 1
        )


def test_clips_and_batches_come_in_another_order_each_epoch() -> None:
    made = order([12, 8])
    epochs = [[made.step(5 * epoch + step) for step in range(5)] for epoch in range(3)]
    assert made.steps_per_epoch == 5
    clips = [[item.clip_id for _, items in epoch for item in items] for epoch in epochs]
    assert sorted(clips[0]) == sorted(clips[1]) == sorted(clips[2])
    assert clips[0] != clips[1] != clips[2]
    assert len({tuple(bucket for bucket, _ in epoch) for epoch in epochs}) > 1


def test_the_order_is_the_same_for_ever() -> None:
    """Held against what it was when it was written: a change would break every resumed run."""
    items = [tuple(item) for item in order([5, 3]).step(2)[1]]
    assert items == EXPECTED


EXPECTED = [("96-17-1", 1), ("96-17-0", 1), ("96-17-1", 2), ("96-17-0", 2)]


def test_the_order_does_not_depend_on_how_clips_are_listed() -> None:
    clips = [f"clip-{number}" for number in range(9)]
    one, other = (BatchSampler({BUCKETS[0]: listed}, 4, 1) for listed in (clips, clips[::-1]))
    assert [one.step(step) for step in range(6)] == [other.step(step) for step in range(6)]
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != BatchSampler({BUCKETS[0]: clips}, 4, 2).fingerprint
    assert one.fingerprint != BatchSampler({BUCKETS[0]: clips[1:]}, 4, 1).fingerprint


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
    videos = {f"clip-{number}": f"video-{number // 3}" for number in range(12)}
    chosen, kept_from = validation_split(videos, 4)
    assert len(chosen) == 4 and chosen < kept_from
    assert kept_from == {clip for clip in videos if videos[clip] in {videos[other] for other in chosen}}
    assert len(kept_from) == 6
    assert validation_split(dict(reversed(videos.items())), 4) == (chosen, kept_from)
    assert validation_split(videos, 0) == (set(), set())
