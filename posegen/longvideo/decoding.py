"""Segments' latents become frames, at once or beside the denoising of what comes next.

Beside it, a thread decodes, on a GPU on a stream of its own. It has a copy of the VAE that shares the weights, as Wan's
VAE remembers frames while it works, and the next segment's conditions are encoded meanwhile.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from types import TracebackType
from typing import Any

import numpy as np
import torch

from posegen.longvideo.conditions import decode_latents

Keep = Callable[[np.ndarray], object]
Made = tuple[int, "Future[np.ndarray]"]
"""A segment's index, and its frames (F, H, W, 3) uint8 as soon as they are there."""


class Decoder:
    """Decodes segments one after the other; to be closed, which waits for the last one."""

    def __init__(self, vae: Any, beside: bool) -> None:
        """beside: whether `decode` returns at once, and a thread does the work."""
        self._vae = copy.copy(vae) if beside else vae
        self._pool = ThreadPoolExecutor(1, "decoder") if beside else None
        self._stream: torch.cuda.Stream | None = None

    def decode(self, latents: torch.Tensor, keep: Keep | None = None) -> Future[np.ndarray]:
        """The frames of latents (1, z, f, h, w), which `keep` is called with; what either raises, the result raises."""
        if self._pool is None:
            done: Future[np.ndarray] = Future()
            done.set_result(_decoded(self._vae, latents, keep))
            return done
        computed = None
        if latents.is_cuda:
            self._stream = self._stream or torch.cuda.Stream(latents.device)
            computed = torch.cuda.current_stream(latents.device).record_event()
        return self._pool.submit(self._beside, latents, computed, keep)

    def _beside(
        self, latents: torch.Tensor, computed: torch.cuda.Event | None, keep: Keep | None
    ) -> np.ndarray:
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            if self._stream and computed:
                self._stream.wait_event(computed)
                latents.record_stream(self._stream)
            return _decoded(self._vae, latents, keep)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown()


@torch.no_grad()
def _decoded(vae: Any, latents: torch.Tensor, keep: Keep | None) -> np.ndarray:
    frames = decode_latents(vae, latents)[0].numpy()
    if keep is not None:
        keep(frames)
    return frames


def one_behind(made: Iterable[Made], beside: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Segments' indices and frames in their order, each when the next one is denoised, or at once.

    Where making the next one ends in an error or is interrupted, the one that waits comes first.
    """
    waiting: deque[Made] = deque()
    try:
        for one in made:
            waiting.append(one)
            if len(waiting) > beside:
                index, frames = waiting.popleft()
                yield index, frames.result()
    except (Exception, KeyboardInterrupt):
        for index, frames in waiting:
            yield index, frames.result()
        raise
    for index, frames in waiting:
        yield index, frames.result()
