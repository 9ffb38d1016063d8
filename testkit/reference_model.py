"""A small transformer, and the network as the authors' formula has it: slow, plain, in float64, one video at a time.

Every token has a modulation of its own, attention is written out with a mask of all pairs, and sharing attends twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional

from posegen.model.transformer import PoseGenTransformer3DModel

Attention = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Inputs = dict[str, Any]  # tensors, None where the model has no such input

GRID = (3, 4, 3)  # frames, rows and columns of video tokens
VIDEO_TOKENS, REFERENCE_TOKENS = 36, 12
DIM, LATENT_CHANNELS, TEXT_TOKENS = 48, 4, 7


def small_transformer(**config: Any) -> PoseGenTransformer3DModel:
    """Three blocks of 4 heads; what starts at zero is random too, so that every input matters."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "num_attention_heads": 4,
        "attention_head_dim": DIM // 4,
        "in_channels": 2 * LATENT_CHANNELS + 4,
        "out_channels": LATENT_CHANNELS,
        "text_dim": 16,
        "freq_dim": 16,
        "ffn_dim": 64,
        "num_layers": 3,
        "image_dim": 16,
        "added_kv_proj_dim": DIM,
        "reference_channels": LATENT_CHANNELS,
        "hand_channels": LATENT_CHANNELS,
    }
    model = PoseGenTransformer3DModel(**settings | config)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def small_inputs(model: PoseGenTransformer3DModel, batch: int = 1, seed: int = 0) -> Inputs:
    """Inputs for a video of `GRID` tokens, another timestep for each of the batch."""
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    frames, height, width = GRID[0], 2 * GRID[1], 2 * GRID[2]
    return {
        "hidden_states": normal(config.in_channels, frames, height, width),
        "timestep": torch.linspace(900, 300, batch),
        "encoder_hidden_states": normal(TEXT_TOKENS, config.text_dim),
        "encoder_hidden_states_image": normal(5, config.image_dim) if config.image_dim else None,
        "reference_latents": normal(config.reference_channels, 1, height, width),
        "hand_latents": normal(config.hand_channels, frames, height, width) if config.hand_channels else None,
    }


def relative_error(output: torch.Tensor, expected: torch.Tensor) -> float:
    return float((output.double() - expected.double()).norm() / expected.double().norm())


def masked_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, allowed: torch.Tensor | None = None
) -> torch.Tensor:
    """(T, H, D) each; `allowed` says for each pair (query, key) whether it counts."""
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)


@dataclass
class Reference:
    """The network of a model's weights; `cross` keeps queries and text keys of each block's cross-attention."""

    model: PoseGenTransformer3DModel

    def __post_init__(self) -> None:
        self.weights = {name: tensor.double() for name, tensor in self.model.state_dict().items()}
        self.config = self.model.config
        self.heads = self.config.num_attention_heads
        self.cross: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, inputs: Inputs, item: int = 0, attention: Attention | None = None) -> torch.Tensor:
        """(z, f, h, w) for one video of the batch; `attention` maps block, q, k, v (T, H, D) to (T, H, D)."""
        one: Inputs = {
            name: None if value is None else value[item].double() for name, value in inputs.items()
        }
        attention = attention or (lambda block, query, key, value: masked_attention(query, key, value))
        video = self.patches("patch_embedding", one["hidden_states"])
        if one["hand_latents"] is not None:
            video = video + self.hands(one["hand_latents"])
        tokens = torch.cat([video, self.patches("reference_patch_embedding", one["reference_latents"])])
        times = torch.full((len(tokens),), float(one["timestep"]), dtype=torch.float64)
        times[len(video) :] = 0
        embedded = self.time(times)
        modulations = self.linear("condition_embedder.time_proj", functional.silu(embedded)).unflatten(
            1, (6, -1)
        )
        self.cross.clear()
        for block in range(self.config.num_layers):
            tokens = self.block(block, tokens, modulations, len(video), one, attention)
        return self.head(tokens[: len(video)], embedded[: len(video)])

    def block(
        self,
        block: int,
        tokens: torch.Tensor,
        modulations: torch.Tensor,
        video: int,
        inputs: dict[str, Any],
        attention: Attention,
    ) -> torch.Tensor:
        name = f"blocks.{block}"
        table = self.weights[f"{name}.scale_shift_table"] + modulations
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = table.unbind(1)
        states = self.norm(tokens) * (1 + scale) + shift
        query, key, value = (self.project(f"{name}.attn1", letter, states) for letter in "qkv")
        output = attention(block, self.rotate(query), self.rotate(key), value)
        tokens = tokens + gate * self.linear(f"{name}.attn1.to_out.0", output.flatten(1))
        seen = self.cross_attention(f"{name}.attn2", self.norm(tokens[:video], f"{name}.norm2"), inputs)
        tokens = torch.cat([tokens[:video] + seen, tokens[video:]])
        states = self.norm(tokens) * (1 + ffn_scale) + ffn_shift
        states = functional.gelu(self.linear(f"{name}.ffn.net.0.proj", states), approximate="tanh")
        return tokens + ffn_gate * self.linear(f"{name}.ffn.net.2", states)

    def cross_attention(self, name: str, states: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        embedder = "condition_embedder.text_embedder"
        text = functional.gelu(
            self.linear(f"{embedder}.linear_1", inputs["encoder_hidden_states"]), approximate="tanh"
        )
        text = self.linear(f"{embedder}.linear_2", text)
        query, key = self.project(name, "q", states), self.project(name, "k", text)
        self.cross.append((query, key))
        output = masked_attention(query, key, self.project(name, "v", text))
        if inputs["encoder_hidden_states_image"] is not None:
            image = self.image(inputs["encoder_hidden_states_image"])
            key = self.rms(f"{name}.norm_added_k", self.linear(f"{name}.add_k_proj", image))
            value = self.linear(f"{name}.add_v_proj", image)
            output = output + masked_attention(query, self.split(key), self.split(value))
        return self.linear(f"{name}.to_out.0", output.flatten(1))

    def image(self, states: torch.Tensor) -> torch.Tensor:
        name = "condition_embedder.image_embedder"
        states = self.linear(f"{name}.ff.net.0.proj", self.norm(states, f"{name}.norm1", 1e-5))
        return self.norm(self.linear(f"{name}.ff.net.2", functional.gelu(states)), f"{name}.norm2", 1e-5)

    def time(self, times: torch.Tensor) -> torch.Tensor:
        half = self.config.freq_dim // 2
        angles = torch.outer(times, 10_000 ** (-torch.arange(half, dtype=torch.float64) / half))
        states = torch.cat([angles.cos(), angles.sin()], dim=1)
        embedder = "condition_embedder.time_embedder"
        return self.linear(
            f"{embedder}.linear_2", functional.silu(self.linear(f"{embedder}.linear_1", states))
        )

    def head(self, states: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        shift, scale = (self.weights["scale_shift_table"][0, index] + embedded for index in (0, 1))
        patches = self.linear("proj_out", self.norm(states) * (1 + scale) + shift)
        frames, rows, columns = GRID
        video = patches.view(frames, rows, columns, 2, 2, -1).permute(5, 0, 1, 3, 2, 4)
        return video.reshape(-1, frames, 2 * rows, 2 * columns)

    def hands(self, latents: torch.Tensor) -> torch.Tensor:
        if not self.config.hand_projection:
            return self.patches("hand_patch_embedding", latents)
        states = self.patches("hand_patch_embedding.0", latents)
        weight = self.weights["hand_patch_embedding.1.weight"].flatten(1)
        return states @ weight.T + self.weights["hand_patch_embedding.1.bias"]

    def patches(self, name: str, latents: torch.Tensor) -> torch.Tensor:
        channels, frames, height, width = latents.shape
        cut = latents.reshape(channels, frames, height // 2, 2, width // 2, 2).permute(1, 2, 4, 0, 3, 5)
        weight = self.weights[f"{name}.weight"].flatten(1)
        return cut.reshape(-1, 4 * channels) @ weight.T + self.weights[f"{name}.bias"]

    def project(self, attention: str, letter: str, states: torch.Tensor) -> torch.Tensor:
        states = self.linear(f"{attention}.to_{letter}", states)
        return self.split(states if letter == "v" else self.rms(f"{attention}.norm_{letter}", states))

    def rotate(self, states: torch.Tensor) -> torch.Tensor:
        """Frames, rows and columns turn a part of the channels each; the picture stands left of the video."""
        places = [
            (frame, row, column)
            for frame in range(GRID[0])
            for row in range(GRID[1])
            for column in range(GRID[2])
        ]
        left = GRID[2] if self.config.shift_reference else 0
        places += [(0, row, column - left) for row in range(GRID[1]) for column in range(GRID[2])]
        channels = states.shape[-1]
        small = 2 * (channels // 6)
        angles = []
        for axis, size in enumerate((channels - 2 * small, small, small)):
            speed = 10_000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
            angles.append(torch.outer(torch.tensor([place[axis] for place in places]).double(), speed))
        turn = torch.cat(angles, dim=1)[:, None]
        pairs = torch.view_as_complex(states.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(turn), turn)).flatten(-2)

    def split(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(1, (self.heads, -1))  # (T, C) -> (T, H, D)

    def linear(self, name: str, states: torch.Tensor) -> torch.Tensor:
        return states @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, states: torch.Tensor, name: str | None = None, eps: float = 1e-6) -> torch.Tensor:
        weight, bias = (self.weights[f"{name}.{kind}"] if name else None for kind in ("weight", "bias"))
        return functional.layer_norm(states, states.shape[-1:], weight, bias, eps)

    def rms(self, name: str, states: torch.Tensor) -> torch.Tensor:
        return states * (states.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weights[f"{name}.weight"]
