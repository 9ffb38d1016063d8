"""Transformers on the meta device, whose operations are counted and whose live bytes are followed."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

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
    """Follows the storages that operations make on the meta device until they are dropped.

    `peak` is the most alive at one time. Those on the CPU stand for the host's, which take nothing of a device.
    """

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(output):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
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


def fuse_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device would spell attention out with its matrix of scores; a GPU runs the fused operation."""

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)


def peak_bytes(model: nn.Module, run: Any, arguments: dict[str, Any]) -> int:
    known = [*model.parameters(), *model.buffers(), *(t for t in arguments.values() if t is not None)]
    with LiveBytes(known) as live:
        run(**arguments)
    return live.peak
