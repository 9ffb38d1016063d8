"""A quantised linear layer by itself: what it computes, in fp8 products too."""

from __future__ import annotations

import pytest
import torch

from posegen.model.scaled_linear import ScaledLinear, quantise_blocks, use_fp8_products
from testkit.tiny_model import tiny_transformer

E4M3 = torch.float8_e4m3fn


def layer(dtype: torch.dtype = E4M3, blocks: tuple[int, int] = (1, 1)) -> ScaledLinear:
    """A layer 64 -> 32 with a scale for each of so many blocks."""
    torch.manual_seed(0)
    values = torch.randint(-100, 100, (32, 64)).to(dtype)
    made = ScaledLinear(values, torch.rand(blocks) / 100 + 0.001, bias=True)
    made.bias = torch.nn.Parameter(torch.randn(32))
    return made


def inputs() -> torch.Tensor:
    return torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))


def rounded(rows: torch.Tensor) -> torch.Tensor:
    """Rows in e4m3 with a scale each, expanded again."""
    scale = rows.abs().amax(-1, keepdim=True) / 448
    return (rows / scale).to(E4M3).float() * scale


@pytest.mark.parametrize("dtype", [E4M3, torch.float8_e5m2, torch.int8])
@pytest.mark.parametrize("blocks", [(1, 1), (32, 1), (4, 8), (32, 4)])
def test_a_product_is_that_of_values_times_scales(dtype: torch.dtype, blocks: tuple[int, int]) -> None:
    made = layer(dtype, blocks)
    weight = made.weight.view(dtype).float()
    for row in range(32):
        for column in range(64):
            weight[row, column] *= made.weight_scale[row * blocks[0] // 32, column * blocks[1] // 64]
    assert torch.equal(made.expanded(torch.float32), weight)
    expected = torch.nn.functional.linear(inputs(), weight, made.bias)
    assert torch.allclose(made(inputs()), expected, atol=1e-5)


@pytest.mark.parametrize("blocks", [(1, 1), (32, 1)])
@torch.no_grad()
def test_an_fp8_product_is_that_of_rounded_activations(blocks: tuple[int, int]) -> None:
    made = layer(blocks=blocks)
    expected = made(rounded(inputs()))
    assert use_fp8_products(made) == 1
    found = made(inputs())
    assert found.shape == expected.shape and found.dtype == torch.float32
    # The product comes out in bfloat16, which rounds by up to 2^-9.
    assert (found - expected).norm() / expected.norm() < 2**-9
    for dtype in (torch.bfloat16, torch.float16):
        narrow = made(inputs().to(dtype))
        # Activations, scales and bias are rounded to this dtype before all that.
        assert narrow.dtype == dtype and (narrow - expected).norm() / expected.norm() < 2**-5
    assert torch.equal(made(torch.zeros(1, 64)), made.bias[None])


def test_passes_that_take_gradients_expand_the_weight() -> None:
    made = layer()
    expected = made(inputs())
    use_fp8_products(made)
    hidden = inputs().requires_grad_()
    found = made(hidden)
    found.sum().backward()
    assert torch.equal(found, expected) and hidden.grad is not None


@pytest.mark.parametrize("made", [layer(torch.int8), layer(torch.float8_e5m2), layer(blocks=(4, 8))])
def test_layers_of_another_format_are_left_as_they_are(made: ScaledLinear) -> None:
    both = torch.nn.Sequential(layer(), made)
    assert use_fp8_products(both) == 1 and not made.fp8_products
    with pytest.raises(ValueError, match="no layer that could multiply in fp8"):
        use_fp8_products(made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("blocks", [(1, 1), (32, 1), (4, 8)])
def test_the_gradient_is_that_of_a_float_layer(blocks: tuple[int, int], dtype: torch.dtype) -> None:
    made = layer(blocks=blocks)
    plain = torch.nn.Linear(64, 32).to(dtype)
    plain.weight.data, plain.bias.data = made.expanded(dtype), made.bias.detach().to(dtype)
    gradients: list[torch.Tensor] = []
    for one in (made, plain):
        given = inputs().to(dtype).requires_grad_()
        gradients += torch.autograd.grad(one(given).square().sum(), given)
    # The bias is added after the product is rounded, in bfloat16 to 2^-9.
    bound = 1e-6 if dtype == torch.float32 else 2**-7
    assert (gradients[0] - gradients[1]).norm() <= bound * gradients[1].norm()
    assert made.weight.grad is None


def test_a_layer_is_quantised_by_rows() -> None:
    plain = torch.nn.Linear(64, 32)
    plain.weight.data[3] = 0
    made = ScaledLinear.quantised(plain)
    error = (made.expanded(torch.float32) - plain.weight).abs()
    # e4m3 has 3 bits after the leading one; below 2^-6 of its range steps are even, 2^-9 of 448 in all.
    assert (
        error <= plain.weight.abs() * 2**-4 + plain.weight.abs().amax(1, keepdim=True) * 2**-10 / 448
    ).all()
    assert torch.equal(made.bias, plain.bias)


def test_all_linears_of_the_blocks_are_quantised() -> None:
    transformer = tiny_transformer()
    linears = [name for name, part in transformer.named_modules() if type(part) is torch.nn.Linear]
    quantise_blocks(transformer)
    kept = [name for name, part in transformer.named_modules() if type(part) is torch.nn.Linear]
    assert kept == [name for name in linears if not name.startswith("blocks.")]
