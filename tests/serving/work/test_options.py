"""LoRAs, hands and a mask on their way through the workers: the frames are those that the library makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from posegen.driving.driving_video import VideoFrames
from posegen.source import ModelSource
from posegen.video import save_video
from serving.loras import read_loras
from serving.state.rows import Job, Kind, Role
from serving.state.transitions import JobStatus
from serving.work.prepare import job_plan
from testkit.lora_files import comfyui_file, random_matrices
from testkit.serving_workers import FRAMES, Place, empty_place
from testkit.tiny_model import SIZE, picture, tiny_transformer, walking

INK = [{"name": "ink", "strength": 0.5}]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A server that has a LoRA."""
    folder = tmp_path_factory.mktemp("place")
    file = comfyui_file(random_matrices(tiny_transformer()), folder / "lora")
    place = empty_place(folder)
    pipeline = ModelSource(folder / "model", by_name=(("ink", file),)).load(torch.float32)
    model = replace(place.model, loras=read_loras({"ink": str(file)}, place.model.transformer))
    return replace(place, pipeline=pipeline, model=model)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A mask and a hand video, of another size than the video."""
    folder, chance = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    paths: dict[str, Path] = {}
    for name in ("mask", "hands"):
        pictures = 255 * chance.integers(0, 2, (FRAMES, 6, 4, 3), np.uint8).repeat(16, 1).repeat(16, 2)
        save_video(pictures, paths.setdefault(name, folder / f"{name}.mp4"), 30.0)
    return paths


def work(place: Place, *roles: Role) -> None:
    for role in roles:
        worker = place.worker(role)
        while worker.turn():
            pass


def segments(place: Place, job: Job) -> list[np.ndarray]:
    assert place.database.jobs.get(job.id).status is not JobStatus.FAILED
    tasks = place.database.jobs.tasks(job.id, Kind.SEGMENT)
    return [place.artifacts.load_frames(task.artifact) for task in tasks]


def by_the_library(place: Place, folder: Path, **options: Any) -> Iterator[np.ndarray]:
    """The segments that the library makes."""
    job = place.pipeline.job(
        picture(), walking(FRAMES), "the woman dances", seed=3, framing="full-body", **options
    )
    list(place.pipeline.generate(job, folder))
    return (load_file(path)["frames"] for path in sorted(folder.iterdir()))


def test_a_video_is_made_with_what_it_was_asked_for_with(
    place: Place, videos: dict[str, Path], tmp_path: Path
) -> None:
    job = place.post(FRAMES, videos, foreground="mask", lora=INK)
    plain = place.post(FRAMES)
    work(place, Role.PREPARE, Role.GENERATE)
    frames = {name: VideoFrames(path, place.model.rate, SIZE) for name, path in videos.items()}
    expected = by_the_library(place, tmp_path / "a", foreground="mask", loras={"ink": 0.5}, **frames)
    for made, wanted in zip(segments(place, job), expected, strict=True):
        assert np.array_equal(made, wanted)
    for made, wanted in zip(segments(place, plain), by_the_library(place, tmp_path / "b"), strict=True):
        assert np.array_equal(made, wanted)
    assert not np.array_equal(segments(place, job)[0], segments(place, plain)[0])


def test_of_a_shorter_video_the_rest_of_the_hands_is_left_out(place: Place, videos: dict[str, Path]) -> None:
    job = place.post(FRAMES, {"hands": videos["hands"]}, seconds=0.5)
    work(place, Role.PREPARE, Role.GENERATE)
    segments(place, job)
    assert len(place.artifacts.load_frames(f"{job.id}/hands.safetensors")) == 15


def test_hands_of_another_length_are_refused(place: Place, videos: dict[str, Path]) -> None:
    job = place.post(FRAMES - 1, {"hands": videos["hands"]})
    work(place, Role.PREPARE)
    refused = place.database.jobs.get(job.id)
    assert refused.status is JobStatus.FAILED
    assert refused.error_message == (
        f"The video of the hands has {FRAMES} frames at the model's rate and the movement {FRAMES - 1}; send as "
        "many."
    )


def test_nothing_made_with_another_lora_or_strength_is_used_again(place: Place) -> None:
    """Names of segments, and so of what is found again, follow from the file, the strength and the uploads."""
    job = place.post(FRAMES, lora=INK)
    work(place, Role.PREPARE)
    prepared, model = place.artifacts.read(f"{job.id}/prepared.safetensors"), place.model
    (ink,) = model.loras
    requests = [job.request | {"lora": lora} for lora in ([], INK, [{"name": "ink", "strength": 0.6}])]
    requests.append(job.request | {"uploads": job.request["uploads"] | {"hands": {"sha256": "1"}}})
    names = [job_plan(request, prepared, model).content_id for request in requests]
    names.append(
        job_plan(job.request, prepared, replace(model, loras=(replace(ink, sha256="2"),))).content_id
    )
    assert len(set(names)) == len(names)


def test_a_lora_that_the_server_has_no_more_is_said(place: Place) -> None:
    job = place.post(FRAMES, lora=[{"name": "oil", "strength": 1.0}])
    work(place, Role.PREPARE, Role.GENERATE)
    refused = place.database.jobs.get(job.id)
    assert refused.status is JobStatus.FAILED
    assert str(refused.error_message).startswith("This server has no LoRA 'oil' any more")
