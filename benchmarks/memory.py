"""Does the memory of a video grow with its length? Peaks of whole processes that make 1 and 10 minutes of it.

    python benchmarks/memory.py [--minutes 1 10]

Each length is made in a process of its own, from poses to a finished file, by a small random model with the mini
model's codec, in one step a segment: what a longer video could add does not depend on the model. The peak is the
process's largest resident memory (VmHWM); beside it stands what all frames together would take, had they been kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

SIZE = (96, 160)
RATE = 30


def main(minutes: tuple[int, ...] = (1, 10)) -> None:
    """Prints a table, and the figures as one JSON object in the last line.

    Args:
        minutes: Lengths to make; the last is compared with the first.
    """
    print(f"{'minutes':>7}  {'segments':>8}  {'peak MB':>8}  {'all frames MB':>13}  {'seconds':>7}")
    rows = []
    for length in minutes:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(length)], check=True, stdout=subprocess.PIPE, text=True
        )
        row = json.loads(done.stdout.splitlines()[-1])
        frames = row["frames"] * SIZE[0] * SIZE[1] * 3 / 1e6
        print(
            f"{length:7}  {row['segments']:8}  {row['peak_mb']:8.0f}  {frames:13.0f}  {row['seconds']:7.0f}",
            flush=True,
        )
        rows.append(row)
    print(
        json.dumps(
            {
                "minutes": minutes,
                "peak_mb": [row["peak_mb"] for row in rows],
                "peak_last_over_first": rows[-1]["peak_mb"] / rows[0]["peak_mb"],
            }
        )
    )


def make(minutes: int) -> None:
    """Makes one video in this process and prints what it took."""
    import numpy as np
    import torch

    from posegen.mini.codec import PrincipalVideoCodec
    from posegen.video import save_video
    from testkit.tiny_model import picture, tiny_pipeline, tiny_transformer, walking

    codec = PrincipalVideoCodec.fit([torch.rand(32, 3, 5, 16, 16) * 2 - 1], z_dim=8)
    channels = {"in_channels": 20, "out_channels": 8, "reference_channels": 8, "hand_channels": 8}
    pipeline = tiny_pipeline(
        segment_frames=81, head=21, tail=20, size=SIZE, num_inference_steps=1, guidance_scale=1.0
    )
    pipeline.register_modules(vae=codec, transformer=tiny_transformer(**channels).eval())
    poses = walking(minutes * 60 * RATE, SIZE).astype(np.float32)
    start = time.monotonic()
    job = pipeline.job(picture(SIZE), poses)
    with tempfile.TemporaryDirectory() as folder:
        save_video(pipeline.generate(job), Path(folder) / "out.mp4", RATE)
    row = {
        "frames": job.plan.frames,
        "segments": len(job.plan.segments),
        "peak_mb": peak_mb(),
        "seconds": time.monotonic() - start,
    }
    print(json.dumps(row))


def peak_mb() -> float:
    """The largest resident memory that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1000


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        make(int(sys.argv[2]))
    else:
        tyro.cli(main, description=__doc__)
