"""Blocks lie on the host until they compute, in each process of a group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from posegen.distributed.group import Group
from posegen.pipeline import PoseGenPipeline
from testkit.tiny_model import picture, save_tiny_model, walking

pytestmark = pytest.mark.slow


def test_blocks_come_to_each_process_as_they_compute(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path)
    alone, pair = PoseGenPipeline.from_pretrained(model), PoseGenPipeline.from_pretrained(model)
    arguments = picture(), walking(30), "a woman dances"
    frames = alone(*arguments).frames.astype(int)
    pair.group = Group(pair, processes=2, offload=True)
    try:
        difference = np.abs(pair(*arguments).frames - frames)
    finally:
        pair.group.close()
    assert difference.max() <= 1 and difference.mean() < 2e-3
