"""Kernels of attention by name, those of diffusers' dispatcher that are of use here."""

from __future__ import annotations

from typing import Literal

import torch
from diffusers.models import attention_dispatch

Attention = Literal["torch", "cudnn", "flash", "flash3", "sage"]

BACKENDS: dict[Attention, str] = {
    "torch": "native",
    "cudnn": "_native_cudnn",
    "flash": "flash",
    "flash3": "_flash_3",
    "sage": "sage",
}
"""diffusers' names: torch's own choice, cuDNN, FlashAttention 2 and 3, SageAttention (int8, less exact)."""
PACKAGES: dict[Attention, tuple[str, str]] = {
    "flash": (
        "_CAN_USE_FLASH_ATTN",
        "flash-attn 2.6.3 or later (pip install flash-attn --no-build-isolation)",
    ),
    "flash3": ("_CAN_USE_FLASH_ATTN_3", "flash_attn_3 (folder hopper of FlashAttention's repository)"),
    "sage": ("_CAN_USE_SAGE_ATTN", "sageattention 2.1.1 or later (its repository; PyPI has an older one)"),
}
"""What diffusers found out about a package, and what to install."""


def check_attention(attention: Attention, device: str) -> None:
    """Raise ValueError, a sentence, unless attention by this name can be computed on the device."""
    if attention == "torch":
        return
    if torch.device(device).type != "cuda":
        raise ValueError(f"Attention by {attention} needs an NVIDIA GPU: take torch on {device}.")
    found, package = PACKAGES.get(attention, ("", ""))
    if found and not getattr(attention_dispatch, found):
        raise ValueError(f"Attention by {attention} needs the package {package}: install it, or take torch.")
    if attention == "cudnn" and not torch.backends.cudnn.is_available():
        raise ValueError(
            "Attention by cudnn needs a torch that is built with cuDNN: install one, or take torch."
        )
