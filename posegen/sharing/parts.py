"""An anchor's entry among processes that denoise together: each has a part, what is kept of it is whole.

Keys and values are split by heads and attention inputs by tokens, as context parallelism needs them; the foreground is
small, so every rank has all of it. Rank 0 has the store. A whole entry does not depend on how many ranks made it, so
any number of them can read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from posegen.sharing.record import SharedEntry


@dataclass(frozen=True)
class PartShape:
    """What a process's part of an entry is like: its tensors, and the whole foreground."""

    tensors: tuple[tuple[torch.Size, torch.dtype], ...]
    foreground: torch.Tensor


def split(tensor: torch.Tensor, processes: int, video_tokens: int) -> list[torch.Tensor]:
    """Each process's part of keys or values (B, tokens, H, D) or of attention inputs (B, tokens, C)."""
    if tensor.ndim == 4:
        return [part.contiguous() for part in tensor.chunk(processes, dim=2)]
    streams = tensor[:, :video_tokens], tensor[:, video_tokens:]
    parts = zip(*(stream.chunk(processes, dim=1) for stream in streams), strict=True)
    return [torch.cat(part, dim=1) for part in parts]


def join(parts: Sequence[torch.Tensor], video_tokens: int) -> torch.Tensor:
    """The way back of `split`."""
    if parts[0].ndim == 4:
        return torch.cat([*parts], dim=2)
    own = video_tokens // len(parts)
    return torch.cat([*(part[:, :own] for part in parts), *(part[:, own:] for part in parts)], dim=1)


def gather(entry: SharedEntry) -> SharedEntry:
    """The whole entry in process 0, of all processes' parts; the own part elsewhere."""
    first, whole = dist.get_rank() == 0, []
    for part in entry.tensors:
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())] if first else None
        dist.gather(part.contiguous(), parts)
        whole.append(join(parts, entry.foreground.shape[1]) if parts else part)
    return SharedEntry(tuple(whole), entry.foreground)


def part_shape(entry: SharedEntry) -> PartShape:
    """What each process gets of a whole entry."""
    video_tokens, processes = entry.foreground.shape[1], dist.get_world_size()
    like = [split(tensor.to("meta"), processes, video_tokens)[0] for tensor in entry.tensors]
    return PartShape(tuple((tensor.shape, tensor.dtype) for tensor in like), entry.foreground.cpu())


def scatter(shape: PartShape, device: torch.device, whole: SharedEntry | None = None) -> SharedEntry:
    """This process's part of the whole entry that process 0 has."""
    video_tokens, own = shape.foreground.shape[1], []
    for number, (size, dtype) in enumerate(shape.tensors):
        part, parts = torch.empty(size, dtype=dtype, device=device), None
        if whole is not None:
            parts = split(whole.tensors[number].to(device), dist.get_world_size(), video_tokens)
        dist.scatter(part, parts)
        own.append(part)
    return SharedEntry(tuple(own), shape.foreground)
