"""Every length can be planned, equal to the authors' plan where asked, and segments join into one video exactly."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posegen.longvideo.segments import Plan, Stitcher, plan
from testkit import ROOT

AUTHORS = json.loads((ROOT / "tests/data/chunk_plan.json").read_text())
SIZES = [(81, 21, 20), (17, 5, 4), (25, 9, 8), (33, 9, 8), (13, 1, 4)]  # segment_frames, head, tail
FAILING = [
    1,
    41,
    60,
    82,
    122,
    450,
    600,
    1800,
]  # lengths at which the authors' code raises or reads wrong poses

sizes = st.sampled_from(SIZES)
planners: st.SearchStrategy[Literal["fitted", "published"]] = st.sampled_from(["fitted", "published"])


@st.composite
def plans(draw: st.DrawFn, longest: int = 3000) -> Plan:
    length, (segment_frames, head, tail) = draw(st.integers(1, longest)), draw(sizes)
    bridges = plan(length, segment_frames, head, tail).bridges
    anchor = 2 * draw(st.integers(0, bridges))
    return plan(length, segment_frames, head, tail, anchor, draw(planners))


def generated_frames(made: Plan) -> int:
    return sum(segment.frames for segment in made.segments)


def uneven_frames(length: int) -> int:
    """The fewest frames with 4 k + 1 long segments of which only the bases are equal: within 3 of what is needed."""
    bridges = plan(length).bridges
    needed = length + bridges * 41
    fewest = (bridges + 1) * 41 + bridges * 45
    return max(fewest, needed + (2 * bridges + 1 - needed) % 4)


@pytest.mark.parametrize("authors", AUTHORS, ids=lambda row: str(row["frames"]))
def test_published_is_the_authors_plan(authors: dict):
    made = plan(authors["frames"], planner="published")
    starts = [segment.start for segment in made.segments]
    assert len(starts) == authors["num_chunks"]
    assert starts[-1] + 81 == authors["covered"]
    assert starts[: len(authors["starts"])] == authors["starts"]


@given(plans())
def test_segments_cover_the_video_with_legal_lengths(made: Plan):
    segments = made.segments
    assert {segment.frames for segment in segments} == {made.segment_frames}
    assert made.segment_frames % 4 == 1
    assert [segment.kind for segment in segments] == (["base", "bridge"] * len(segments))[: len(segments)]
    covered = {
        frame for segment in segments for frame in range(segment.start, segment.start + segment.frames)
    }
    assert covered == set(range(max(covered) + 1)) >= set(range(made.frames))


@given(plans())
def test_a_bridge_is_given_exactly_its_neighbours_frames_of_the_timeline(made: Plan):
    for segment in made.segments[1::2]:
        before, after = (made.segments[index] for index in made.dependencies(segment.index))
        assert segment.start == before.start + before.frames - segment.head
        assert segment.start + segment.frames - segment.tail == after.start
        assert segment.frames - segment.head - segment.tail >= 4
        assert (segment.head - 1) % 4 == segment.tail % 4 == 0


@given(st.integers(1, 100_000), sizes)
def test_fitted_is_the_shortest_that_covers_with_as_many_segments(length: int, size: tuple[int, int, int]):
    fitted, published = plan(length, *size), plan(length, *size, planner="published")
    assert len(fitted.segments) == len(published.segments)
    assert fitted.segment_frames <= published.segment_frames
    shorter = fitted.segment_frames - 4
    too_short = 1 if fitted.bridges == 0 else size[1] + size[2] + 4
    covered = len(fitted.segments) * shorter - fitted.bridges * (size[1] + size[2])
    assert covered < length or shorter < too_short


@pytest.mark.parametrize(("length", "frames"), [(1, 1), (60, 61), (81, 81), (82, 3 * 45), (600, 11 * 77)])
def test_fitted_generates_no_more_than_it_must(length: int, frames: int):
    assert generated_frames(plan(length)) == frames


def test_uneven_bridges_would_save_little():
    ratios = [uneven_frames(length) / generated_frames(plan(length)) for length in range(82, 1001)]
    assert 0.975 < np.mean(ratios) < 0.98
    assert min(ratios) > 0.94
    assert max(ratios) == 1


def reflected(length: int, frames: int) -> np.ndarray:
    """The timeline by numpy's own reflection, which repeats neither end."""
    return np.pad(np.arange(length), (0, frames), mode="reflect")


@given(plans(longest=400))
@settings(deadline=None)
def test_driving_frames_are_the_timelines_reflection(made: Plan):
    last = made.segments[-1]
    timeline = reflected(made.frames, last.start + last.frames)
    for segment in made.segments:
        expected = timeline[segment.start : segment.start + segment.frames]
        np.testing.assert_array_equal(made.driving_frames(segment.index), expected)


@pytest.mark.parametrize("length", FAILING)
def test_the_authors_failing_lengths_work(length: int):
    made = plan(length, planner="published")
    timeline = reflected(length, 200)
    for segment in made.segments:
        np.testing.assert_array_equal(
            made.driving_frames(segment.index), timeline[segment.start : segment.start + 81]
        )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("planner", ["fitted", "published"])
def test_a_million_frames_can_be_planned(size: tuple[int, int, int], planner):
    made = plan(1_000_000, *size, planner=planner)
    last = made.segments[-1]
    assert made.segments[-2].start < 1_000_000 <= last.start + last.frames
    assert 999_999 in {*made.driving_frames(last.index - 1), *made.driving_frames(last.index)}
    assert len(made.order()) == len(made.segments)


@given(plans())
def test_the_order_puts_everything_after_its_dependencies(made: Plan):
    order = made.order()
    assert sorted(order) == list(range(len(made.segments)))
    assert order[0] == made.anchor
    place = {index: position for position, index in enumerate(order)}
    for index in order:
        assert all(place[earlier] < place[index] for earlier in made.dependencies(index))


def test_dependencies_are_the_anchor_and_the_neighbours():
    made = plan(600, anchor=2)
    assert made.order() == (2, 0, 1, 4, 3, 6, 5, 8, 7, 10, 9)
    assert made.dependencies(2) == ()
    assert made.dependencies(0) == made.dependencies(10) == (2,)
    assert made.dependencies(3) == (2, 4)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"frames": 0}, "at least one driving frame"),
        ({"frames": 200, "segment_frames": 80}, "4 k \\+ 1"),
        ({"frames": 200, "segment_frames": -3}, "4 k \\+ 1"),
        ({"frames": 200, "head": 20}, "4 a \\+ 1"),
        ({"frames": 200, "tail": 0}, "4 b"),
        ({"frames": 200, "segment_frames": 41}, "at least 45"),
        ({"frames": 200, "segment_frames": 5}, "at least 45"),
        ({"frames": 200, "anchor": 1}, "an even one from 0 to 2"),
        ({"frames": 200, "anchor": 4}, "an even one from 0 to 2"),
        ({"frames": 200, "planner": "best"}, "'fitted' or 'published'"),
    ],
)
def test_impossible_numbers_are_refused_in_a_sentence(numbers: dict, says: str):
    with pytest.raises(ValueError, match=says):
        plan(**numbers)


def random_segments(made: Plan, seed: int, dtype: type = np.float32) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    frames = [random.uniform(-9, 264, (segment.frames, 2, 3, 3)) for segment in made.segments]
    return [
        np.rint(segment.clip(0, 255)).astype(dtype) if dtype == np.uint8 else segment.astype(dtype)
        for segment in frames
    ]


def stitch(made: Plan, segments: list[np.ndarray], order: list[int]) -> np.ndarray:
    stitcher = Stitcher(made)
    video = [frame for index in order for frame in stitcher.add(index, segments[index])]
    assert stitcher.finished
    return np.stack(video)


def whole_array(made: Plan, segments: list[np.ndarray]) -> np.ndarray:
    """The cross-fade as one weighted sum over the whole timeline, in float64."""
    last = made.segments[-1]
    timeline = np.zeros((last.start + last.frames, *segments[0].shape[1:]))
    for segment, frames in zip(made.segments, segments, strict=True):
        weights = np.ones(segment.frames)
        if segment.index > 0:
            overlap = made.tail if segment.kind == "base" else made.head
            weights[:overlap] = 1 - np.linspace(1, 0, overlap)
        if segment.index < last.index:
            overlap = made.head if segment.kind == "base" else made.tail
            weights[-overlap:] = np.linspace(1, 0, overlap)
        timeline[segment.start :][: segment.frames] += weights[:, None, None, None] * frames.astype(
            np.float64
        )
    return np.rint(timeline.clip(0, 255)[: made.frames]).astype(np.uint8)


@given(plans(longest=300), st.sampled_from([np.float32, np.uint8]), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_the_order_of_arrival_changes_no_bit(made: Plan, dtype: type, random):
    segments = random_segments(made, 0, dtype)
    order = list(range(len(segments)))
    in_order = stitch(made, segments, order)
    random.shuffle(order)
    np.testing.assert_array_equal(stitch(made, segments, order), in_order)
    np.testing.assert_array_equal(in_order, whole_array(made, segments))


def grey_segments(made: Plan, greys: list[float]) -> list[np.ndarray]:
    return [np.full((made.segment_frames, 1, 1, 3), grey, np.float32) for grey in greys]


@pytest.mark.parametrize("grey", [0, 1, 100, 127.6, 254, 255])
def test_a_constant_video_stays_constant(grey: float):
    made = plan(150)
    video = stitch(made, grey_segments(made, [grey] * 3), [0, 1, 2])
    assert video.shape == (150, 1, 1, 3)
    assert (video == np.rint(grey)).all()


def test_the_earlier_segments_weight_falls_from_one_to_zero():
    made = plan(202)
    video = stitch(made, grey_segments(made, [200, 0, 190]), [0, 1, 2])[:, 0, 0, 0]
    np.testing.assert_array_equal(video[:60], 200)
    np.testing.assert_array_equal(video[60:81], np.arange(200, -1, -10))  # 21 frames: weights 1, 0.95, ..., 0
    np.testing.assert_array_equal(video[81:121], 0)
    np.testing.assert_array_equal(
        video[121:141], np.arange(0, 191, 10)
    )  # 20 frames: weights 1, 18 / 19, ..., 0
    np.testing.assert_array_equal(video[141:], 190)


def most_held(minutes: int) -> int:
    made = plan(minutes * 60 * 30)
    stitcher, most = Stitcher(made), 0
    for index in made.order():
        stitcher.add(index, np.zeros((made.segments[index].frames, 1, 1, 3), np.uint8))
        most = max(most, stitcher.held_bytes)
    assert stitcher.finished
    assert stitcher.held_bytes == 0
    return most


def test_what_is_held_does_not_grow_with_the_video():
    segment_and_overlap = 3 * (81 + 21)
    assert most_held(1) == most_held(10) == segment_and_overlap


def test_frames_are_finished_as_soon_as_they_can_be():
    made = plan(202)
    stitcher = Stitcher(made)
    segments = grey_segments(made, [1, 2, 3])
    finished = [len(stitcher.add(index, segments[index])) for index in (0, 2, 1)]
    assert finished == [60, 0, 142]


def test_a_segment_past_the_end_need_not_be_added():
    made = plan(82, planner="published")
    stitcher = Stitcher(made)
    segments = grey_segments(made, [1, 2, 3])
    assert len(stitcher.add(0, segments[0]) + stitcher.add(1, segments[1])) == 82
    assert stitcher.finished
    assert stitcher.add(2, segments[2]) == []


def test_bridges_are_given_their_neighbours_own_pixels():
    made = plan(202)
    before, _, after = random_segments(made, 1)
    own = np.zeros_like(before)
    frames = made.with_given_frames(1, own, {0: before, 2: after})
    np.testing.assert_array_equal(frames[:21], before[60:])
    np.testing.assert_array_equal(frames[-20:], after[:20])
    np.testing.assert_array_equal(frames[21:-20], own[21:-20])
    assert frames.shape == own.shape and not own.any()
    assert np.flatnonzero(made.given(1)).tolist() == [*range(21), *range(61, 81)]
    assert not made.given(0).any()


def test_given_frames_that_cannot_be_had_are_refused_in_a_sentence():
    made = plan(202)
    with pytest.raises(ValueError, match="bridge 1 needs the frames of segment 2"):
        made.with_given_frames(1, np.zeros((81, 1, 1, 3)), {0: np.zeros((81, 1, 1, 3))})


@pytest.mark.parametrize(
    ("index", "frames", "says"),
    [
        (3, np.zeros((81, 1, 1, 3), np.uint8), "no segment 3"),
        (0, np.zeros((81, 1, 1, 3), np.uint8), "added before"),
        (2, np.zeros((81, 1, 1, 3), np.uint8), "added before"),
        (1, np.zeros((80, 1, 1, 3), np.uint8), "has shape"),
        (1, np.zeros((81, 1, 2, 3), np.uint8), "has shape"),
        (1, np.zeros((81, 1, 1, 3), np.int64), "give uint8 or float"),
        (1, np.full((81, 1, 1, 3), np.nan, np.float32), "NaN"),
    ],
)
def test_frames_that_do_not_fit_are_refused_in_a_sentence(index: int, frames: np.ndarray, says: str):
    stitcher = Stitcher(plan(202))
    for early in (0, 2):
        stitcher.add(early, np.zeros((81, 1, 1, 3), np.uint8))
    with pytest.raises(ValueError, match=says):
        stitcher.add(index, frames)
    assert len(stitcher.add(1, np.zeros((81, 1, 1, 3), np.uint8))) == 142


def test_a_refused_segment_leaves_no_trace():
    stitcher = Stitcher(plan(81))
    with pytest.raises(ValueError, match="has shape"):
        stitcher.add(0, np.zeros((80, 2, 2, 3), np.uint8))
    assert len(stitcher.add(0, np.zeros((81, 1, 1, 3), np.uint8))) == 81
