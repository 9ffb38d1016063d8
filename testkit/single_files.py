"""Single files of a tiny plain Wan under its original names, and what a model of them makes of fixed inputs."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

from posegen.model.checkpoints import published_name
from posegen.model.transformer import PoseGenTransformer3DModel

TEXT_DIM, IMAGE_DIM = 64, 64


def tiny_wan(
    heads: int = 2, layers: int = 2, text_dim: int = TEXT_DIM, image_dim: int = IMAGE_DIM
) -> WanTransformer3DModel:
    """Wan2.1 image-to-video with few heads, of 128 as ever, and random values everywhere, norms and biases too."""
    torch.manual_seed(0)
    wan = WanTransformer3DModel(
        num_attention_heads=heads,
        in_channels=36,
        text_dim=text_dim,
        ffn_dim=2 * heads * 128,
        num_layers=layers,
        image_dim=image_dim,
        added_kv_proj_dim=heads * 128,
    )
    for parameter in wan.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return wan.eval()


def original_tensors(wan: WanTransformer3DModel) -> dict[str, torch.Tensor]:
    """A Wan model's tensors by its original names, apart from the model's own."""
    return {published_name(name): tensor.clone() for name, tensor in wan.state_dict().items()}


def linear_modules(wan: WanTransformer3DModel) -> list[str]:
    """Original names of the linears that quantised files hold quantised: those in blocks."""
    return [
        published_name(name)
        for name, module in wan.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("blocks.")
    ]


def write(
    path: Path, tensors: dict[str, torch.Tensor], prefix: str = "", header: dict[str, str] | None = None
) -> Path:
    """A safetensors file of these tensors, a prefix before all names."""
    save_file({f"{prefix}{name}": tensor.contiguous() for name, tensor in tensors.items()}, path, header)
    return path


@torch.no_grad()
def output(transformer: PoseGenTransformer3DModel, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What a PoseGen transformer on a tiny Wan makes of fixed inputs, (1, 16, 2, 4, 4) float32."""
    generator = torch.Generator().manual_seed(7)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return transformer(
        noise(1, 36, 2, 4, 4),
        torch.tensor([500.0]),
        noise(1, 3, TEXT_DIM),
        noise(1, 5, IMAGE_DIM),
        reference_latents=noise(1, 16, 1, 4, 4),
    ).sample.float()


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Length of the difference over that of what is expected."""
    return ((found - expected).norm() / expected.norm()).item()


def quantised(
    tensors: dict[str, torch.Tensor], modules: list[str], dtype: torch.dtype, blocks: tuple[int, int] = (0, 0)
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """These tensors with some linears' weights in an 8-bit dtype, by largest magnitude; and the scales, by module.

    blocks: rows and columns of a block, 0 for all there are; scales are (rows, columns) of blocks, float32.
    """
    limit = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    stored, scales = dict(tensors), {}
    for module in modules:
        weight = tensors[f"{module}.weight"].float()
        rows, columns = (step or size for step, size in zip(blocks, weight.shape, strict=True))
        parts = weight.unflatten(0, (-1, rows)).unflatten(2, (-1, columns))  # (blocks, rows, blocks, columns)
        scale = parts.abs().amax((1, 3), keepdim=True) / limit
        values = (parts / scale).flatten(2).flatten(0, 1)
        stored[f"{module}.weight"] = values.round().to(dtype) if dtype == torch.int8 else values.to(dtype)
        scales[module] = scale[:, 0, :, 0]
    return stored, scales


def as_bytes(text: str) -> torch.Tensor:
    """A text as a tensor of its bytes."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)
