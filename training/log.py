"""What a training tells: rows of figures as JSON lines, in TensorBoard and to a tracker, and a line of progress.

A row holds plain names and numbers, the same in all. A training that goes on from a checkpoint first drops the rows
after it, so each step is there once.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from posegen.common.faults import StorageFaultError
from posegen.common.storage import Folder
from training import metrics
from training.trackers import Tracker

LOG_FILE, BOARD = "log.jsonl", "tensorboard"
SEND_EVERY_S = 60.0


class Log:
    """Writes rows to an output folder, `log.jsonl` and TensorBoard's events, from a step on; tells Prometheus and a
    tracker too.

    To a bucket, where nothing can be added to a file, it writes the files anew once a minute, and when it is told to.
    A bucket that does not answer then costs nothing but the delay.
    """

    def __init__(self, output: str, step: int, tracker: Tracker | None = None) -> None:
        self._output = Folder(output)
        self._run = self._output.root.rpartition("/")[2]
        kept = [row for row in read_log(output) if row["step"] <= step]
        self.gpu_hours = max((row["gpu_hours"] for row in kept if "gpu_hours" in row), default=0.0)
        """Of the training before this step, where it runs on GPUs."""
        self._scratch = None if self._output.local else tempfile.TemporaryDirectory(prefix="posegen-log-")
        self._folder = Path(self._scratch.name if self._scratch else self._output.root)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / LOG_FILE
        self._path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._board = SummaryWriter(str(self._folder / BOARD), purge_step=step + 1)
        self._tracker = tracker
        self._sent = time.monotonic()

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()
        if self._tracker:
            self._tracker.write(step, figures)
        metrics.tell(self._run, step, figures)
        if time.monotonic() - self._sent > SEND_EVERY_S:
            self.send()

    def close(self) -> None:
        """Ends the files."""
        self._board.close()
        if self._tracker:
            self._tracker.close()
        self.send()

    def send(self) -> None:
        """Brings the bucket's files up to date, so that a training that goes on from here finds its rows."""
        self._sent = time.monotonic()
        if not self._scratch:
            return
        for path in (self._path, *(self._folder / BOARD).iterdir()):
            try:
                self._output.save(str(path.relative_to(self._folder)), path)
            except StorageFaultError as error:
                print(
                    f"{path.name} could not be written to the bucket, which is tried again: {error}",
                    flush=True,
                )


def read_log(output: str | Path) -> list[dict[str, float]]:
    """The rows of a training's log; none where there is no log yet."""
    try:
        content = Folder(str(output)).read(LOG_FILE)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in content.splitlines()]


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


def gpu_line(row: Mapping[str, float], to_come: float) -> str:
    """What a line of progress ends with on GPUs: their hours so far, and those to come."""
    return f"  {row['gpu_hours']:,.1f} GPU hours, {to_come:,.1f} to come" if "gpu_hours" in row else ""


def validation_line(row: Mapping[str, float]) -> str:
    """The validation losses of a row with their 95 % intervals, by noise level."""
    levels = [name.partition("/")[2] for name in row if name.startswith("validation/")]
    told = (
        f"{level}: {row[f'validation/{level}']:.4f} ± {row[f'validation_interval/{level}']:.4f}"
        for level in levels
    )
    return f"validation loss by noise level  {', '.join(told)}"
