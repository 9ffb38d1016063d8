"""Seams of known size, in a picture that moves as its poses do."""

from __future__ import annotations

import numpy as np
import pytest

from posegen.evaluation.colour import lab
from posegen.evaluation.seams import (
    REACH,
    Overlap,
    SeamFigure,
    latent_begins,
    matched_places,
    overlaps,
    pose_speed,
    seam_figures,
    step_figures,
)
from posegen.longvideo.segments import Segment, plan

FRAMES, SIZE = 40, 48
SEGMENTS = (Segment(0, 0, 21, "base", 0, 0), Segment(1, 17, 25, "bridge", 4, 0))
SEAM = Overlap(17, 21)


def moving(speeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A wavy picture that moves right by so many pixels at each step, and poses that move with it."""
    at = np.concatenate([[0], np.cumsum(speeds)])
    columns = np.arange(SIZE)[None, None, :] - at[:, None, None]
    rows = np.arange(SIZE)[None, :, None]
    grey = 120 + 60 * np.sin(2 * np.pi * columns / 12) * np.sin(2 * np.pi * rows / 12)
    keypoints = np.zeros((len(at), 133, 3), np.float32)
    keypoints[..., 0] = at[:, None]
    keypoints[..., 2] = 1
    return np.repeat(np.rint(grey)[..., None], 3, axis=3).astype(np.uint8), keypoints


def ratios(video: np.ndarray, keypoints: np.ndarray) -> dict[tuple[str, str], float]:
    figures = seam_figures(video, matched_places(keypoints, SEGMENTS))
    return {(figure.where, figure.name): figure.ratio for figure in figures}


def test_overlaps_are_those_of_the_plan_as_far_as_the_video_goes() -> None:
    timeline = plan(40, 9, 1, 4)
    found = overlaps(timeline.segments, 40)
    assert found[:2] == [Overlap(8, 9), Overlap(13, 17)]
    assert found[-1].stop < 40
    assert len(overlaps(timeline.segments, 15)) == 1
    assert found[1].places() == {"begin": 13, "middle": 15, "end": 17}


def test_a_video_without_a_seam_has_none() -> None:
    video, keypoints = moving(np.full(FRAMES - 1, 1.0))
    found = ratios(video, keypoints)
    assert len(found) == 3 * 4
    for (_, name), ratio in found.items():
        if name == "difference":
            assert ratio == pytest.approx(1, abs=0.02)


def test_latents_begin_where_those_of_the_segment_that_shows_do() -> None:
    timeline = plan(40, 9, 1, 4)
    assert [segment.start for segment in timeline.segments[:3]] == [0, 8, 13]
    begins = np.flatnonzero(latent_begins(timeline.segments, 22))
    assert begins.tolist() == [1, 5, 9, 13, 18]  # at 14 the bridge shows more than the last segment


def test_steps_between_latents_are_no_seams() -> None:
    """A picture that stands still for the four frames of a latent and then jumps, everywhere alike."""
    steps = latent_begins(SEGMENTS, FRAMES)[1:]
    video, keypoints = moving(np.where(steps, 4.0, 0.0))
    keypoints[..., 0] = np.arange(FRAMES)[:, None]  # the poses move evenly
    begins = latent_begins(SEGMENTS, FRAMES)
    for place in matched_places(keypoints, SEGMENTS):
        assert {bool(begins[frame]) for frame in place.inside} == {bool(begins[place.frame])}
    for (_, name), ratio in ratios(video, keypoints).items():
        if name == "difference":
            assert ratio == pytest.approx(1, abs=0.05)


def test_a_seam_in_a_quick_turn_is_not_blamed_for_the_turn() -> None:
    speeds = np.where(np.arange(FRAMES - 1) % 4 == (SEAM.start - 1) % 4, 3.0, 0.5)
    video, keypoints = moving(speeds)
    assert pose_speed(keypoints)[SEAM.start - 1] == 3
    begin = next(place for place in matched_places(keypoints, SEGMENTS) if place.where == "begin")
    assert [speeds[frame - 1] for frame in begin.inside] == [3, 3, 3]
    assert ratios(video, keypoints)["begin", "difference"] == pytest.approx(1, abs=0.05)


def test_a_jump_of_colour_is_found_where_it_is_and_with_its_size() -> None:
    video, keypoints = moving(np.full(FRAMES - 1, 1.0))
    video[SEAM.stop :] += 20
    places = matched_places(keypoints, SEGMENTS)
    found = {(figure.where, figure.name): figure for figure in seam_figures(video, places)}
    jump = lab(video[SEAM.stop]).mean((0, 1)) - lab(video[SEAM.stop - 1]).mean((0, 1))
    assert found["end", "colour"].pairs[0, 0] == pytest.approx(np.linalg.norm(jump), rel=1e-4)
    assert found["end", "colour"].pairs[0, 0] == pytest.approx(7.8, abs=0.5)  # 20 grey levels
    assert found["end", "colour"].pairs[0, 1] < 0.1
    assert found["begin", "colour"].pairs[0, 0] < 0.1
    assert found["end", "warp"].pairs[0, 0] == pytest.approx(20, abs=5)  # motion does not explain it
    assert found["end", "warp"].pairs[0, 1] < 4  # inside, it does
    assert found["end", "difference"].ratio > 1.1


def test_a_ghost_has_less_detail_than_the_frames_around_it() -> None:
    """A sine laid over itself shifted by a third of its period has half of its amplitude."""
    video, _ = moving(np.zeros(2 * REACH))
    assert step_figures(video)["ghosting"] == 0
    shifted = np.roll(video[0], 4, axis=1)
    video[REACH] = ((video[0].astype(int) + shifted) / 2).round()
    assert step_figures(video)["ghosting"] == pytest.approx(0.5, abs=0.05)


def test_p_is_small_only_where_seams_differ() -> None:
    random = np.random.default_rng(0)
    inside = random.uniform(1, 2, 30)
    frames = tuple(range(30))
    same = SeamFigure("begin", "warp", frames, np.stack([random.uniform(1, 2, 30), inside], axis=1))
    worse = SeamFigure("begin", "warp", frames, np.stack([inside * 1.5, inside], axis=1))
    assert same.p > 0.05
    assert worse.p < 0.001
    assert worse.ratio == pytest.approx(1.5)


def test_a_video_that_is_all_overlap_has_nothing_to_compare_with() -> None:
    _, keypoints = moving(np.full(7, 1.0))
    segments = (Segment(0, 0, 6, "base", 0, 0), Segment(1, 1, 13, "bridge", 5, 0))
    assert matched_places(keypoints, segments) == []
