"""Linear layers whose frozen weight stays in the host's memory: each product copies it to the device (block swap).

Gradients pass through to the input, so adapters can be trained on them; the backward pass copies the weight once more.
A copy waits for the link to the host and the product for the copy: 0.8 GB a block of the 14B model in bfloat16, 0.4 GB
in fp8, three times a step with gradient checkpointing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from posegen.model.scaled_linear import Product, ScaledLinear


class HostLinear(nn.Linear):
    """A linear layer of the host's weight (out, in); its bias and its products are the device's."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.bias = linear.bias
        leave_on_host(self, linear.weight)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The product in the input's dtype, (..., in) -> (..., out)."""
        product = Product.apply(input, self.weight, None)
        return product if self.bias is None else product + self.bias


def swap_blocks(transformer: Any, count: int) -> None:
    """Leave the weights of the first `count` blocks' linears, plain or quantised, in the host's memory, where they are.

    They are parameters no longer: neither a change of device nor the broadcast of a distributed training takes them
    along, and a file of the model's state would lack them.
    """
    for block in transformer.blocks[:count]:
        for name, module in [*block.named_modules()]:
            if isinstance(module, ScaledLinear):
                leave_on_host(module, module.weight)
            elif type(module) is nn.Linear:
                block.set_submodule(name, HostLinear(module))


def leave_on_host(layer: nn.Linear, weight: torch.Tensor) -> None:
    """Make a weight of the host a plain attribute of a layer, in memory that a GPU reads at the link's full speed."""
    weight = weight.detach()
    del layer.weight
    layer.weight = weight.pin_memory() if torch.cuda.is_available() else weight  # type: ignore[assignment]
