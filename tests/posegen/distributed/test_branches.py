"""Halves of a group compute guidance's two passes, and the video stays that of one process."""

from __future__ import annotations

import numpy as np
import pytest

from posegen.distributed.branches import Part, part_of
from posegen.distributed.group import Group
from posegen.longvideo.job import ForegroundSource
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.pipeline import PoseGenPipeline
from posegen.sharing import Branch, SharedRecord
from testkit.tiny_model import picture, tiny_pipeline, walking

BOTH: tuple[Branch, ...] = ("guided", "unguided")
SIZE = (64, 64)  # whose tokens four processes can share


def test_halves_compute_a_pass_each() -> None:
    parts = [part_of(rank, 4, BOTH, shares=False) for rank in range(4)]
    assert parts == [Part(("guided",), 2)] * 2 + [Part(("unguided",), 2)] * 2


@pytest.mark.parametrize(
    ("processes", "branches", "shares"),
    [
        pytest.param(4, BOTH, True, id="a step that shares"),
        pytest.param(4, ("guided",), False, id="a step of one pass"),
        pytest.param(3, BOTH, False, id="an odd group"),
    ],
)
def test_all_processes_compute_all_passes(processes: int, branches: tuple[Branch, ...], shares: bool) -> None:
    parts = [part_of(rank, processes, branches, shares) for rank in range(processes)]
    assert parts == [Part(branches, processes)] * processes


def four_heads() -> PoseGenPipeline:
    """A pipeline that four processes can share."""
    pipeline = tiny_pipeline(size=SIZE, num_inference_steps=4)
    pipeline.transformer = PoseGenTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=12,
        ffn_dim=32,
        text_dim=16,
        freq_dim=16,
        num_layers=2,
        image_dim=16,
        added_kv_proj_dim=48,
    ).eval()
    return pipeline


@pytest.mark.slow
@pytest.mark.parametrize("foreground", ["pose", "subject"])
def test_four_processes_make_the_segment_of_one(foreground: ForegroundSource) -> None:
    pipeline = four_heads()
    # The first step shares, the last is not guided.
    job = pipeline.job(
        picture(SIZE),
        walking(29, SIZE),
        "the woman dances",
        framing="0:1,1:2",
        foreground=foreground,
        guidance_interval=(0.6, 1.0),
    )
    encoded = pipeline.encode(job)

    def bases() -> np.ndarray:
        record = SharedRecord()
        made = [pipeline.generate_segment(job, encoded, index, {}, record) for index in (0, 2)]
        return np.concatenate(made).astype(int)

    alone = bases()
    pipeline.group = Group(pipeline, processes=4)
    together = bases()
    pipeline.group.close()
    assert np.abs(together - alone).max() <= 1
