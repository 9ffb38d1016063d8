"""What a training tells: rows of figures as JSON lines and in TensorBoard, and a line of progress.

A row holds plain names and numbers, the same in both. A training that goes on from a checkpoint first drops the rows
after it, so each step is there once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from training import metrics

LOG_FILE = "log.jsonl"


class Log:
    """Writes rows to a folder, `log.jsonl` and TensorBoard's events, from a step on; tells Prometheus the newest."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._run, self._path = folder.name, folder / LOG_FILE
        kept = [row for row in read_log(folder) if row["step"] <= step]
        self._path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()
        metrics.tell(self._run, step, figures)


def read_log(folder: Path) -> list[dict[str, float]]:
    """The rows of a training's log; none where there is no log yet."""
    path = folder / LOG_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Stopwatch:
    """Seconds of each named part since the last `take`; on a GPU it waits for the end of each part."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def take(self, steps: int) -> dict[str, float]:
        """Mean seconds a step of each part, over so many steps; starts anew."""
        taken, self._seconds = self._seconds, {}
        return {f"seconds/{name}": seconds / steps for name, seconds in taken.items()}


def progress_line(step: int, steps: int, items_per_second: float, loss: float, seconds_left: float) -> str:
    left = timedelta(seconds=round(seconds_left))
    return f"step {step:,}/{steps:,}  loss {loss:.4f}  {items_per_second:.2f} clips/s  {left} left"
