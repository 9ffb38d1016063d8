"""Where a segment's person is: given as a mask (of the driving pose, or any other), or seen in the cross-attention.

A foreground is asked block by block, because the subject word's map grows from block to block. Under context
parallelism every process gets the whole map from all, so that all of them take the same tokens for background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as functional

from posegen.model.attention import Gather
from posegen.sharing.record import Position, SharingError

SUBJECT_BLOCKS = 11  # the first blocks' cross-attention votes for the foreground, as in the authors' code
OTSU_BINS = 256
EPSILON = 1e-6  # of the authors' scaling to 0..1


class Foreground(Protocol):
    """Where a segment's person is."""

    def watches(self, position: Position) -> bool:
        """Whether `look` wants to see the cross-attention at this position."""
        ...

    def look(self, block: int, query: torch.Tensor, key: torch.Tensor, gather: Gather) -> None:
        """See a block's cross-attention: this process's video queries and the text keys, (B, tokens, heads, head_dim).

        `gather` joins all processes' values for their video tokens, (B, own tokens) -> (B, video tokens).
        """
        ...

    def mask(self, blocks: int) -> torch.Tensor:
        """(B, video tokens) bool, from what the first `blocks` blocks of this step show."""
        ...


class GivenForeground:
    """A mask known beforehand, (B, video tokens) bool; all False shares everything."""

    def __init__(self, mask: torch.Tensor) -> None:
        self._mask = mask

    def watches(self, position: Position) -> bool:
        return False

    def look(self, block: int, query: torch.Tensor, key: torch.Tensor, gather: Gather) -> None:
        """Never called, as no block is watched."""

    def mask(self, blocks: int) -> torch.Tensor:
        return self._mask


class SubjectForeground:
    """Where the subject word's cross-attention is strong, found anew in each step.

    As the authors: mean over heads of q.k / sqrt(head_dim) for the subject's tokens, in the first blocks of the guided
    branch as far as they have run; each map scaled to 0..1 per frame; their mean cut per frame by Otsu's threshold. The
    unguided branch takes over the guided branch's maps.

    Args:
        tokens: places of the subject word's tokens in the text; their maps are added.
        grid: (frames, rows, columns) of video tokens.
        blocks: how many first blocks vote.
    """

    def __init__(
        self, tokens: Sequence[int], grid: tuple[int, int, int], blocks: int = SUBJECT_BLOCKS
    ) -> None:
        if not tokens:
            raise SharingError(
                "the prompt holds no subject word; name the person in it, or use the pose's foreground"
            )
        self._tokens, self._grid, self._blocks = list(tokens), grid, blocks
        self._maps: dict[
            int, torch.Tensor
        ] = {}  # of each block that votes, from the last step in which it ran

    def watches(self, position: Position) -> bool:
        return position.branch == "guided" and position.block < self._blocks

    def look(self, block: int, query: torch.Tensor, key: torch.Tensor, gather: Gather) -> None:
        subject = key[:, self._tokens].float().sum(dim=1)  # (B, H, D)
        scores = torch.einsum("bthd,bhd->bt", query.float(), subject) / (
            query.shape[2] * query.shape[3] ** 0.5
        )
        maps = gather(scores).unflatten(1, (self._grid[0], -1))  # (B, f, rows x columns)
        low, high = maps.amin(-1, keepdim=True), maps.amax(-1, keepdim=True)
        self._maps[block] = (maps - low) / (high - low + EPSILON)

    def mask(self, blocks: int) -> torch.Tensor:
        maps = [self._maps[block] for block in range(min(blocks, self._blocks)) if block in self._maps]
        if not maps:
            raise SharingError(
                "no cross-attention was seen before the first shared block; share later blocks"
            )
        mean = torch.stack(maps).mean(dim=0)
        return (mean > otsu_threshold(mean)).flatten(1)


def otsu_threshold(maps: torch.Tensor) -> torch.Tensor:
    """Otsu's threshold (IEEE Trans. SMC 9, 1979) of values 0..1 over the last dimension, kept as 1.

    256 bins over 0..1, whatever the values' own range, and the threshold is a bin's centre, as in the authors' code.
    """
    bins = (maps * OTSU_BINS).long().clamp_max(OTSU_BINS - 1)
    counts = torch.zeros(*maps.shape[:-1], OTSU_BINS, dtype=torch.float64, device=maps.device)
    counts.scatter_add_(-1, bins, torch.ones_like(bins, dtype=torch.float64))
    centres = (torch.arange(OTSU_BINS, dtype=torch.float64, device=maps.device) + 0.5) / OTSU_BINS
    below, moments = counts.cumsum(-1), (counts * centres).cumsum(-1)
    above = maps.shape[-1] - below
    gap = moments / below.clamp_min(1) - (moments[..., -1:] - moments) / above.clamp_min(1)
    return centres[(below * above * gap**2).argmax(-1, keepdim=True)].to(maps.dtype)


def foreground_tokens(masks: np.ndarray, patch_size: tuple[int, int, int] = (1, 2, 2)) -> torch.Tensor:
    """Pixel masks (F, H, W) bool, F = 4 k + 1, as a (1, video tokens) mask.

    A token is foreground where any of its pixels is. A token of the first latent frame stands for frame 0, one of
    latent frame k for frames 4 k - 3 to 4 k. H and W are multiples of 8 times the patch size, else SharingError.
    """
    pixels = torch.from_numpy(masks).float()
    pixels = torch.cat([pixels[:1].expand(3, -1, -1), pixels])[None, None]
    window = (4 * patch_size[0], 8 * patch_size[1], 8 * patch_size[2])
    if any(size % step for size, step in zip(pixels.shape[2:], window, strict=True)):
        raise SharingError(
            f"masks of {len(masks)} frames of {masks.shape[2]} x {masks.shape[1]} pixels do not make whole tokens; "
            f"give 4 k + 1 frames with sides that are multiples of {window[1]}"
        )
    return functional.max_pool3d(pixels, window).flatten(1) > 0
