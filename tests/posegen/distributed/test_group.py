"""Two processes denoise what one does, whoever recorded; they stop at the same step; none outlives its rank_zero."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import get_args

import numpy as np
import psutil
import pytest
import torch

from posegen.distributed.group import Group
from posegen.longvideo.job import VideoJob
from posegen.longvideo.sampling import Cancelled, Step
from posegen.pipeline import PoseGenPipeline
from posegen.sharing import Form, Position, SharedEntry, SharedRecord
from posegen.source import ModelSource
from testkit.lora_files import comfyui_file, random_matrices
from testkit.tiny_model import picture, save_tiny_model, tiny_pipeline, tiny_transformer, walking

pytestmark = pytest.mark.slow

FRAMES = 29  # three segments: the anchor, a bridge, a base
PATIENCE_S = 120.0
FORMS: tuple[Form, ...] = get_args(Form)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def source(model: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """The model, with a LoRA that jobs may ask for."""
    lora = comfyui_file(random_matrices(tiny_transformer()), tmp_path_factory.mktemp("lora"))
    return ModelSource(model, by_name=(("ink", lora),))


@pytest.fixture(scope="module")
def alone(source: ModelSource) -> PoseGenPipeline:
    return source.load(torch.float32)


@pytest.fixture(scope="module")
def pair(source: ModelSource) -> Iterator[PoseGenPipeline]:
    """A pipeline that denoises in two processes."""
    pipeline = source.load(torch.float32)
    pipeline.group = Group(pipeline, processes=2)
    yield pipeline
    pipeline.group.close()


def video_job(pipeline: PoseGenPipeline, form: Form = "key_value") -> VideoJob:
    return pipeline.job(
        picture(), walking(FRAMES), "the woman dances", seed=3, form=form, framing="full-body"
    )


def same(frames: np.ndarray, others: np.ndarray, *, share: float = 1e-3) -> bool:
    """Equal to float tolerance: pixels differ by one of 255 at most, and fewer than a share of them does."""
    difference = np.abs(frames.astype(int) - others)
    return frames.shape == others.shape and difference.max() <= 1 and difference.mean() < share


@pytest.mark.parametrize("form", FORMS)
def test_two_processes_make_the_video_of_one(
    alone: PoseGenPipeline, pair: PoseGenPipeline, form: Form
) -> None:
    whole, parted = (list(pipeline.generate(video_job(pipeline, form))) for pipeline in (alone, pair))
    assert same(np.concatenate(whole), np.concatenate(parted))


def test_both_processes_take_the_lora_that_a_job_asks_for(
    alone: PoseGenPipeline, pair: PoseGenPipeline
) -> None:
    videos = []
    for strength in (1.0, 0.0):
        jobs = [replace(video_job(alone), loras=(("ink", strength),)), video_job(alone)]
        for job in jobs:
            whole, parted = (np.concatenate(list(pipeline.generate(job))) for pipeline in (alone, pair))
            assert same(whole, parted, share=5e-3)  # random LoRA matrices enlarge what rounding does
            videos.append(whole)
    strong, without, *others = videos
    assert not same(strong, without)
    assert all(same(without, other) for other in others)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("maker", ["alone", "pair"])
def test_a_record_is_read_by_any_number_of_processes(
    alone: PoseGenPipeline, pair: PoseGenPipeline, form: Form, maker: str
) -> None:
    makers = {"alone": (alone, pair), "pair": (pair, alone)}
    record, job = SharedRecord(), video_job(alone, form)
    for pipeline in makers[maker]:
        encoded = pipeline.encode(job)
        if not record.entries:
            pipeline.generate_segment(job, encoded, 0, {}, record)
    read = [pipeline.generate_segment(job, encoded, 2, {}, record) for pipeline in (alone, pair)]
    assert same(*read)


class Full(Exception):  # noqa: N818 - says what is wrong
    """A store has no room."""


class FullRecord(SharedRecord):
    """A store that takes nothing and has nothing."""

    def put(self, position: Position, entry: SharedEntry) -> None:
        raise Full

    def get(self, position: Position) -> SharedEntry:
        raise Full


def cancel(index: int, step: Step) -> None:
    raise Cancelled


@pytest.mark.parametrize(
    ("index", "callback", "record", "error"),
    [
        pytest.param(0, cancel, SharedRecord(), Cancelled, id="cancelled after a step"),
        pytest.param(0, None, FullRecord(), Full, id="the record is not taken"),
        pytest.param(2, None, FullRecord(), Full, id="the record is not there"),
    ],
)
def test_a_group_goes_on_after_a_segment_that_ended_early(
    alone: PoseGenPipeline,
    pair: PoseGenPipeline,
    index: int,
    callback: Callable[[int, Step], None] | None,
    record: SharedRecord,
    error: type[Exception],
) -> None:
    job = video_job(pair)
    encoded = pair.encode(job)
    with pytest.raises(error):
        pair.generate_segment(job, encoded, index, {}, record, callback)
    made = [pipeline.generate_segment(job, encoded, 0, {}, SharedRecord()) for pipeline in (alone, pair)]
    assert same(*made)


def test_a_size_that_cannot_be_shared_is_refused_and_the_group_goes_on(pair: PoseGenPipeline) -> None:
    size = (48, 48)  # three times three tokens
    with pytest.raises(ValueError, match="2 processes cannot share a frame's 9 tokens"):
        pair.job(picture(size), walking(FRAMES, size), size=size)
    pair.group.check()


def test_a_model_that_cannot_be_split_is_refused(model: Path) -> None:
    with pytest.raises(ValueError, match="2 attention heads"):
        Group(tiny_pipeline(), processes=3)


def lead(model: Path, told: Connection) -> None:
    """Rank 0 of a group: sends its workers' process ids, and waits."""
    pipeline = PoseGenPipeline.from_pretrained(model)
    pipeline.group = Group(pipeline, processes=2)
    told.send(pipeline.group.pids)
    told.recv()


def test_a_worker_ends_with_rank_zero(model: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    rank_zero = multiprocessing.get_context("spawn").Process(target=lead, args=(model, theirs))
    rank_zero.start()
    assert ours.poll(PATIENCE_S)
    (worker,) = (psutil.Process(pid) for pid in ours.recv())
    rank_zero.kill()
    rank_zero.join()
    psutil.wait_procs([worker], timeout=PATIENCE_S)
    assert not worker.is_running()
