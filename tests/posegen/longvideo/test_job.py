"""What a video depends on: jobs are told apart, checked at once, and shared backgrounds follow their settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posegen.longvideo.conditions import encode_frames
from posegen.longvideo.job import VideoJob
from posegen.pipeline import PoseGenPipeline
from posegen.sharing import SharedRange, SharedRecord
from testkit.tiny_model import HEAD, SEGMENT_FRAMES, TAIL, picture, tiny_pipeline, walking

FRAMES = 29  # three segments: base, bridge, base
PROMPT = "the woman dances"


@pytest.fixture(scope="module")
def pipeline() -> PoseGenPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def job(pipeline: PoseGenPipeline) -> VideoJob:
    return pipeline.job(picture(), walking(FRAMES), PROMPT)


def test_a_store_tells_jobs_and_models_apart(pipeline: PoseGenPipeline, job: VideoJob) -> None:
    model = pipeline.model_id()
    ids = {job.content_id(model), job.content_id("another")}
    for change in (
        {"seed": 1},
        {"num_inference_steps": 3},
        {"framing": SharedRange(range(1, 2), range(1, 2))},
        {"guidance_interval": (0.0, 0.5)},
        {"framing": "off"},
        {"keep_person": False},
        {"negative_prompt": "a man"},
        {"hands": np.zeros((FRAMES, *picture().shape), np.uint8)},
        {"anchor": 2},
    ):
        ids.add(pipeline.job(picture(), walking(FRAMES), PROMPT, **change).content_id(model))  # type: ignore[arg-type]
    ids.add(pipeline.job(picture()[::-1], walking(FRAMES), PROMPT).content_id(model))
    ids.add(pipeline.job(picture(), walking(FRAMES) + np.float32(1), PROMPT).content_id(model))
    assert len(ids) == 13
    assert job.content_id(model) == pipeline.job(picture(), walking(FRAMES), PROMPT).content_id(model)


@pytest.mark.parametrize(
    "part", ["transformer", "vae", "text_encoder", "image_encoder", "scheduler", "dtype"]
)
def test_every_part_that_changes_frames_names_the_model(part: str) -> None:
    pipeline = tiny_pipeline()
    assert pipeline.model_id() == tiny_pipeline().model_id()
    before = pipeline.model_id()
    if part == "scheduler":
        pipeline.scheduler.register_to_config(flow_shift=3.0, shift=3.0)
    elif part == "dtype":
        pipeline.transformer.to(torch.bfloat16)
    else:
        with torch.no_grad():
            next(getattr(pipeline, part).parameters()).add_(1)
    assert pipeline.model_id() != before


def test_where_a_folder_lies_does_not_name_the_model(pipeline: PoseGenPipeline, tmp_path: Path) -> None:
    ids = set()
    for name in ("here", "there"):
        pipeline.save_pretrained(tmp_path / name)
        ids.add(PoseGenPipeline.from_pretrained(tmp_path / name).model_id())
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": (40, 48)}, "choose multiples of 16 pixels"),
        ({"framing": "far"}, "framing 'far' is not known"),
        ({"foreground": "mask"}, "needs a mask"),
        ({"hands": np.zeros((3, 48, 32, 3), np.uint8)}, "hands have 3 frames, the poses 10"),
        ({"driving": np.zeros((10, 17, 3), np.float32)}, r"give \(10, 133, 3\)"),
        ({"driving": np.full((10, 133, 3), np.nan, np.float32)}, "fill them with fill_gaps"),
        ({"anchor": 1}, "cannot be the anchor"),
    ],
)
def test_what_cannot_be_made_is_said_at_once(
    pipeline: PoseGenPipeline, options: dict[str, Any], sentence: str
) -> None:
    arguments = {"driving": walking(10)} | options
    with pytest.raises(ValueError, match=sentence):
        pipeline.job(picture(), **arguments)


def test_a_bridge_sees_its_neighbours_very_frames(job: VideoJob) -> None:
    rng = np.random.default_rng(0)
    segments = {i: rng.integers(0, 256, (SEGMENT_FRAMES, *picture().shape), np.uint8) for i in (0, 2)}
    pictures = job.plan.with_given_frames(1, job.pose_video(1, 1), segments)
    given = job.plan.given(1)
    assert np.array_equal(pictures[:HEAD], segments[0][-HEAD:])
    assert np.array_equal(pictures[-TAIL:], segments[2][:TAIL])
    assert given.tolist() == [True] * HEAD + [False] * (len(given) - HEAD - TAIL) + [True] * TAIL
    plain = job.pose_video(0, 1)
    assert not job.plan.given(0).any() and plain.any()
    assert job.plan.with_given_frames(0, plain, {}) is plain


@pytest.mark.parametrize("hands", [False, True])
def test_a_bridge_sees_given_frames_among_its_hands_too(pipeline: PoseGenPipeline, hands: bool) -> None:
    """The published weights know bridges whose hand video holds the given frames as the pose video does."""
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (FRAMES, *picture().shape), np.uint8) if hands else None
    job = pipeline.job(picture(), walking(FRAMES), PROMPT, hands=video)
    segments = {i: rng.integers(0, 256, (SEGMENT_FRAMES, *picture().shape), np.uint8) for i in (0, 2)}
    encoded = pipeline.encode(job)
    made = pipeline._inputs.conditions(job, encoded, job.plan.segments[1], segments).hands
    expected = job.hand_video(1)
    expected[:HEAD], expected[-TAIL:] = segments[0][-HEAD:], segments[2][:TAIL]
    assert made is not None
    torch.testing.assert_close(made, encode_frames(pipeline.vae, expected[None]))


@pytest.fixture(scope="module")
def wide(pipeline: PoseGenPipeline) -> Callable[..., VideoJob]:
    """Jobs of a wide video with a person at its left, so that there is background."""
    size = (80, 48)

    def job(**options: Any) -> VideoJob:
        quick = {"num_inference_steps": 1, "guidance_scale": 1.0}
        return pipeline.job(picture(size), walking(FRAMES), PROMPT, size=size, **quick | options)

    return job


@pytest.fixture(scope="module")
def base(pipeline: PoseGenPipeline) -> Callable[[VideoJob, int], np.ndarray]:
    """Makes one base segment, the anchor's record before it."""

    def make(job: VideoJob, index: int) -> np.ndarray:
        encoded, record = pipeline.encode(job), SharedRecord()
        pipeline.record_anchor(job, encoded, record)
        return pipeline.generate_segment(job, encoded, index, {}, record)

    return make


@pytest.fixture(scope="module")
def unshared(wide: Callable[..., VideoJob], base: Callable[[VideoJob, int], np.ndarray]) -> np.ndarray:
    return base(wide(framing="off"), 2)


@pytest.mark.parametrize(
    "options",
    [
        {"framing": "close-up"},
        {"keep_person": False},
        {"foreground": "none"},
        {"foreground": "subject"},
        {"foreground": "mask", "mask": np.zeros((FRAMES, 48, 80, 3), np.uint8)},
    ],
    ids=str,
)
def test_base_segments_read_the_anchor(
    wide: Callable[..., VideoJob],
    base: Callable[[VideoJob, int], np.ndarray],
    unshared: np.ndarray,
    options: dict[str, Any],
) -> None:
    assert not np.array_equal(base(wide(**options), 2), unshared)


def test_sharing_follows_its_settings(
    wide: Callable[..., VideoJob], base: Callable[[VideoJob, int], np.ndarray], unshared: np.ndarray
) -> None:
    nowhere = np.zeros((FRAMES, 48, 80, 3), np.uint8)
    everywhere_shared = base(wide(foreground="none"), 2)
    assert np.array_equal(base(wide(foreground="mask", mask=nowhere), 2), everywhere_shared)
    assert not np.array_equal(base(wide(foreground="pose"), 2), everywhere_shared)
    # The anchor itself is made as if nobody shared, whichever base segment it is.
    assert np.array_equal(base(wide(anchor=2), 2), unshared)
    assert not np.array_equal(base(wide(anchor=2), 0), base(wide(framing="off"), 0))


def test_both_forms_of_the_record_give_the_same_video(
    wide: Callable[..., VideoJob], base: Callable[[VideoJob, int], np.ndarray]
) -> None:
    assert np.array_equal(base(wide(form="input"), 2), base(wide(form="key_value"), 2))
