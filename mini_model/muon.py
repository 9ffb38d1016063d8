"""Muon for many small matrices: those of one shape are orthogonalised together, in what the device computes fast in.

PyTorch's own goes from matrix to matrix in bfloat16, which on a CPU without such instructions takes longer than the
network's forward and backward pass. A step is the same up to rounding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mini_model.precision import computing_dtype

MOMENTUM = 0.95
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
"""Of the Newton-Schulz iteration, https://kellerjordan.github.io/posts/muon/."""
ADAM_RMS = 0.2
"""What AdamW's steps have, https://arxiv.org/abs/2502.16982, so that one learning rate serves both."""
EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum and decoupled weight decay over matrices."""

    def __init__(self, matrices: Iterable[nn.Parameter], weight_decay: float) -> None:
        super().__init__(matrices, {"lr": 1e-3, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients, which all matrices must have."""
        for group in self.param_groups:
            shapes = defaultdict(list)
            for matrix in group["params"]:
                shapes[matrix.shape].append(matrix)
            for shape, matrices in shapes.items():
                updates = orthogonalised(
                    torch.stack([self._direction(matrix, matrix.grad) for matrix in matrices])
                )
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(
                    matrices, list(updates.unbind()), alpha=-group["lr"] * ADAM_RMS * max(shape) ** 0.5
                )

    def _direction(self, matrix: Tensor, gradient: Tensor) -> Tensor:
        """The gradient with momentum."""
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with all singular values brought near 1, to 0.5..1.5."""
    tall = matrices.shape[1] > matrices.shape[2]
    near = (matrices.mT if tall else matrices).to(computing_dtype(matrices.device))
    near = near / near.norm(dim=(1, 2), keepdim=True).clamp(min=EPSILON)
    first, third, fifth = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = near @ near.mT
        near = torch.baddbmm(near, torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth), near, beta=first)
    return (near.mT if tall else near).to(matrices.dtype)
