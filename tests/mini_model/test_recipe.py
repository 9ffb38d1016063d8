"""The recipe for a GPU, run whole on a CPU at the smallest size: what it makes is a model that the library loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mini_model.puppets import motion
from posegen.pipeline import PoseGenPipeline

RECIPE = Path(__file__).parents[2] / "mini_model" / "recipe_gpu.sh"
SIZE = (32, 48)
SMALL = {
    "SIZE": "32 48",
    "FRAMES": "13",
    "HEADS": "1",
    "LAYERS": "1",
    "CLIPS": "100",
    "ITEMS": "100",
    "BATCH": "2",
    "PROCESSES": "2",
    "MINUTES": "0.2",
    "DEVICE": "cpu",
}


@pytest.mark.long
def test_recipe_for_a_gpu_makes_a_model(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    made = subprocess.run(
        ["sh", str(RECIPE), str(tmp_path)],
        env=os.environ | SMALL | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert not made.returncode, made.stderr[-3000:]
    pipeline = PoseGenPipeline.from_pretrained(tmp_path / "model")
    assert tuple(pipeline.config.size) == SIZE and pipeline.config.segment_frames == 13
    picture = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
    job = pipeline.job(picture, motion(1, 13, pipeline.config.rate, SIZE), "A man walks.")
    assert np.concatenate(list(pipeline.generate(job))).shape == (13, SIZE[1], SIZE[0], 3)
    assert "recipe_gpu.sh" in (tmp_path / "model" / "README.md").read_text()
