"""Muon for matrices that ZeRO has cut up: steps that are equally large in all of a matrix's directions.

Choices made: that needs whole matrices, so each worker gathers what the others hold of the momentum, which is little
where LoRA is trained; all do the same arithmetic, in float32, so the number of workers changes nothing. Matrices of one
shape are done together.

Sources: Jordan et al., https://kellerjordan.github.io/posts/muon/; for the size of the steps, with which AdamW's
learning rates fit, Liu et al., arXiv 2502.16982.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch
import torch.distributed as dist

ROUNDS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial that moves singular values towards 1."""
STEP_SIZE = 0.2
"""The root mean square of AdamW's steps at a learning rate of 1."""


@dataclass(frozen=True)
class Slices:
    """How matrices lie in flat weights of which each worker holds one slice, all of one length.

    ZeRO-2 cuts up the flat weights; ZeRO-3 (`split`) cuts up each matrix, and a slice has a part of each. starts: where
    each matrix begins, in the slices behind one another or in each slice.
    """

    shapes: Sequence[tuple[int, int]]
    starts: Sequence[int]
    split: bool

    def orthogonalise(self, update: torch.Tensor) -> torch.Tensor:
        """This worker's slice (n,) of the steps, from its slice of the updates; all workers must call it together."""
        whole = update.new_empty(dist.get_world_size(), len(update))
        dist.all_gather_into_tensor(whole.view(-1), update)
        parts = [self._part(whole, *place) for place in zip(self.shapes, self.starts, strict=True)]
        matrices = [
            part.reshape(-1)[: prod(shape)].view(shape)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        for part, step in zip(parts, muon_steps(matrices), strict=True):
            padded = torch.nn.functional.pad(step.flatten(), (0, part.numel() - step.numel()))
            part.copy_(padded.view(part.shape))
        return whole[dist.get_rank()]

    def _part(self, whole: torch.Tensor, shape: tuple[int, int], start: int) -> torch.Tensor:
        """A view of what is a matrix's in all slices (workers, n)."""
        rows = whole if self.split else whole.view(1, -1)
        return rows[:, start : start + ceil(prod(shape) / len(rows))]


def muon_steps(updates: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The orthogonalised matrices, so scaled that a learning rate is what it is for AdamW."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, update in enumerate(updates):
        short, long = sorted(update.shape)
        alike[short, long].append(index)
    found = list(updates)
    for indices in alike.values():
        wide = [updates[index] if _is_wide(updates[index]) else updates[index].T for index in indices]
        for index, step in zip(indices, orthogonalise(torch.stack(wide)), strict=True):
            found[index] = step if _is_wide(updates[index]) else step.T
    return found


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices (N, rows, columns), no more rows than columns, with singular values near STEP_SIZE sqrt(columns)."""
    first, third, fifth = COEFFICIENTS
    matrices = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        squares = matrices @ matrices.mT
        matrices = first * matrices + (third * squares + fifth * squares @ squares) @ matrices
    return STEP_SIZE * matrices.shape[2] ** 0.5 * matrices


def _is_wide(matrix: torch.Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]
