"""A group waits for a slow process, and ends where none gets on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import psutil
import pytest

from posegen.distributed.group import Group, GroupError
from posegen.pipeline import PoseGenPipeline
from posegen.sharing import SharedRecord
from testkit.tiny_model import picture, tiny_pipeline, walking

pytestmark = pytest.mark.slow


@pytest.fixture
def pipeline() -> PoseGenPipeline:
    return tiny_pipeline()


@contextmanager
def hindered(pid: int, times: int) -> Iterator[None]:
    """Stops a process again and again, for so many times a second each."""
    process = psutil.Process(pid)

    def hinder() -> None:
        for _ in range(times):
            process.suspend()
            time.sleep(1)
            process.resume()
            time.sleep(0.1)

    with ThreadPoolExecutor() as pool:
        hindering = pool.submit(hinder)
        yield
        hindering.result()


def anchor(pipeline: PoseGenPipeline) -> np.ndarray:
    """The first segment of a video."""
    job = pipeline.job(picture(), walking(29), "the woman dances", framing="full-body")
    return pipeline.generate_segment(job, pipeline.encode(job), 0, {}, SharedRecord())


def test_a_slow_process_is_waited_for(pipeline: PoseGenPipeline) -> None:
    alone = anchor(pipeline)
    pipeline.group = Group(pipeline, processes=2, patience=4)
    with hindered(pipeline.group.pids[0], times=8):
        together = anchor(pipeline)
    pipeline.group.close()
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_a_group_that_is_stuck_ends(pipeline: PoseGenPipeline) -> None:
    pipeline.group = Group(pipeline, processes=2, patience=1)
    psutil.Process(pipeline.group.pids[0]).suspend()
    with pytest.raises(GroupError, match="start anew"):
        anchor(pipeline)
