"""Names and settings of a PoseGen transformer in two languages: the published checkpoints' and diffusers'.

Published names are Wan's original ones, as in DiffSynth and ComfyUI; they are translated stem by stem with two tables,
one for what a block holds and one for the rest, so that what follows a stem (`.weight`, `.lora_A.weight`) stays.
Whoever reads tensors compares all names and shapes with a model's: nothing is dropped or made up in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from diffusers import ModelMixin

Tensors = dict[str, torch.Tensor]

CLIP_DIM = 1280  # of the picture's tokens, fixed in Wan's image-to-video code

OUTSIDE_BLOCKS = {
    "patch_embedding": "patch_embedding",
    "ref_patch_embedding": "reference_patch_embedding",
    "hand_patch_embedding": "hand_patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
IN_ATTENTION = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "k_img": "add_k_proj",
    "v_img": "add_v_proj",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
    "norm_k_img": "norm_added_k",
}
IN_BLOCKS = {
    "modulation": "scale_shift_table",
    "norm3": "norm2",  # the norm before cross-attention; the other two have no parameters and change numbers too
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    **{f"self_attn.{wan}": f"attn1.{diffusers}" for wan, diffusers in IN_ATTENTION.items()},
    **{f"cross_attn.{wan}": f"attn2.{diffusers}" for wan, diffusers in IN_ATTENTION.items()},
}
TO_DIFFUSERS = (IN_BLOCKS, OUTSIDE_BLOCKS)
TO_PUBLISHED = tuple({new: old for old, new in table.items()} for table in TO_DIFFUSERS)


class CheckpointError(ValueError):
    """A checkpoint is damaged, incomplete or of another model; the message says what, where, and what to do."""


def diffusers_name(name: str) -> str:
    """`blocks.0.self_attn.q.weight` -> `blocks.0.attn1.to_q.weight`; CheckpointError for a name Wan does not have."""
    return _translate(name, *TO_DIFFUSERS)


def published_name(name: str) -> str:
    """The way back: `blocks.0.attn1.to_q.weight` -> `blocks.0.self_attn.q.weight`."""
    return _translate(name, *TO_PUBLISHED)


def _translate(name: str, in_blocks: Mapping[str, str], outside: Mapping[str, str]) -> str:
    block = match[0] if (match := re.match(r"blocks\.\d+\.", name)) else ""
    table = in_blocks if block else outside
    parts = name.removeprefix(block).split(".")
    for end in range(len(parts), 0, -1):
        if stem := table.get(".".join(parts[:end])):
            return block + ".".join([stem, *parts[end:]])
    raise CheckpointError(
        f"{name} is not the name of a tensor of a PoseGen transformer: check which model it is."
    )


def check_shape(name: str, found: Sequence[int], shape: Sequence[int] | None, where: object) -> None:
    """Raise CheckpointError unless a tensor has the shape that the model wants; None means it wants no such tensor.

    `name` is what the tensor is called in the file `where`.
    """
    if shape is None:
        raise CheckpointError(
            f"{where} has {name}, which this model does not have: check that it is a file of this model."
        )
    if list(found) != list(shape):
        raise CheckpointError(
            f"{name} in {where} has shape {list(found)}, but this model needs {list(shape)}: check that it is a file "
            "of this model."
        )


def check_complete(
    found: Iterable[str], expected: Iterable[str], where: object, spelled: Callable[[str], str] = str
) -> None:
    """Raise CheckpointError where `found` lacks a name; `spelled` turns it into what it is called in `where`."""
    if missing := sorted(set(expected) - set(found)):
        raise CheckpointError(
            f"{where} lacks {spelled(missing[0])} (tensors missing: {len(missing)}): fetch it again, in full."
        )


def stays_float32(model: ModelMixin, name: str) -> bool:
    """Whether diffusers keeps a tensor of this model in float32, whatever the dtype of the others."""
    return not set(model._keep_in_fp32_modules).isdisjoint(name.split("."))


PUBLISHED_SETTINGS: dict[str, type | tuple[type, ...]] = {  # of model_config.json, in its order
    "dim": int,
    "in_dim": int,
    "ffn_dim": int,
    "out_dim": int,
    "text_dim": int,
    "freq_dim": int,
    "eps": (int, float),
    "patch_size": (list, tuple),
    "num_heads": int,
    "num_layers": int,
    "has_image_input": bool,
    "has_image_pos_emb": bool,
    "shift_ref_pos": bool,
    "use_hand": bool,
    "use_hand_proj": bool,
}


def transformer_config(published: Mapping[str, Any], where: object = "model_config.json") -> dict[str, Any]:
    """Arguments of PoseGenTransformer3DModel for the settings of a published `model_config.json`.

    Raises CheckpointError for a setting that is missing, of a wrong type, unknown, or not supported
    (`has_image_pos_emb`, which is for models that are given a first and a last picture).
    """
    settings = {"has_image_pos_emb": False, "use_hand_proj": False, **published}
    _check_settings(settings, where)
    dim, channels = settings["dim"], settings["out_dim"]
    return {
        "patch_size": tuple(settings["patch_size"]),
        "num_attention_heads": settings["num_heads"],
        "attention_head_dim": dim // settings["num_heads"],
        "in_channels": settings["in_dim"],
        "out_channels": channels,
        "text_dim": settings["text_dim"],
        "freq_dim": settings["freq_dim"],
        "ffn_dim": settings["ffn_dim"],
        "num_layers": settings["num_layers"],
        "eps": settings["eps"],
        "image_dim": CLIP_DIM if settings["has_image_input"] else None,
        "added_kv_proj_dim": dim if settings["has_image_input"] else None,
        "reference_channels": channels,
        "hand_channels": channels if settings["use_hand"] else None,
        "hand_projection": settings["use_hand_proj"],
        "shift_reference": settings["shift_ref_pos"],
    }


def _check_settings(settings: Mapping[str, Any], where: object) -> None:
    for name, kind in PUBLISHED_SETTINGS.items():
        if not isinstance(settings.get(name), kind):
            raise CheckpointError(
                f"{where} has {settings.get(name, 'nothing')!r} for {name}: take the published model's."
            )
    if unknown := [name for name in settings if name not in PUBLISHED_SETTINGS and settings[name]]:
        raise CheckpointError(
            f"{where} sets {unknown[0]}, which is not known here: take a published PoseGen model."
        )
    if settings["has_image_pos_emb"]:
        raise CheckpointError(
            f"{where} sets has_image_pos_emb, which is for models with a first and a last picture: PoseGen has one "
            "picture, so take a model without it."
        )
    if settings["num_heads"] < 1 or settings["dim"] % settings["num_heads"]:
        raise CheckpointError(
            f"{where} has a dim that num_heads does not divide: take the published model's."
        )


def model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `model_config.json` for a transformer's `config`.

    Raises CheckpointError where the published format has no word for one of the transformer's arguments.
    """
    settings = {
        "dim": config["num_attention_heads"] * config["attention_head_dim"],
        "in_dim": config["in_channels"],
        "ffn_dim": config["ffn_dim"],
        "out_dim": config["out_channels"],
        "text_dim": config["text_dim"],
        "freq_dim": config["freq_dim"],
        "eps": config["eps"],
        "patch_size": list(config["patch_size"]),
        "num_heads": config["num_attention_heads"],
        "num_layers": config["num_layers"],
        "has_image_input": config["image_dim"] is not None,
        "has_image_pos_emb": False,
        "shift_ref_pos": config["shift_reference"],
        "use_hand": config["hand_channels"] is not None,
        "use_hand_proj": config["hand_projection"],
    }
    told = {
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "pos_embed_seq_len": None,
        "prediction": "velocity",
        **transformer_config(settings),
    }
    for name, value in told.items():
        actual = tuple(config[name]) if name == "patch_size" else config[name]
        if actual != value:
            raise CheckpointError(
                f"The published format cannot say {name}={actual!r} (it means {value!r}): save this model with "
                "save_pretrained instead."
            )
    return settings
