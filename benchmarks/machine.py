"""How much more several processes of a machine do than one, of what curation does most: the most that a job can gain.

Two virtual cores are often the two threads of one real core, which share its units for arithmetic and its caches, and
all share the memory's bandwidth. So the same job is 1.5 times as fast as one process on one machine and 1.9 times on
another, and what else runs on the host changes it from minute to minute.

    python benchmarks/machine.py
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable

import cv2
import numpy as np

from posegen.driving.poses.landmarks import BodyNetwork
from posegen.driving.poses.regions import letterbox

SECONDS = 4.0
PICTURE = (32, 720, 1280, 3)
"""Frames that are held at once while a clip is measured: 88 MB, far more than the caches hold."""


def network() -> Callable[[], object]:
    """The body network on one picture: arithmetic, all of it in the caches."""
    bodies, frame = BodyNetwork(), np.zeros((256, 256, 3), np.uint8)
    return lambda: bodies(frame, letterbox(256, 256))


def copying() -> Callable[[], object]:
    """A copy of a chunk of frames: nothing but the memory's bandwidth."""
    source, target = np.zeros(PICTURE, np.uint8), np.zeros(PICTURE, np.uint8)
    return lambda: np.copyto(target, source)


KINDS = {"network": network, "copying": copying}


def counted(kind: str, begin: float, seconds: float) -> int:
    """How often a process does something from one moment on, or once it is ready, for so many seconds."""
    cv2.setNumThreads(1)
    once = KINDS[kind]()
    once()
    time.sleep(max(0.0, begin - time.time()))
    begin, count = time.time(), 0
    while time.time() < begin + seconds:
        once()
        count += 1
    return count


def scaling(processes: int, seconds: float = SECONDS) -> dict[str, float]:
    """By kind how many times as much so many processes do together as one does alone."""
    found = {}
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(abs, range(processes))  # they are up
        for kind in KINDS:
            alone, together = (
                sum(pool.starmap(counted, [(kind, time.time() + 2, seconds)] * number, chunksize=1))
                for number in (1, processes)
            )
            found[kind] = together / max(alone, 1)
    return found


def main() -> None:
    """Prints the figures of this machine."""
    processes = os.cpu_count() or 1
    for kind, times in scaling(processes).items():
        print(f"{processes} processes over one, {kind}: {times:.2f}")


if __name__ == "__main__":
    main()
