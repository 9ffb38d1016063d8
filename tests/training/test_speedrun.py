"""The speedrun, whole on a CPU with the bundled model and drawn videos: what it tells, makes, and does not do twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mini_model.puppets import Puppet, Scene, motion, render
from posegen.model.checkpoints import read_adapter
from posegen.video import probe, save_video
from testkit import ROOT
from training.checkpoint import positions
from training.log import read_log

SIZE, RATE, FRAMES, VIDEOS = (240, 360), 30.0, 60, 10
THRESHOLDS = """\
seconds: {min: 1.5, max: 20.5}
frames: {min: 48}
source_side: {min: 144}
"""
SMALL = {
    "MODEL": "posegen/mini/model",
    "CONFIG": "mini_cpu",
    "STEPS": "2",
    "TRAIN": "--data.batch_size 2 --data.validation_clips 1 --record.log_every 1",
    "GENERATE": "--framing off",
}


@pytest.mark.long
def test_raw_video_becomes_a_dataset_two_adapters_and_a_sample_video(tmp_path: Path) -> None:
    for seed in range(VIDEOS):
        clip = render(Puppet.sample(seed), Scene.sample(seed), motion(seed, FRAMES, RATE, SIZE), SIZE, RATE)
        (tmp_path / "videos").mkdir(exist_ok=True)
        save_video(clip.frames, tmp_path / "videos" / f"puppet-{seed}.mp4", RATE)
    (tmp_path / "thresholds.yaml").write_text(THRESHOLDS)
    output = tmp_path / "run"
    told = speedrun(tmp_path, output)
    assert f"{VIDEOS} files" in told and "numbers are trained; a worker needs" in told
    assert "operations in the transformer" in told
    for adapter in ("base", "cond"):
        assert read_adapter(output / "model" / "adapters" / adapter).tensors
        assert [position.step for position in positions(str(output / "training" / adapter))] == [2]
    made = probe(output / "sample.mp4")
    assert made.width, made.height == (64, 96)

    again = speedrun(tmp_path, output, STEPS="3")
    assert "step 1/" not in again and [row["step"] for row in read_log(output / "training" / "base")] == [
        1,
        2,
        3,
    ]


def speedrun(folder: Path, output: Path, **settings: str) -> str:
    """What it printed."""
    own = {
        "INPUT": str(folder / "videos"),
        "OUTPUT": str(output),
        "CURATE": f"--thresholds {folder / 'thresholds.yaml'}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["sh", "training/speedrun.sh"],
        cwd=ROOT,
        env=os.environ | SMALL | own | settings,
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
