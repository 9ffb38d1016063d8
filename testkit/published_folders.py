"""Published PoseGen folders of random tensors, and what a tiny model of them makes of fixed inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from posegen.model.checkpoints import convert_published, load_adapter
from posegen.model.transformer import PoseGenTransformer3DModel

FULL_SIZE: dict[str, Any] = {
    "dim": 5120,
    "in_dim": 36,
    "ffn_dim": 13824,
    "out_dim": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "eps": 1e-6,
    "patch_size": [1, 2, 2],
    "num_heads": 40,
    "num_layers": 40,
    "has_image_input": True,
    "has_image_pos_emb": False,
    "shift_ref_pos": True,
    "use_hand": True,
    "use_hand_proj": True,
}
TINY = FULL_SIZE | {
    "dim": 24,
    "ffn_dim": 40,
    "text_dim": 16,
    "freq_dim": 16,
    "num_heads": 2,
    "num_layers": 2,
    "use_hand_proj": False,
}
ADAPTED = ("q", "k", "v", "o", "ffn.0", "ffn.2")  # of each block, in both attentions
RANK = 4


def published_shapes(settings: dict[str, Any], rank: int | None = None) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a published checkpoint, by Wan's original names; without adapter where rank is None."""
    dim, ffn, channels = settings["dim"], settings["ffn_dim"], settings["out_dim"]
    patch = tuple(settings["patch_size"])
    linears = {
        "text_embedding.0": (dim, settings["text_dim"]),
        "text_embedding.2": (dim, dim),
        "time_embedding.0": (dim, settings["freq_dim"]),
        "time_embedding.2": (dim, dim),
        "time_projection.1": (6 * dim, dim),
        "head.head": (channels * patch[0] * patch[1] * patch[2], dim),
        "patch_embedding": (dim, settings["in_dim"], *patch),
        "ref_patch_embedding": (dim, channels, *patch),
    }
    others: dict[str, tuple[int, ...]] = {"head.modulation": (1, 2, dim)}
    if settings["use_hand"]:
        hand = "hand_patch_embedding.0" if settings["use_hand_proj"] else "hand_patch_embedding"
        linears[hand] = (dim, channels, *patch)
    if settings["use_hand_proj"]:
        linears["hand_patch_embedding.1"] = (dim, dim, 1, 1, 1)
    if settings["has_image_input"]:
        linears |= {"img_emb.proj.1": (1280, 1280), "img_emb.proj.3": (dim, 1280)}
        linears |= {"img_emb.proj.0": (1280,), "img_emb.proj.4": (dim,)}
    for block in (f"blocks.{index}" for index in range(settings["num_layers"])):
        attentions = [f"{block}.self_attn", f"{block}.cross_attn"]
        linears |= {f"{attention}.{name}": (dim, dim) for attention in attentions for name in "qkvo"}
        linears |= {f"{block}.ffn.0": (ffn, dim), f"{block}.ffn.2": (dim, ffn), f"{block}.norm3": (dim,)}
        norms = [f"{attention}.norm_{name}" for attention in attentions for name in "qk"]
        if settings["has_image_input"]:
            linears |= {f"{block}.cross_attn.{name}": (dim, dim) for name in ("k_img", "v_img")}
            norms.append(f"{block}.cross_attn.norm_k_img")
        others |= {f"{norm}.weight": (dim,) for norm in norms} | {f"{block}.modulation": (1, 6, dim)}
    shapes = others
    for name, shape in linears.items():
        adapted = rank and name.startswith("blocks.") and name.endswith(tuple(f".{end}" for end in ADAPTED))
        plain = f"{name}.base_layer" if adapted else name
        shapes |= {f"{plain}.weight": shape, f"{plain}.bias": shape[:1]}
        if rank and adapted:
            shapes[f"{name}.lora_A.default.weight"] = (rank, shape[1])
            shapes[f"{name}.lora_B.default.weight"] = (shape[0], rank)
    return {f"pipe.dit.{name}": shape for name, shape in shapes.items()}


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) / max(shape[-1], 4) ** 0.5
        for name, shape in shapes.items()
    }


def write_folder(folder: Path, settings: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    """A published folder of two shards."""
    folder.mkdir(parents=True)
    (folder / "model_config.json").write_text(json.dumps(settings))
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        torch.save({name: tensors[name] for name in part}, folder / f"model-0000{number}-of-00002.bin")
    return folder


def other_adapter(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same model with another adapter."""
    adapted = {
        name: tuple(part.shape)
        for name, part in tensors.items()
        if "lora" in name or "patch_embedding" in name
    }
    return tensors | random_tensors(adapted, seed=1)


def tiny_published(folder: Path, settings: dict[str, Any] = TINY) -> Path:
    """The published folder of a tiny model with an adapter."""
    return write_folder(folder, settings, random_tensors(published_shapes(settings, RANK)))


def tiny_converted(root: Path, settings: dict[str, Any] = TINY) -> Path:
    """Our layout, `converted`, made from two published folders beside it, `base` and `cond`."""
    tensors = other_adapter(random_tensors(published_shapes(settings, RANK)))
    write_folder(root / "cond", settings, tensors)
    convert_published(tiny_published(root / "base", settings), root / "cond", None, root / "converted")
    return root / "converted"


def transformer_of(folder: Path, *adapters: str) -> PoseGenTransformer3DModel:
    transformer = PoseGenTransformer3DModel.from_pretrained(folder / "transformer")
    for name in adapters:
        load_adapter(transformer, folder / "adapters" / name, name)
    return transformer


@torch.no_grad()
def output(transformer: torch.nn.Module) -> torch.Tensor:
    """What a tiny PoseGen transformer makes of fixed inputs."""
    generator = torch.Generator().manual_seed(7)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return transformer(
        noise(1, 36, 2, 4, 4),
        torch.tensor([500.0]),
        noise(1, 3, TINY["text_dim"]),
        noise(1, 5, 1280),
        reference_latents=noise(1, 16, 1, 4, 4),
        hand_latents=noise(1, 16, 2, 4, 4),
    ).sample


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def drop(word: str) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if word in name]:
            del tensors[name]

    return change
