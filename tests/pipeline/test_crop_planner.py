"""Windows hold one person whole and nobody else, follow smoothly, and last long enough; from made boxes alone."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.crop.planner import (
    ASPECTS,
    FEWEST_FRAMES,
    MARGIN,
    MOST_OF_OTHERS,
    SMALLEST_SIDE,
    Crop,
    eased,
    plan_crops,
    window_sizes,
)
from pipeline.crop.tracks import follow, most_at_once, who_count

SIZE, RATE, FRAMES = (1280, 720), 30.0, 150
TALL, BROAD = 400, 160


def person(x: np.ndarray | float, y: float = 200, frames: int = FRAMES) -> np.ndarray:
    """Boxes (T, 4) of somebody whose middle is at x (T,)."""
    middle = np.broadcast_to(np.asarray(x, float), frames)
    return np.stack(
        [middle - BROAD / 2, np.full(frames, y), middle + BROAD / 2, np.full(frames, y + TALL)], 1
    )


def shown(crop: Crop, box: np.ndarray) -> np.ndarray:
    """The share of each box (T, 4) that a crop shows."""
    box = box[crop.first : crop.last]
    low = np.maximum(box[:, :2], crop.corners)
    high = np.minimum(box[:, 2:], crop.corners + crop.size)
    return np.prod(np.maximum(high - low, 0), axis=1) / np.prod(box[:, 2:] - box[:, :2], axis=1)


def planned(*people: np.ndarray) -> list[Crop | None]:
    return plan_crops(np.stack(people).astype(np.float32), SIZE, RATE)


def test_two_who_stand_apart_are_each_shown_alone_for_the_whole_clip():
    one, other = person(300), person(950)
    crops = planned(one, other)
    for crop, own, stranger in zip(crops, (one, other), (other, one), strict=True):
        assert crop is not None
        assert (crop.first, crop.last) == (0, FRAMES)
        assert (shown(crop, own) == 1).all() and (shown(crop, stranger) == 0).all()
        assert (crop.corners == crop.corners[0]).all()  # nothing moves where nothing has to


def test_windows_have_the_trainings_aspects_and_even_sides():
    sizes = list(window_sizes(SIZE))
    assert {(round(w / h, 1)) for w, h in sizes} == {round(w / h, 1) for w, h in ASPECTS}
    assert sizes[0] == (404, 720)  # the largest first
    assert all(w % 2 == h % 2 == 0 and min(w, h) >= SMALLEST_SIDE - 2 for w, h in sizes)
    assert all(w <= SIZE[0] and h <= SIZE[1] for w, h in sizes)


def test_a_crop_follows_a_walker_smoothly():
    step = np.random.default_rng(0).normal(0, 3, FRAMES)  # boxes of estimators shake
    walk = np.linspace(250, 800, FRAMES)
    crop, _ = planned(person(walk + step), person(1150))
    assert crop is not None and crop.last - crop.first > 0.9 * FRAMES
    assert (shown(crop, person(walk)) == 1).all()
    moved = np.diff(crop.corners, axis=0)
    assert (moved[:, 0] >= 0).all()  # never back
    assert np.abs(np.diff(moved, axis=0)).max() <= 2  # pixels a frame more or less from one frame to the next
    assert np.ptp(crop.corners[:, 1]) == 0


def test_boxes_that_jump_do_not_jerk_the_crop():
    chance = np.random.default_rng(1)
    walk = person(np.linspace(120, 1100, FRAMES))
    shaken = walk + chance.normal(0, 6, walk.shape)
    shaken[60:64, 0] -= 120  # an arm that is not there
    shaken[:, :2] = np.maximum(shaken[:, :2], 0)
    (crop,) = planned(shaken)
    assert crop is not None and crop.last - crop.first > 0.7 * FRAMES
    assert (shown(crop, walk) == 1).all()
    assert np.abs(np.diff(crop.corners, 2, axis=0)).max() <= 4  # of which 2 are whole pixels


def test_eased_bounds_lie_inside_and_are_smooth():
    chance = np.random.default_rng(2)
    way = np.cumsum(chance.normal(3, 1, 200))
    low, high = way + chance.normal(0, 10, 200), way + 200 + chance.normal(0, 10, 200)
    low[50], low[90:95] = low[50] + 60, np.nan
    inner_low, inner_high = eased(low, high, way, RATE)
    there = ~np.isnan(low)
    assert (inner_low[there] >= low[there] - 1e-9).all() and (inner_high[there] <= high[there] + 1e-9).all()
    assert np.isnan(inner_low[90:95]).all()
    assert np.abs(np.diff(inner_low[:90], 2)).max() < 2 < np.abs(np.diff(low[:90], 2)).max()


def test_of_two_who_cross_only_the_time_apart_is_shown():
    there, back = np.linspace(200, 1080, 300), np.linspace(1080, 200, 300)
    one, other = person(there, frames=300), person(back, frames=300)
    crops = planned(one, other)
    assert crops[0] is not None and crops[1] is not None
    for crop, own, stranger in zip(crops, (one, other), (other, one), strict=True):
        assert crop is not None and crop.last - crop.first >= FEWEST_FRAMES
        assert crop.last <= 150 or crop.first >= 150
        assert (shown(crop, own) == 1).all() and (shown(crop, stranger) == 0).all()


@pytest.mark.parametrize("frames", [FEWEST_FRAMES - 1, FEWEST_FRAMES])
def test_a_crop_is_as_long_as_a_clip_must_be(frames: int):
    found = planned(person(300, frames=frames), person(950, frames=frames))
    assert [crop is not None for crop in found] == [frames == FEWEST_FRAMES] * 2


def test_two_in_an_embrace_are_not_cropped():
    assert planned(person(600), person(660)) == [None, None]


def test_of_another_a_twentieth_may_show_at_most():
    own = person(300)
    margin = MARGIN * TALL
    for between in range(0, 200, 4):
        stranger = person(300 + BROAD + between)
        crop, _ = planned(own, stranger)
        if crop is not None:
            grown = stranger + np.array([-margin, -margin, margin, margin])
            assert shown(crop, grown).max() <= MOST_OF_OTHERS + 0.005  # a corner lies on whole pixels
            break
    else:
        raise AssertionError("no distance is enough")
    assert between < 2 * margin


def test_someone_not_seen_for_a_moment_is_still_there():
    own, stranger = person(300), person(520)
    stranger[40:60] = np.nan
    together = plan_crops(np.stack([own, stranger]), SIZE, RATE)
    assert together == [None, None] or all(shown(c, person(520)).max() < 0.1 for c in together[:1] if c)
    own[40:60] = np.nan
    crop, _ = plan_crops(np.stack([own, person(950)]), SIZE, RATE)
    assert crop is not None and (crop.first, crop.last) == (0, FRAMES)


def test_someone_who_comes_later_was_there_a_second_before():
    own, late = person(300), person(460)
    late[:100] = np.nan
    crop, _ = planned(own, late)
    assert crop is None  # 70 frames are left
    late[:125] = np.nan
    crop, _ = planned(own, late)
    assert crop is not None and crop.last == 95


def test_a_person_cut_off_by_the_picture_is_shown_as_far_as_the_picture_goes():
    own = person(40)
    own[:, 0] = 0
    crop, _ = planned(own, person(900))
    assert crop is not None and (crop.corners[:, 0] == 0).all()


def test_the_largest_window_is_taken_that_shows_nobody_else():
    alone, _ = planned(person(300), person(1200))
    close, _ = planned(person(300), person(530))
    assert alone is not None and close is not None
    assert alone.size == (990, 556)  # 1126 x 634 would show the other
    assert close.size[0] < alone.size[1] and close.size[1] >= TALL * (1 + 2 * MARGIN)


def test_people_are_followed_by_number_or_by_place():
    times = np.arange(4) / 30
    left, right = np.array([0, 0, 10, 20.0]), np.array([50, 0, 60, 20.0])
    by_number = follow([[(left, 1)], [(right, 1), (left, 2)], [], [(left, 2)]], times)
    assert by_number.shape == (2, 4, 4)
    assert by_number[0, 1].tolist() == right.tolist() and np.isnan(by_number[:, 2]).all()
    by_place = follow([[(left, -1), (right, -1)], [(right + 1, -1)], [], [(left, -1)]], times)
    assert np.isnan(by_place[0, 1:3]).all() and by_place[1, 1].tolist() == (right + 1).tolist()
    assert by_place.shape == (2, 4, 4)


def test_only_people_of_comparable_height_count_who_are_seen_for_a_while():
    boxes = np.stack([person(200), person(600), person(900), person(1100)])
    boxes[1, 20:] = np.nan
    boxes[2, :, 1] = boxes[2, :, 3] - 0.3 * TALL
    boxes[3, 14:] = np.nan
    assert len(who_count(boxes, RATE)) == 2
    assert most_at_once(boxes) == 4
    assert most_at_once(boxes[:0]) == 0 and len(who_count(boxes[:0], RATE)) == 0
