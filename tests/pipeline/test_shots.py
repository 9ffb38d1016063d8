"""Cuts in videos drawn here, where every cut is known, and the plan of spans by its properties."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import CurateConfig
from pipeline.plan.shots import (
    AdaptiveCuts,
    Cut,
    TransNetCuts,
    _transnet,
    detector_maker,
    find_cuts,
    join_cuts,
    plan_spans,
    transnet_on,
)
from posegen.video import Break, VideoInfo, probe, save_video

RATE = 25


def scene(seed: int, frames: int, speed: float = 0.5, light: float = 1.0) -> np.ndarray:
    """(frames, 108, 192, 3) uint8: a pan, `speed` pixels a frame, over blotches in its own colours."""
    rng = np.random.default_rng(seed)
    wide = cv2.resize(rng.integers(0, 255, (12, 40, 3), np.uint8), (640, 120), interpolation=cv2.INTER_CUBIC)
    tint = (0.3 + 0.7 * rng.random(3)) * light
    lefts = [round(60 + speed * index) for index in range(frames)]
    return np.stack([(wide[:108, left : left + 192] * tint).astype(np.uint8) for left in lefts])


def cuts_of(folder: Path, *shots: np.ndarray, detector: str = "adaptive", rate: int = RATE) -> list[Cut]:
    path = folder / "video.mp4"
    save_video(np.concatenate(shots), path, rate)
    info = probe(path)
    return find_cuts(info, detector_maker(detector)(info.rate))


def hard(*frames: int) -> list[Cut]:
    return [Cut(frame, frame, frame) for frame in frames]


def test_hard_cuts_are_found_to_the_frame(tmp_path: Path) -> None:
    assert cuts_of(tmp_path, scene(1, 40), scene(2, 33), scene(3, 8), scene(4, 50)) == hard(40, 73, 81)


def test_one_moving_shot_has_no_cut(tmp_path: Path) -> None:
    assert cuts_of(tmp_path, scene(1, 70, speed=4)) == []


def test_cuts_in_a_dark_scene_are_found_and_its_darkness_is_none(tmp_path: Path) -> None:
    assert cuts_of(tmp_path, scene(1, 40, light=0.3), scene(2, 40, light=0.3)) == hard(40)


def test_a_fade_through_black_is_one_cut_as_wide_as_the_fade(tmp_path: Path) -> None:
    down = np.linspace(1, 0, 20)[:, None, None, None]
    out, back = scene(1, 60, 0), scene(2, 60, 0)
    out[40:] = out[40:] * down
    back[:20] = back[:20] * down[::-1]
    [cut] = cuts_of(tmp_path, out, np.zeros_like(out[:6]), back)
    assert cut.begin == pytest.approx(41, abs=2) and cut.end == pytest.approx(85, abs=2)
    assert cut.frame == pytest.approx(66, abs=2)


def test_black_at_both_ends_belongs_to_no_shot(tmp_path: Path) -> None:
    black = np.zeros_like(scene(1, 10))
    lead, tail = cuts_of(tmp_path, black, scene(1, 50), black)
    assert (lead.frame, lead.begin, tail.frame, tail.end) == (10, 0, 60, 70)
    info = probe(tmp_path / "video.mp4")
    assert plan_spans(info, [lead, tail]) == [(pytest.approx(12 / RATE), pytest.approx(58 / RATE))]


def test_an_all_black_video_still_has_a_span(tmp_path: Path) -> None:
    cuts = cuts_of(tmp_path, np.zeros_like(scene(1, 50)))
    assert plan_spans(probe(tmp_path / "video.mp4"), cuts) == [(0.0, pytest.approx(2.0))]


def test_a_flash_is_no_cut(tmp_path: Path) -> None:
    shot = scene(1, 80)
    for index, strength in ((40, 0.9), (41, 0.6), (42, 0.3)):
        shot[index] = shot[index] * (1 - strength) + 255 * strength
    assert cuts_of(tmp_path, shot) == []


def test_a_jerk_of_the_camera_is_no_cut(tmp_path: Path) -> None:
    assert cuts_of(tmp_path, scene(1, 40, 0.2), np.roll(scene(1, 40, 0.2), 18, axis=2)) == []


def test_repeated_frames_do_not_look_like_cuts(tmp_path: Path) -> None:
    shots = [np.repeat(scene(seed, 20, speed=4), 4, axis=0) for seed in (1, 2)]
    assert cuts_of(tmp_path, *shots, rate=60) == hard(80)


def test_a_cut_to_a_still_picture_is_found(tmp_path: Path) -> None:
    assert cuts_of(tmp_path, scene(1, 40), scene(2, 60, speed=0)) == hard(40)


def test_a_cut_shortly_before_the_end_to_a_still_picture_is_found(tmp_path: Path) -> None:
    still = [np.repeat(scene(seed, 1), 10, axis=0) for seed in (1, 2)]
    assert cuts_of(tmp_path, *still, rate=10) == hard(10)


def test_a_dissolve_is_one_cut_as_wide_as_the_dissolve(tmp_path: Path) -> None:
    share = np.linspace(0, 1, 24)[:, None, None, None]
    old, new = scene(1, 74, 0.2), scene(2, 74, 0.2)
    mixed = (old[50:] * (1 - share) + new[:24] * share).astype(np.uint8)
    [cut] = cuts_of(tmp_path, old[:50], mixed, new[24:], detector="transnetv2")
    assert 50 <= cut.begin < cut.frame < cut.end <= 76 and cut.end - cut.begin > 10


def test_chunks_do_not_change_the_cuts() -> None:
    frames = np.concatenate([scene(seed, 30 + 7 * seed) for seed in range(6)])
    small = np.stack([cv2.resize(frame, (48, 27), interpolation=cv2.INTER_AREA) for frame in frames])
    found = []
    for chunk in (1, 7, 32, 1000):
        finder = AdaptiveCuts(RATE)
        cuts = [c for start in range(0, len(small), chunk) for c in finder.push(small[start : start + chunk])]
        found.append(cuts + finder.finish())
        assert len(finder.recent) < 80 or chunk == 1000
    assert found == [hard(30, 67, 111, 162, 220)] * 4


def test_transnet_windows_equal_the_whole_video_at_once() -> None:
    import torch

    frames = np.random.default_rng(0).integers(0, 255, (130, 27, 48, 3), np.uint8)
    finder = TransNetCuts(RATE)
    for start in range(0, 130, 32):
        finder.push(frames[start : start + 32])
    finder.finish()
    single, many = _transnet("cpu").predict_frames(torch.from_numpy(frames), quiet=True)
    scores = np.concatenate(finder.scores)[:130]
    np.testing.assert_allclose(scores, np.stack([single.numpy(), many.numpy()], 1), atol=1e-5)


def test_transnet_finds_hard_cuts(tmp_path: Path) -> None:
    cuts = cuts_of(tmp_path, scene(1, 45), scene(2, 45), detector="transnetv2")
    assert [cut.frame for cut in cuts] == [45]


def test_loading_transnet_changes_no_global_setting() -> None:
    import torch

    _transnet.cache_clear()
    np.random.seed(5)
    expected = np.random.random(), torch.are_deterministic_algorithms_enabled()
    np.random.seed(5)
    _transnet("cpu")
    assert (np.random.random(), torch.are_deterministic_algorithms_enabled()) == expected


def test_one_detector_is_taken_for_a_whole_run_and_a_gpu_only_where_it_was_asked_for() -> None:
    shares = {0.0: "adaptive", 0.25: "transnetv2"}
    found = {share: CurateConfig("videos", "dataset", gpu_share=share).detector for share in shares}
    assert found == shares
    assert CurateConfig("videos", "dataset", shots="transnetv2").detector == "transnetv2"


def test_a_gpu_that_torch_cannot_use_is_said_before_the_first_video() -> None:
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"transnetv2 was to run on a GPU.*ask for no GPU"):
            transnet_on("cuda")


def test_an_unknown_detector_is_named() -> None:
    with pytest.raises(ValueError, match=r"'best'.*adaptive or transnetv2"):
        detector_maker("best")


def info_of(times: np.ndarray, duration: float, breaks: tuple[Break, ...] = ()) -> VideoInfo:
    none = np.zeros(1, np.int64)
    return VideoInfo(
        "a.mp4", 2, 2, times, duration, 0, False, "h264", none, False, none, (2, 2), breaks=breaks
    )


@st.composite
def videos_with_cuts(draw: st.DrawFn) -> tuple[VideoInfo, list[Cut]]:
    gaps = draw(st.lists(st.sampled_from([1 / 60, 1 / 30, 0.04, 0.1, 1.0]), min_size=1, max_size=400))
    ends = np.cumsum(gaps)
    edges = sorted(draw(st.lists(st.integers(0, len(gaps)), max_size=12)))
    pairs = zip(edges[::2], edges[1::2], strict=False)
    breaks = tuple(Break(frame, "") for frame in sorted(draw(st.sets(st.integers(1, len(gaps)), max_size=3))))
    info = info_of(np.append(0, ends[:-1]), float(ends[-1]), breaks)
    return info, [Cut(begin, begin, end) for begin, end in pairs]


@given(videos_with_cuts(), st.sampled_from([10.0, 24.0, 30.0]), st.sampled_from([17.0, 20.0]))
def test_spans_are_ordered_disjoint_inside_their_shots_and_within_the_limits(
    video: tuple[VideoInfo, list[Cut]], rate: float, longest: float
) -> None:
    info, cuts = video
    least = max(2, 81 / rate)
    spans = plan_spans(info, cuts, rate, max_seconds=longest)
    times = np.append(info.frame_times, info.duration)
    assert spans
    for start, stop in spans:
        assert 0 <= start < stop <= info.duration
        assert stop - start <= longest + 1e-6
    for (_, stop), (start, _) in pairwise(spans):
        assert stop <= start
    splits = [(a, b) for a, b in pairwise(spans) if a[1] == b[0]]
    cut_times = {float(times[edge]) for cut in cuts for edge in (cut.begin, cut.end)}
    cut_times |= {float(times[found.frame]) for found in info.breaks}
    for one, other in splits:
        if one[1] not in cut_times:
            assert min(one[1] - one[0], other[1] - other[0]) >= least - 1e-6
    if any(begin < end for begin, end in _between(cuts, len(info.frame_times))):
        for cut in cuts:
            for start, stop in spans:
                assert stop <= times[cut.begin] or start >= times[cut.end]
    for frame in (found.frame for found in info.breaks):
        held = [cut for cut in cuts if cut.begin <= frame <= cut.end]
        assert held or all(
            stop <= info.frame_ends[frame - 1] or start >= times[frame] for start, stop in spans
        )


def _between(cuts: list[Cut], frames: int) -> list[tuple[int, int]]:
    edges = [0, *(edge for cut in cuts for edge in (cut.begin, cut.end)), frames]
    return list(zip(edges[::2], edges[1::2], strict=True))


@given(
    st.lists(st.integers(1, 299), max_size=8),
    st.lists(st.sampled_from([0.0, 1.0, 5.0, 60.0, 120.0]), min_size=10, max_size=10),
)
def test_joined_cuts_are_ordered_and_do_not_overlap(frames: list[int], levels: list[float]) -> None:
    luma = np.interp(np.arange(0, 10, 1 / 30), np.arange(10), levels)
    cuts = join_cuts(hard(*sorted(set(frames))), luma, 30.0)
    for cut in cuts:
        assert 0 <= cut.begin <= cut.end <= len(luma)
    for one, other in pairwise(cuts):
        assert one.end <= other.begin and one.begin <= other.begin


def test_limits_that_no_split_can_keep_are_refused() -> None:
    with pytest.raises(ValueError, match="at least twice"):
        plan_spans(info_of(np.arange(3.0), 3.0), [], max_seconds=5)
