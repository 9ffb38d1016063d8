"""How fast training data is made, and where the time goes: samples a second of one process, for either adapter.

    python benchmarks/stream.py --dataset DATASET --model MODEL [--steps 20] [--size 64 96] [--oversampling 4]

Makes the same steps once before, so that what is measured finds its clips in the cache. CPU seconds are of the calling
thread (one torch thread), so other work on the machine does not count. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import replace

import cv2
import torch

from training.data.stream import DataConfig, TrainingStream, prepare

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 96), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--oversampling", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    config = DataConfig(
        dataset=arguments.dataset,
        model=arguments.model,
        sizes=(tuple(arguments.size),),
        frames=(arguments.frames,),
        batch_size=BATCH,
        given_head=(1, arguments.frames // 2 // 4 * 4 + 1),
        given_tail=(4, arguments.frames // 4 // 4 * 4),
        pose_oversampling=arguments.oversampling,
    )
    prepare(config)
    figures = {
        adapter: measure(replace(config, adapter=adapter), arguments.steps) for adapter in ("base", "cond")
    }
    print(f"{'adapter':8} {'CPU ms a sample':>16} {'samples a CPU second':>21}")
    for adapter, seconds in figures.items():
        print(f"{adapter:8} {1000 * seconds:16.1f} {1 / seconds:21.1f}")
    print(
        json.dumps({f"{adapter}_samples_per_cpu_second": 1 / seconds for adapter, seconds in figures.items()})
    )


def measure(config: DataConfig, steps: int) -> float:
    """CPU seconds a sample, once the cache holds the clips and the files are open."""
    stream = TrainingStream(config)
    for _ in range(2):
        start = time.thread_time()
        for _ in itertools.islice(stream.batches(0, 0, 1), steps):
            pass
    return (time.thread_time() - start) / steps / BATCH


if __name__ == "__main__":
    main()
