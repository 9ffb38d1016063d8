"""A linear layer whose weight stays quantised in memory: 8 bits a value and a scale for each block of values.

Gradients pass through it to its input, so adapters can be trained on it; the weight itself takes none. It is expanded
once more in the backward pass, since keeping it from the forward pass would keep all of a model's layers expanded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import ScalingType, scaled_mm

E4M3_LARGEST = torch.finfo(torch.float8_e4m3fn).max
FP8_CAPABILITY = (8, 9)  # of an NVIDIA GPU that multiplies in fp8: Ada, Hopper and later


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
        self.fp8_products = False

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The product in the input's dtype, (..., in) -> (..., out)."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        if self.fp8_products and not torch.is_grad_enabled():  # such a product has no gradient
            product = self._fp8_product(input.flatten(0, -2)).to(input.dtype).unflatten(0, input.shape[:-1])
            return product if bias is None else product + bias
        weight = self.weight.view(self.stored)
        if not torch.is_grad_enabled():
            return nn.functional.linear(input, _weight_for(input, weight, self.weight_scale), bias)
        product = Product.apply(input, weight, self.weight_scale)
        return product if bias is None else product + bias

    def _fp8_product(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (n, in), in e4m3 with a scale each, times the weight in e4m3 -> (n, out) bfloat16."""
        # In the rows' dtype, as a float32 copy of them would be large; 448.9 at most, which e4m3 rounds to 448.
        smallest = torch.finfo(rows.dtype).tiny  # so that a row of zeros stays one
        scale = (rows.abs().amax(1, keepdim=True) / E4M3_LARGEST).clamp_min(smallest)
        return scaled_mm(
            (rows / scale).to(torch.float8_e4m3fn),
            self.weight.view(self.stored).t(),
            scale.float(),
            ScalingType.RowWise,
            self.weight_scale.expand(self.out_features, 1).t().contiguous(),
            ScalingType.RowWise,
        )

    def expanded(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight (out, in), rounded to `dtype` once."""
        return expand(self.weight.view(self.stored), self.weight_scale).to(dtype)

    @classmethod
    def quantised(cls, linear: nn.Linear) -> ScaledLinear:
        """A frozen layer in e4m3 with one scale a row; it rounds a weight by up to 2^-4 of itself."""
        weight = linear.weight.detach()
        smallest = torch.finfo(torch.float32).tiny  # so that a row of zeros stays one
        scale = (weight.abs().amax(1, keepdim=True).float() / E4M3_LARGEST).clamp_min(smallest)
        layer = cls((weight / scale).to(torch.float8_e4m3fn), scale, linear.bias is not None)
        layer.bias = linear.bias
        return layer

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        scale = self.weight_scale
        super()._apply(fn, recurse)
        # A scale in bfloat16 would be off by up to 2^-9, for all of its values alike.
        self.weight_scale = scale.to(self.weight_scale.device)
        return self


class Product(torch.autograd.Function):
    """input (..., in) times a frozen weight (out, in) -> (..., out), with a gradient to the input alone.

    The weight is quantised where it has a scale, and may lie on another device than the input.
    """

    @staticmethod
    def forward(
        context: Any, input: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor | None
    ) -> torch.Tensor:
        context.save_for_backward(weight, scale)
        return nn.functional.linear(input, _weight_for(input, weight, scale))

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ _weight_for(gradient, *context.saved_tensors), None, None


def _weight_for(factor: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """The weight in the other factor's dtype, on its device."""
    near = weight.to(
        factor.device, non_blocking=True
    )  # before it is expanded, as fewer bytes are copied then
    return (near if scale is None else expand(near, scale)).to(factor.dtype)


def quantise_blocks(transformer: Any) -> None:
    """Hold the linears of a transformer's blocks in fp8, one after the other; their weights take no gradient."""
    for name, module in [*transformer.blocks.named_modules()]:
        if type(module) is nn.Linear:
            transformer.blocks.set_submodule(name, ScaledLinear.quantised(module))


def use_fp8_products(model: nn.Module) -> int:
    """Let the layers of e4m3 weights with one scale, or one a row, multiply in fp8; returns how many there are.

    That spares expanding weights and takes a GPU's units for fp8; how much faster it is has not been measured. It is
    less exact, as activations are rounded to e4m3 too, by a scale for each token. Other layers stay as they are, and
    passes that take gradients.
    Raises ValueError where the model has no such layer, or its GPU no such products.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, ScaledLinear)
        and module.stored == torch.float8_e4m3fn
        and module.weight_scale.shape in ((1, 1), (module.out_features, 1))
    ]
    if not layers:
        raise ValueError(
            "This model has no layer that could multiply in fp8: load a file of fp8 weights (e4m3) with one scale, or "
            "one a row."
        )
    device = layers[0].weight.device
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        raise ValueError(
            f"{torch.cuda.get_device_name(device)} has no products in fp8, which came with Ada and Hopper: leave them "
            "off."
        )
    for layer in layers:
        layer.fp8_products = True
    return len(layers)


def expand(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A weight (out, in) of any dtype times its scale (rows, columns) of blocks, in float32."""
    rows, columns = scale.shape
    expanded = weight.to(torch.float32, copy=True)
    expanded.unflatten(0, (rows, -1)).unflatten(2, (columns, -1)).mul_(scale[:, None, :, None])
    return expanded
