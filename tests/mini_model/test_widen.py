"""A network made twice as wide computes what it computed before."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mini_model.posed import difference, merged, network_weights, reached
from mini_model.widen import WidenConfig, write_wide
from posegen.model.checkpoints import write_adapter
from posegen.model.transformer import PoseGenTransformer3DModel
from testkit.tiny_training import write_tiny_model


def output(network: PoseGenTransformer3DModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    channels = network.config.reference_channels
    with torch.no_grad():
        return network(
            torch.randn(1, network.config.in_channels, 2, 4, 4, generator=generator),
            torch.tensor([700.0]),
            torch.randn(1, 3, network.config.text_dim, generator=generator),
            reference_latents=torch.randn(1, channels, 1, 4, 4, generator=generator),
            return_dict=False,
        )[0]


def test_twice_as_wide_is_the_same_with_and_without_an_adapter(tmp_path: Path) -> None:
    model, adapter = tmp_path / "base", tmp_path / "cond"
    write_tiny_model(model)
    network, base = merged(model, None), network_weights(model)
    generator = torch.Generator().manual_seed(0)
    for name, weight in network.named_parameters():
        if reached(name):
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    write_adapter(difference(network, base), adapter)

    write_wide(WidenConfig(model, adapters=(adapter,), output=tmp_path / "wide"))

    wide = tmp_path / "wide" / "base"
    for narrow_adapter, wide_adapter in ((None, None), (adapter, tmp_path / "wide" / "adapters" / "cond")):
        torch.testing.assert_close(
            output(merged(wide, wide_adapter)), output(merged(model, narrow_adapter)), rtol=1e-4, atol=1e-4
        )
    left, right = merged(wide, None).state_dict()["blocks.0.ffn.net.0.proj.weight"].chunk(2, dim=1)
    assert not torch.allclose(left, right, atol=1e-2)
