"""The formulas of costs against the real classes, run on the meta device: counted operations, live bytes."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from posegen import costs
from posegen.model.transformer import PoseGenTransformer3DModel
from testkit.meta_models import CONFIGS, IMAGE, SMALL, TEXT, fuse_attention, inputs, peak_bytes, transformer


@pytest.fixture
def fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    fuse_attention(monkeypatch)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_class(name: str):
    model = transformer(CONFIGS[name][0], layers=3)
    assert costs.parameters(model.config) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_parameters_are_those_that_the_class_keeps(name: str):
    model = transformer(CONFIGS[name][0], layers=3)
    kept = [
        parameter.numel()
        for name, parameter in model.named_parameters()
        if set(name.split(".")) & set(model._keep_in_fp32_modules)
    ]
    assert costs.float32_parameters(model.config) == sum(kept)


def test_parameters_of_the_published_model():
    with torch.device("meta"):
        model = PoseGenTransformer3DModel()
    assert costs.parameters(model.config) == sum(parameter.numel() for parameter in model.parameters())
    assert 16.3e9 < costs.parameters(model.config) < 16.5e9


@pytest.mark.parametrize("name", CONFIGS)
def test_flops_are_those_that_torch_counts(name: str):
    config, size = CONFIGS[name]
    model = transformer(config, layers=2)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**inputs(model, size))
    assert (
        costs.flops_per_forward(costs.Pass(model.config, *size, 1, TEXT, IMAGE)) == counter.get_total_flops()
    )


@pytest.mark.usefixtures("fused_attention")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", CONFIGS)
def test_activations_are_those_that_live_in_a_pass(name: str, dtype: torch.dtype):
    config, size = CONFIGS[name]
    model = transformer(config, 2, dtype)
    with torch.no_grad():
        live = peak_bytes(model, model, inputs(model, size, dtype))
    formula = costs.activation_bytes(costs.Pass(model.config, *size, 1, TEXT, IMAGE, dtype.itemsize))
    assert live <= formula <= 1.2 * live


@pytest.mark.parametrize(
    ("changes", "size", "tile"),
    [
        ({}, (9, 256, 192), None),
        ({"base_dim": 32, "decoder_base_dim": 64}, (9, 128, 128), None),
        ({}, (5, 320, 256), (256, 256)),
    ],
)
def test_decoding_takes_what_lives_in_it(
    changes: dict, size: tuple[int, int, int], tile: tuple[int, int] | None
):
    with torch.device("meta"):
        vae = AutoencoderKLWan(**changes).eval()
    if tile is not None:
        vae.enable_tiling()
    frames, height, width = size
    latents = torch.empty(1, vae.config.z_dim, (frames - 1) // 4 + 1, height // 8, width // 8, device="meta")
    with torch.no_grad():
        live = peak_bytes(vae, vae.decode, {"z": latents})
    assert live <= costs.decode_bytes(vae.config, *size, tile=tile) <= 1.2 * live


def test_decoding_of_another_vae_counts_its_video():
    assert costs.decode_bytes({"z_dim": 48}, 17, 96, 64) == 3 * 17 * 96 * 64 * 4


def test_generation_has_its_peak_in_the_network_or_in_the_vae():
    one, vae = costs.Pass(transformer(SMALL, 2).config, 17, 96, 64), {"base_dim": 96}
    memory = costs.generation_memory(one, vae, weights=7, record=11)
    assert memory["weights"] == 7
    together = memory["weights"] + memory["latents"] + 11
    assert memory["decode"] > memory["activations"]
    assert memory["peak"] == together + memory["decode"]
    both = costs.generation_memory(one, vae, weights=7, record=11, overlap=True)
    assert both["peak"] == memory["peak"] + memory["activations"]
    memory = costs.generation_memory(one, {}, weights=7, record=11)
    assert memory["peak"] == together + memory["activations"]
    apart = costs.generation_memory(one, vae, weights=10**9, decoding_weights=7, record=11)
    assert apart["peak"] == 10**9 + apart["latents"] + 11 + apart["activations"]


def test_impossible_numbers_are_refused_in_a_sentence():
    config = transformer(SMALL, 1).config
    with pytest.raises(ValueError, match="choose 4 k \\+ 1 frames, a width in multiples of 16"):
        costs.tokens(config, 16, 96, 64)
    with pytest.raises(ValueError, match="17 frames of 60x96"):
        costs.tokens(config, 17, 96, 60)


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("Tesla T4", None),
    ],
)
def test_a_device_is_known_by_its_name(name: str, flops: float | None):
    assert costs.peak_flops(name) == flops
