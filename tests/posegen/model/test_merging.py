"""Adapters merged into the weights: the same output without their products, and the same weights afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from posegen.model.checkpoints import set_adapter
from posegen.model.merging import AdapterMerger
from posegen.model.scaled_linear import ScaledLinear
from posegen.model.transformer import PoseGenTransformer3DModel
from testkit.tiny_model import add_random_adapter, tiny_transformer

CPU = torch.device("cpu")
LAYER = "blocks.1.attn1.to_q"


@pytest.fixture
def transformer() -> PoseGenTransformer3DModel:
    torch.manual_seed(0)
    made = tiny_transformer()
    for name in ("base", "cond", "style"):
        add_random_adapter(made, name) if name != "style" else add_style(made)
    return made.eval().requires_grad_(False)


def add_style(transformer: PoseGenTransformer3DModel) -> None:
    """An adapter of matrices alone, as a user loads it, of another rank and scale."""
    from peft import LoraConfig

    transformer.add_adapter(LoraConfig(r=3, lora_alpha=6, target_modules=["to_v", "to_k"]), "style")
    for name, parameter in transformer.named_parameters():
        if ".style." in name:
            parameter.data = torch.randn_like(parameter) * 0.1


@torch.no_grad()
def output(transformer: PoseGenTransformer3DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shapes: dict[str, Any] = {
        "hidden_states": (1, 36, 2, 4, 4),
        "encoder_hidden_states": (1, 3, 16),
        "encoder_hidden_states_image": (1, 2, 16),
        "reference_latents": (1, 16, 1, 4, 4),
    }
    tensors = {
        name: torch.randn(shape, generator=generator, dtype=torch.float32).to(transformer.dtype)
        for name, shape in shapes.items()
    }
    return transformer(timestep=torch.tensor([500.0]), **tensors).sample.float()


def weights(transformer: PoseGenTransformer3DModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in transformer.state_dict().items()}


# A merged weight is rounded to its dtype once, by half of its last digit: 2^-24 of it in float32, 2^-9 in bfloat16.
# Products of 24 to 32 numbers and three blocks make about ten times that of it.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("names", [["base"], ["cond", "style"]])
def test_merged_adapters_do_what_they_do_beside_the_weights(
    transformer: PoseGenTransformer3DModel, names: list[str], dtype: torch.dtype, bound: float
) -> None:
    transformer.to(dtype)
    before, merger = weights(transformer), AdapterMerger()
    set_adapter(transformer, names)
    beside = output(transformer)
    for _ in range(2):
        with merger.merged(transformer, names, CPU):
            layer = transformer.get_submodule(LAYER)
            assert layer.merged and not torch.equal(
                layer.base_layer.weight, before[f"{LAYER}.base_layer.weight"]
            )
            error = (output(transformer) - beside).norm() / beside.norm()
        assert error < bound
        after = weights(transformer)
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert torch.equal(output(transformer), beside)


def test_weights_come_back_when_a_segment_ends_in_an_error(transformer: PoseGenTransformer3DModel) -> None:
    before = weights(transformer)
    with pytest.raises(KeyboardInterrupt), AdapterMerger().merged(transformer, ["base"], CPU):
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(transformer).items())


def test_what_is_loaded_between_two_segments_counts(transformer: PoseGenTransformer3DModel) -> None:
    merger = AdapterMerger()
    with merger.merged(transformer, ["base"], CPU):
        pass
    weight = transformer.get_parameter(f"{LAYER}.base_layer.weight")
    weight.data += 1
    with merger.merged(transformer, ["base"], CPU):
        changed = output(transformer)
    beside = output(transformer)
    assert (changed - beside).norm() < 1e-6 * beside.norm()
    assert torch.equal(weight, transformer.get_parameter(f"{LAYER}.base_layer.weight"))


def test_an_adapter_that_a_user_fused_stays_fused(transformer: PoseGenTransformer3DModel) -> None:
    set_adapter(transformer, ["cond", "style"])
    expected = output(transformer)
    transformer.fuse_lora(adapter_names=["style"])
    fused = weights(transformer)
    merger = AdapterMerger()
    for names in (["base", "style"], ["cond", "style"]):
        with merger.merged(transformer, names, CPU):
            made = output(transformer)
    assert (made - expected).norm() < 1e-6 * expected.norm()
    assert all(torch.equal(tensor, fused[name]) for name, tensor in weights(transformer).items())
    assert transformer.get_submodule("blocks.0.attn1.to_v").merged_adapters == ["style"]


def test_quantised_weights_keep_their_adapters_beside_them(transformer: PoseGenTransformer3DModel) -> None:
    layer: Any = transformer.get_submodule(LAYER)
    plain: nn.Linear = layer.base_layer
    scale = plain.weight.abs().amax(1, keepdim=True) / 127
    scaled = ScaledLinear((plain.weight / scale).round().to(torch.int8), scale, bias=True)
    scaled.bias = plain.bias
    layer.base_layer = scaled
    set_adapter(transformer, "base")
    beside = output(transformer)
    with AdapterMerger().merged(transformer, ["base"], CPU):
        assert not layer.merged and transformer.get_submodule("blocks.0.attn1.to_q").merged
        error = (output(transformer) - beside).norm() / beside.norm()
    assert error < 1e-6
