"""What a model takes of the host's memory: loaded by one process, and by a group that denoises together on the CPU.

    python benchmarks/loading.py [--layers 20]

Makes the folder of a random model of about 1.7 GB in bfloat16, and loads and runs it in processes of its own: as it is,
and converted to float32. The peak is that of all processes together while they load and take a step, each page counted
once however many have it mapped (the sum of their PSS). It is compared with the model's bytes in that dtype and, for a
group, with the peak of one process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
import tyro

GROUP = 4
SIZE = (64, 64)  # of the video, whose tokens four processes can share
EVERY_S = 0.05
GB = 1e9


def main(layers: int = 20, width: int = 1536) -> None:
    """Prints a table, and the figures as one JSON object in the last line.

    Args:
        layers: Blocks of the made model.
        width: Its channels, a multiple of 16.
    """
    print(f"{'dtype':10}{'processes':>10}{'weights GB':>12}{'before GB':>11}{'peak GB':>9}{'of one':>8}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), layers, width)
        for dtype in ("bfloat16", "float32"):
            one = None
            for processes in (1, GROUP):
                row = measured(Path(folder), dtype, processes)
                one = one or row["peak_gb"]
                row["of_one"] = row["peak_gb"] / one
                print(
                    f"{dtype:10}{processes:10}{row['weights_gb']:12.2f}{row['before_gb']:11.2f}"
                    f"{row['peak_gb']:9.2f}{row['of_one']:8.2f}",
                    flush=True,
                )
                rows.append(row)
    print(json.dumps({"rows": rows, "group_over_one": max(row["of_one"] for row in rows)}))


def save_model(folder: Path, layers: int, width: int) -> None:
    """Writes a pipeline whose transformer is of this size, of random weights in bfloat16."""
    import torch

    from posegen.model.transformer import PoseGenTransformer3DModel
    from testkit.tiny_model import tiny_pipeline

    pipeline, heads = tiny_pipeline(num_inference_steps=1, guidance_scale=1.0, size=SIZE), 8
    pipeline.transformer = PoseGenTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        ffn_dim=4 * width,
        text_dim=16,
        freq_dim=16,
        num_layers=layers,
        image_dim=16,
        added_kv_proj_dim=width,
    ).to(torch.bfloat16)
    pipeline.save_pretrained(folder)


def measured(folder: Path, dtype: str, processes: int) -> dict[str, Any]:
    """The figures of one way to load the model."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(folder), dtype, str(processes)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def run(folder: Path, dtype: Any, processes: int) -> None:
    """Loads the model in this process, makes a segment, and prints what that took."""
    from posegen.loading import Placement
    from posegen.source import ModelSource
    from testkit.tiny_model import picture, walking

    with Peak() as peak:
        pipeline = Placement("cpu", dtype, processes).load(ModelSource(folder))
        job = pipeline.job(picture(SIZE), walking(13, SIZE))
        pipeline.generate_segment(job, pipeline.encode(job), 0, {})
    weights = sum(weight.nbytes for weight in pipeline.transformer.parameters())
    row = {"dtype": dtype, "processes": processes, "weights_gb": weights / GB}
    print(json.dumps(row | {"before_gb": peak.before / GB, "peak_gb": peak.highest / GB}))


class Peak:
    """The largest memory of this process and those that it started, in bytes, while in the block."""

    def __enter__(self) -> Peak:
        self.before = self.highest = shared_memory(os.getpid())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.highest = max(self.highest, shared_memory(os.getpid()))


def shared_memory(pid: int) -> int:
    """Bytes of a process and all under it, pages that several of them have counted once."""
    process, total = psutil.Process(pid), 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # has just ended
    return total


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        tyro.cli(main, description=__doc__)
