"""A training's estimate against the transformer itself on the meta device: bytes of its weights, and of what lives.

Blocks are alike, and what a checkpoint keeps of each is in the host's memory for Wan's configurations, so three blocks
live as 40 do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from posegen.model.folder import model_folder
from posegen.model.host_linear import swap_blocks
from posegen.model.scaled_linear import quantise_blocks
from posegen.model.transformer import PoseGenTransformer3DModel
from testkit.meta_models import fuse_attention, peak_bytes
from training.config import CONFIGS, TrainConfig
from training.memory import Device, Estimate, EstimateError, estimate, largest_size
from training.model.adapter import lora_config
from training.step import blocks
from training.step.groups import Group

CARD = Device("a card", inf, 1.0)
BLOCKS = 3
SHAPES: dict[str, dict[str, Any]] = {
    "wan1b": {"num_attention_heads": 12, "ffn_dim": 8960, "added_kv_proj_dim": 1536},
    "wan14b": {},
}
TEXT, IMAGE = 512, 257


@pytest.fixture(autouse=True)
def meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fused attention, a host's memory that takes no bytes of the device, and no process group left over."""

    @contextmanager
    def on_host(pin_memory: bool) -> Iterator[None]:
        def fetch(kept: tuple[torch.Size, torch.dtype]) -> torch.Tensor:
            return torch.empty(kept[0], dtype=kept[1], device="meta")

        with torch.autograd.graph.saved_tensors_hooks(lambda each: (each.shape, each.dtype), fetch):
            yield

    fuse_attention(monkeypatch)
    monkeypatch.setattr(blocks, "save_on_cpu", on_host)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def shape_of(name: str) -> dict[str, Any]:
    """The transformer's configuration, of three blocks for Wan's."""
    if name.startswith("wan"):
        return {**SHAPES[name.split("_")[0]], "num_layers": BLOCKS}
    folder = model_folder(CONFIGS[name][1].data.model, weights=False)
    saved = PoseGenTransformer3DModel.load_config(folder, subfolder="transformer")
    return {name: value for name, value in saved.items() if not name.startswith("_")}


def on_meta(config: TrainConfig, shape: dict[str, Any]) -> PoseGenTransformer3DModel:
    """The transformer as a worker has it."""
    dtype = getattr(torch, config.engine.precision)
    with torch.device("meta"):
        model = PoseGenTransformer3DModel(**shape)
        for name, parameter in model.named_parameters():
            exact = any(part in name.split(".") for part in model._keep_in_fp32_modules)
            parameter.data = parameter.data.to(torch.float32 if exact else dtype)
        if config.engine.fp8_base:
            quantise_blocks(model)
        swap_blocks(model, config.engine.blocks_to_swap)
        for part in model.modules():
            if "weight" in vars(
                part
            ):  # a plain attribute: it stays on the host, where it takes no memory unread
                part.weight = torch.empty_like(part.weight, device="cpu")
        model.requires_grad_(False).train()
        model.add_adapter(lora_config(config.adapter), "base")
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(dtype)
        if parameter.requires_grad:  # ZeRO takes a gradient away as soon as it is there
            parameter.register_post_accumulate_grad_hook(lambda each: setattr(each, "grad", None))
    if not config.data.hands and model.hand_patch_embedding is not None:
        model.hand_patch_embedding.requires_grad_(False)
    return model


def live_bytes(config: TrainConfig, model: PoseGenTransformer3DModel) -> int:
    """The most that is alive in a step of a worker beside weights and inputs, of its own group's part."""
    size = config.cluster.context_parallel
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    Group.of(0, size, size, torch.device("cpu")).split(model)
    blocks.set_up_blocks(model, config.engine)
    frames, height, width = largest_size(config)
    grid, wan = ((frames - 1) // 4 + 1, height // 8, width // 8), model.config

    def tensor(*shape: int) -> torch.Tensor:
        dtype = getattr(torch, config.engine.precision)
        return torch.empty(config.engine.micro_batch_size, *shape, device="meta", dtype=dtype)

    def step(**arguments: Any) -> None:
        model(**arguments).sample.float().square().mean().backward()

    arguments = {
        "hidden_states": tensor(wan.in_channels, *grid),
        "timestep": torch.empty(config.engine.micro_batch_size, device="meta"),
        "encoder_hidden_states": tensor(TEXT, wan.text_dim),
        "encoder_hidden_states_image": tensor(IMAGE, wan.image_dim) if wan.image_dim else None,
        "reference_latents": tensor(wan.reference_channels, 1, *grid[1:]),
    }
    return peak_bytes(model, step, arguments)


def estimated(config: TrainConfig, model: PoseGenTransformer3DModel, folder: Path) -> Estimate:
    (folder / "transformer").mkdir(exist_ok=True)
    (folder / "transformer" / "config.json").write_text(json.dumps(dict(model.config)))
    (folder / "model_index.json").write_text("{}")
    return estimate(replace(config, data=replace(config.data, model=str(folder))), CARD)


@pytest.mark.filterwarnings("ignore:.*all_gather_tensor:FutureWarning")
@pytest.mark.parametrize("name", CONFIGS)
def test_memory_is_within_5_percent_of_what_is_counted(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name][1]
    model = on_meta(config, shape_of(name))
    made = estimated(config, model, tmp_path).memory
    if config.engine.zero_stage == 2:
        weights = sum(part.numel() * part.element_size() for part in (*model.parameters(), *model.buffers()))
        assert made["weights"] == pytest.approx(weights, rel=0.05)
    assert made["activations"] == pytest.approx(live_bytes(config, model), rel=0.05)


def test_a_group_that_cannot_part_an_item_is_refused_before_the_training(tmp_path: Path) -> None:
    config = CONFIGS["wan1b_480p"][1]
    eight = replace(config, cluster=replace(config.cluster, max_workers=8, context_parallel=8))
    with pytest.raises(EstimateError, match=r"context_parallel 8 cannot share .* the 12 attention heads"):
        estimated(eight, on_meta(config, shape_of("wan1b_480p")), tmp_path)
