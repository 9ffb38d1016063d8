"""Copies between a GPU and the host that go on while the GPU computes.

A GPU's copies run on a stream of their own. `Copies` says what is done in which order and what waits for what; the same
calls without a GPU copy at once, in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

Mark = Any
"""A place in a stream's work: an event of CUDA, None without streams."""


class Copies(Protocol):
    """Copies beside the computation on a device; called from any thread but for `mark` and `wait`."""

    def is_there(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is on the device already."""
        ...

    def empty(self, like: torch.Tensor) -> torch.Tensor:
        """An uninitialised tensor on the device, of the shape and dtype of another."""
        ...

    def mark(self) -> Mark:
        """What the calling thread has given the device to compute so far."""
        ...

    def copy(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], after: Mark) -> Mark:
        """Copies pair by pair once `after` is computed, one call after the other; the mark is the copies' end."""
        ...

    def wait(self, copied: Mark) -> None:
        """What the calling thread gives the device from now on waits for these copies."""
        ...

    def finish(self, copied: Mark) -> None:
        """Returns when these copies are done."""
        ...


class DirectCopies:
    """Copies that are done when the call returns, for devices without streams."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def is_there(self, tensor: torch.Tensor) -> bool:
        return tensor.device == self._device

    def empty(self, like: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(like, device=self._device)

    def mark(self) -> Mark:
        return None

    def copy(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], after: Mark) -> Mark:
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)

    def wait(self, copied: Mark) -> None:
        """Nothing is on its way."""

    def finish(self, copied: Mark) -> None:
        """Nothing is on its way."""


class StreamCopies:
    """Copies on a stream of their own of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def is_there(self, tensor: torch.Tensor) -> bool:
        return tensor.device == self._device

    def empty(self, like: torch.Tensor) -> torch.Tensor:
        # Of the copies' stream: memory of the computation's might still be in use there.
        with torch.cuda.stream(self._stream):
            return torch.empty_like(like, device=self._device)

    def mark(self) -> Mark:
        return torch.cuda.current_stream(self._device).record_event()

    def copy(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], after: Mark) -> Mark:
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(after)
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source, non_blocking=True)
                for tensor in (target, source):
                    if tensor.is_cuda:  # its memory is not given away before the copy is done
                        tensor.record_stream(self._stream)
            return self._stream.record_event()

    def wait(self, copied: Mark) -> None:
        torch.cuda.current_stream(self._device).wait_event(copied)

    def finish(self, copied: Mark) -> None:
        copied.synchronize()


def copies_to(device: torch.device) -> Copies:
    """Copies beside the computation on a device."""
    return StreamCopies(device) if device.type == "cuda" else DirectCopies(device)
