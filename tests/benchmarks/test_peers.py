"""Other plans for a long video: what they make, what they are given, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.mini import Case
from benchmarks.peers import FreshNoise, Independent, Sequential, averaged_windows, costs, planned
from posegen.commands.generate import BUNDLED
from posegen.longvideo.job import VideoJob
from posegen.longvideo.segments import Plan, plan
from posegen.pipeline import PoseGenPipeline

FRAMES = 30


@pytest.fixture(scope="module")
def pipeline() -> Iterator[PoseGenPipeline]:
    yield PoseGenPipeline.from_pretrained(BUNDLED)


@pytest.fixture(scope="module")
def job(pipeline: PoseGenPipeline) -> VideoJob:
    case = Case.of(1_700_000, FRAMES, pipeline.config.rate, tuple(pipeline.config.size))
    return pipeline.job(case.picture, case.clip.keypoints, case.clip.caption)


@pytest.mark.parametrize("kind", [Independent, Sequential])
def test_a_plan_of_another_kind_covers_the_video(kind: type[Plan]) -> None:
    for frames in (9, 10, 13, 14, 30, 100):
        found = planned(kind, plan(frames, 9, 1, 4))
        covered = np.zeros(frames, int)
        for segment in found.segments:
            covered[segment.start : segment.start + segment.frames] += 1
        assert covered.min() >= 1
        if kind is Sequential:
            assert found.segments[-1].start < frames  # none too many
        for before, after in zip(found.segments[:-1], found.segments[1:], strict=True):
            assert before.start + before.frames - after.start == found.overlap(before.index)


def test_independent_segments_are_given_nothing() -> None:
    found = planned(Independent, plan(100, 9, 1, 4))
    assert {segment.kind for segment in found.segments} == {"base"}
    assert not any(found.given(index).any() for index in range(len(found.segments)))


def test_a_segment_continues_the_one_before(pipeline: PoseGenPipeline, job: VideoJob) -> None:
    sequential = replace(job, plan=planned(Sequential, job.plan), sharing=None)
    made = np.concatenate(list(pipeline.generate(sequential)))
    assert made.shape == (FRAMES, *job.picture.shape)
    head = sequential.plan.head
    before, own = np.zeros((2, sequential.plan.segment_frames, 2, 2, 3), np.uint8)
    before[-head:] = 7
    given = sequential.plan.with_given_frames(1, own, {0: before})
    assert (given[:head] == 7).all() and not given[head:].any()
    assert sequential.plan.given(1).sum() == head


def test_windows_side_by_side_make_the_whole_video(pipeline: PoseGenPipeline, job: VideoJob) -> None:
    windows = replace(job, plan=planned(Independent, job.plan), sharing=None)
    averaged = averaged_windows(pipeline, windows)
    alone = np.concatenate(list(pipeline.generate(windows)))
    assert averaged.shape == alone.shape
    assert 0 < np.abs(averaged.astype(int) - alone).mean() < 20
    single = replace(
        windows, plan=Independent(9, 9, 1, 4, 0), keypoints=job.keypoints[:9]
    )  # nothing to average: the same but for the codec's rounding in between
    apart = averaged_windows(pipeline, single).astype(int) - np.concatenate(list(pipeline.generate(single)))
    assert np.abs(apart).mean() < 6


def test_noise_differs_from_segment_to_segment_only_where_asked(
    pipeline: PoseGenPipeline, job: VideoJob
) -> None:
    fresh = FreshNoise.from_pretrained(BUNDLED)
    encoded = fresh.encode(job)
    job = replace(job, plan=planned(Independent, job.plan), sharing=None)
    usual = pipeline.generate_segment(job, encoded, 2, {})
    assert (
        fresh.generate_segment(job, encoded, 0, {}) == pipeline.generate_segment(job, encoded, 0, {})
    ).all()
    assert (fresh.generate_segment(job, encoded, 2, {}) != usual).any()
    whole, same = (np.concatenate(list(each.generate(job))) for each in (fresh, pipeline))
    first = job.plan.segment_frames - job.plan.tail
    assert (whole[:first] == same[:first]).all() and (whole[-first:] != same[-first:]).any()


def test_costs_are_counted_in_passes(pipeline: PoseGenPipeline, job: VideoJob) -> None:
    steps, segments = job.num_inference_steps, len(job.plan.segments)
    shared = job.sharing.shared.steps.stop if job.sharing else 0
    assert costs(pipeline, job) == {"passes": segments * steps, "critical_path": 2 * steps + shared}
    alone = replace(job, plan=planned(Independent, job.plan), sharing=None)
    assert costs(pipeline, alone) == {"passes": segments * steps, "critical_path": steps}
    chained = replace(job, plan=planned(Sequential, job.plan), sharing=None)
    links = len(chained.plan.segments)
    assert costs(pipeline, chained) == {"passes": links * steps, "critical_path": links * steps}
