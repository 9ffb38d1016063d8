"""Layers whose weights stay on the host compute as others do and move nothing of it to the device."""

from __future__ import annotations

import torch

from posegen.model.host_linear import HostLinear, swap_blocks
from posegen.model.scaled_linear import ScaledLinear, quantise_blocks
from testkit.tiny_model import tiny_transformer


def test_products_and_gradients_are_those_of_the_plain_layer() -> None:
    plain = torch.nn.Linear(8, 4).requires_grad_(False)
    results = []
    for layer in (plain, HostLinear(plain)):
        given = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
        made = layer(given)
        made.square().sum().backward()
        results.append((made.detach(), given.grad))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_weights_stay_where_they_are_and_everything_else_goes_to_the_device() -> None:
    transformer = tiny_transformer().requires_grad_(False)
    quantise_blocks(transformer)
    swap_blocks(transformer, 1)
    transformer.to("meta")
    first, second = transformer.blocks[:2]
    for module in first.modules():
        if isinstance(module, torch.nn.Linear):
            assert isinstance(module, ScaledLinear) and module.weight.device.type == "cpu"
            assert module.bias is None or module.bias.device.type == "meta"
    assert all(part.device.type == "meta" for part in (*first.parameters(), *second.parameters()))


def test_plain_linears_of_the_first_blocks_are_swapped() -> None:
    transformer = tiny_transformer()
    swap_blocks(transformer, 1)
    swapped = {
        name.split(".")[1] for name, part in transformer.named_modules() if isinstance(part, HostLinear)
    }
    assert swapped == {"0"}
    assert not any(type(part) is torch.nn.Linear for part in transformer.blocks[0].modules())
