"""The formulas of costs against the real classes, run on the meta device: counted operations, live bytes."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from peft import LoraConfig
from torch import nn
from torch.nn import functional
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from posegen import costs
from posegen.model.transformer import PoseGenTransformer3DModel

SIZE_14B = (81, 1280, 720)
SMALL: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "in_channels": 100,
    "out_channels": 48,
    "text_dim": 96,
    "freq_dim": 32,
    "ffn_dim": 640,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "reference_channels": 48,
    "hand_channels": None,
}
CONFIGS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "14b": ({}, SIZE_14B),
    "small": (SMALL, (33, 96, 64)),
    "small with all": (
        SMALL
        | {
            "image_dim": 80,
            "added_kv_proj_dim": 256,
            "hand_channels": 48,
            "hand_projection": True,
            "ffn_dim": 1024,
        },
        (17, 128, 128),
    ),
    "small, wide feed-forward": (SMALL | {"ffn_dim": 2048, "cross_attn_norm": False}, (81, 128, 96)),
}
TEXT, IMAGE = 24, 9


def transformer(
    config: dict[str, Any], layers: int, dtype: torch.dtype = torch.bfloat16
) -> PoseGenTransformer3DModel:
    with torch.device("meta"):
        model = PoseGenTransformer3DModel(num_layers=layers, **config).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def inputs(
    model: PoseGenTransformer3DModel, size: tuple[int, int, int], dtype: torch.dtype = torch.bfloat16
) -> dict:
    config, (frames, height, width) = model.config, size
    grid = ((frames - 1) // 4 + 1, height // 8, width // 8)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.empty(1, *shape, device="meta", dtype=dtype)

    return {
        "hidden_states": tensor(config.in_channels, *grid),
        "timestep": torch.empty(1, device="meta"),
        "encoder_hidden_states": tensor(TEXT, config.text_dim),
        "encoder_hidden_states_image": tensor(IMAGE, config.image_dim) if config.image_dim else None,
        "reference_latents": tensor(config.reference_channels, 1, *grid[1:]),
        "hand_latents": tensor(config.hand_channels, *grid) if config.hand_channels else None,
    }


class LiveBytes(TorchDispatchMode):
    """Follows the storages that operations make until they are dropped; `peak` is the most alive at one time."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor.untyped_storage())
        return output

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._dropped, storage._cdata, storage.nbytes())

    def _dropped(self, identity: int, nbytes: int) -> None:
        self._seen.discard(identity)
        self.live -= nbytes


@pytest.fixture
def fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device would spell attention out with its matrix of scores; a GPU runs the fused operation."""

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)


def peak_bytes(model: nn.Module, run: Any, arguments: dict[str, Any]) -> int:
    known = [*model.parameters(), *model.buffers(), *(t for t in arguments.values() if t is not None)]
    with LiveBytes(known) as live:
        run(**arguments)
    return live.peak


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_class(name: str):
    model = transformer(CONFIGS[name][0], layers=3)
    assert costs.parameters(model.config) == sum(parameter.numel() for parameter in model.parameters())


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
    assert costs.flops_per_forward(model.config, *size, TEXT, IMAGE) == counter.get_total_flops()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_training_flops_are_those_that_torch_counts(name: str, checkpointing: bool):
    """Exact but for a projection of hands, whose gradients of input and weights are left out: within 2 % there."""
    config, size = CONFIGS[name]
    model = transformer(config, layers=2).requires_grad_(False).train()
    for parameter, trained in model.named_parameters():
        # Biases in place of adapters: gradients have to pass everywhere, but it takes no product to have a bias's.
        trained.requires_grad_(
            "patch_embedding" in parameter or ("blocks" in parameter and "bias" in parameter)
        )
    if checkpointing:
        model.enable_gradient_checkpointing()
    with FlopCounterMode(display=False) as counter:
        model(**inputs(model, size)).sample.float().sum().backward()
    formula = costs.flops_per_training_step(model.config, *size, 1, TEXT, IMAGE, checkpointing)
    assert formula == pytest.approx(counter.get_total_flops(), rel=0.02 if "hand_projection" in config else 0)


@pytest.mark.usefixtures("fused_attention")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", CONFIGS)
def test_activations_are_those_that_live_in_a_pass(name: str, dtype: torch.dtype):
    config, size = CONFIGS[name]
    model = transformer(config, 2, dtype)
    with torch.no_grad():
        live = peak_bytes(model, model, inputs(model, size, dtype))
    formula = costs.activation_bytes(model.config, *size, 1, TEXT, IMAGE, dtype.itemsize)
    assert live <= formula <= 1.2 * live


@pytest.mark.usefixtures("fused_attention")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_training_activations_are_those_that_live_in_a_step(name: str, checkpointing: bool):
    dtype = torch.bfloat16 if name == "14b" else torch.float32
    config, size = CONFIGS[name]
    model = transformer(config, 3, dtype).requires_grad_(False).train()
    model.add_adapter(
        LoraConfig(r=8, target_modules=["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"])
    )
    for parameter in model.parameters():
        parameter.data = parameter.data.to("meta", dtype)
    if checkpointing:
        model.enable_gradient_checkpointing()

    def step(**arguments: Any) -> None:
        model(**arguments).sample.float().square().mean().backward()

    live = peak_bytes(model, step, inputs(model, size, dtype))
    formula = costs.training_activation_bytes(
        model.config, *size, 1, TEXT, IMAGE, dtype.itemsize, gradient_checkpointing=checkpointing
    )
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
    config, vae = transformer(SMALL, 2).config, {"base_dim": 96}
    memory = costs.generation_memory(config, 17, 96, 64, vae, other_weights=7, record=11)
    assert memory["weights"] == 2 * costs.parameters(config) + 7
    together = memory["weights"] + memory["latents"] + 11
    assert memory["decode"] > memory["activations"]
    assert memory["peak"] == together + memory["decode"]
    memory = costs.generation_memory(config, 17, 96, 64, {}, other_weights=7, record=11)
    assert memory["peak"] == together + memory["activations"]


def test_each_zero_stage_splits_more():
    config = transformer(SMALL, 2).config

    def estimate(stage: int, workers: int) -> dict[str, int]:
        return costs.training_memory(config, 17, 96, 64, 4000, stage, workers, bucket=50, live_parameters=60)

    weights = costs.parameters(config) + 4000
    alone = estimate(0, 4)
    assert (alone["weights"], alone["gradients"], alone["optimiser"]) == (2 * weights, 8000, 48000)
    assert estimate(1, 4) == alone | {"optimiser": 12000, "buffers": 100, "peak": alone["peak"] - 36000 + 100}
    assert estimate(2, 4) == estimate(1, 4) | {"gradients": 2000, "peak": estimate(1, 4)["peak"] - 6000}
    assert estimate(3, 4)["weights"] == 2 * (-(-weights // 4) + 60)
    assert estimate(3, 4)["peak"] == sum(value for part, value in estimate(3, 4).items() if part != "peak")


def test_impossible_numbers_are_refused_in_a_sentence():
    config = transformer(SMALL, 1).config
    with pytest.raises(ValueError, match="choose 4 k \\+ 1 frames, a width in multiples of 16"):
        costs.tokens(config, 16, 96, 64)
    with pytest.raises(ValueError, match="17 frames of 60x96"):
        costs.tokens(config, 17, 96, 60)
    with pytest.raises(ValueError, match="ZeRO stage 4"):
        costs.training_memory(config, 17, 96, 64, 4000, 4, 1)


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
