"""A linear layer whose weight stays quantised in memory: 8 bits a value and a scale for each block of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class ScaledLinear(nn.Linear):
    """A linear layer that expands its weight, values times scale, for each product.

    A subclass of nn.Linear, so that PEFT adapts it as any other. The weight is held as int8, whatever its dtype, since
    a change of the model's dtype (`to(torch.bfloat16)`) leaves integers alone; a change of device moves it.
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: bool) -> None:
        """A layer for a weight (out, in) of an 8-bit dtype and its scale (rows, columns) float32; the bias is unset.

        Rows and columns of blocks divide those of the weight: (1, 1) is one scale for all of it, (out, 1) one a row.
        """
        super().__init__(weight.shape[1], weight.shape[0], bias, device="meta")
        self.stored = weight.dtype
        self.weight = nn.Parameter(weight.view(torch.int8), requires_grad=False)
        self.weight_scale: torch.Tensor
        self.register_buffer("weight_scale", scale)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The product in the input's dtype, (..., in) -> (..., out)."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return nn.functional.linear(input, self.expanded(input.dtype), bias)

    def expanded(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight (out, in), rounded to `dtype` once."""
        return expand(self.weight.view(self.stored), self.weight_scale).to(dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        scale = self.weight_scale
        super()._apply(fn, recurse)
        # A scale in bfloat16 would be off by up to 2^-9, for all of its values alike.
        self.weight_scale = scale.to(self.weight_scale.device)
        return self


def expand(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A weight (out, in) of any dtype times its scale (rows, columns) of blocks, in float32."""
    rows, columns = scale.shape
    blocks = weight.float().unflatten(0, (rows, -1)).unflatten(2, (columns, -1))
    return (blocks * scale[:, None, :, None]).flatten(2).flatten(0, 1)
