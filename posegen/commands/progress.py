"""What a command tells while it works: plain lines on stderr, so that a log shows them too, and a picture."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from posegen.common.files import written_whole

if TYPE_CHECKING:
    from posegen.longvideo.preview import Preview
    from posegen.longvideo.sampling import Step
    from posegen.longvideo.segments import Plan

SAY_EVERY_S = 5.0


class SegmentProgress:
    """Says every few seconds how far a video is, and how long still; called after each denoising step."""

    def __init__(self, plan: Plan) -> None:
        self._place = {index: place for place, index in enumerate(plan.order())}
        self._began = 0.0, 0  # when, and how many segments were there by then
        self._last: int | None = None  # the place of the segment that was told of last
        self._said = 0.0

    def __call__(self, index: int, step: Step) -> None:
        now, place = time.monotonic(), self._place[index]
        done = place + (step.index + 1) / step.steps
        stored = self._last is None or place > self._last + 1  # those before cost no time here
        self._last = place
        if stored:
            self._began = now, place
            return  # the first step also warms up, and tells no rate yet
        last = done >= len(self._place)
        if now - self._said < SAY_EVERY_S and not last:
            return
        self._said = now
        rate = (now - self._began[0]) / (done - self._began[1] - 1 / step.steps)  # seconds a segment
        left = timedelta(seconds=round(rate * (len(self._place) - done)))
        say(
            f"segment {place + 1}/{len(self._place)}, step {step.index + 1}/{step.steps}, "
            f"{rate / step.steps:.2g} s a step, {left} to go"
        )


class PreviewFile:
    """Keeps a JPEG of the segment in the making; called after each denoising step. Readers never see half of it."""

    def __init__(self, path: Path, preview: Preview) -> None:
        self._path, self._preview = path, preview

    def __call__(self, index: int, step: Step) -> None:
        with written_whole(self._path) as part:
            part.write_bytes(self._preview.jpeg(step.preview))


def say(line: str) -> None:
    """Prints a line of progress."""
    print(line, file=sys.stderr, flush=True)
