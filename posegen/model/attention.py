"""Attention of the transformer's blocks: who attends to whom, and where tokens stand.

- Self-attention is over video and reference tokens as one sequence. What sharing changes of it is behind a protocol;
  it is handed queries, and functions that make keys and values and that attend.
- On a CPU, bf16 attention is plain matrix products: torch's fused one is the slower the more of it is bf16, and at
  lengths that a CPU can do its memory is no concern.
- Rotary positions are real numbers, sines and cosines, which GPUs compute with and compilers fuse as any others. They
  are computed in float64 and kept by shape outside of the model, so nothing that casts or shards a model's buffers can
  damage them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Protocol

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import nn

from posegen.model.context_parallel import context_parallel, gather_tokens, heads_to_tokens, tokens_to_heads

ROTARY_THETA = 10_000.0

Project = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Gather = Callable[[torch.Tensor], torch.Tensor]


class BlockSharing(Protocol):
    """What a block asks of `posegen.sharing` while it runs; `None` in its place means plain attention."""

    def self_attention(
        self, query: torch.Tensor, hidden_states: torch.Tensor, project: Project, attend: Attend
    ) -> torch.Tensor:
        """The output (B, T, H, D) for the query (B, T, H, D) of all video tokens, then all reference tokens.

        `project` turns normalised attention inputs like `hidden_states` (B, T, C) into keys and values (B, T, H, D).
        """
        ...

    def cross_attention(self, query: torch.Tensor, key: torch.Tensor, gather: Gather) -> None:
        """Look at this process's video tokens' queries and the text tokens' keys, (B, tokens, H, D).

        `gather` joins what all processes have for their video tokens, (B, own tokens) -> (B, tokens).
        """
        ...


Sharing = Callable[[int], BlockSharing | None]
"""Of one pass: what each block, by its index, has to do, if anything."""


class SelfAttentionProcessor:
    """Joint self-attention over video and reference tokens, with sharing and context parallelism."""

    # Set by diffusers' set_attention_backend and enable_parallelism.
    _attention_backend: Any = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,  # (B, video + reference tokens, C), modulated
        encoder_hidden_states: None,
        attention_mask: None,
        rotary_emb: torch.Tensor,
        *,
        video_tokens: int,
        sharing: BlockSharing | None = None,
    ) -> torch.Tensor:
        config = context_parallel(self._parallel_config)
        spread = partial(tokens_to_heads, config=config, video_tokens=video_tokens)
        attend = partial(_attend, backend=self._attention_backend)

        def project(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            key = _rotate(_heads(attn, attn.norm_k(attn.to_k(inputs))), rotary_emb)
            return spread(key), spread(_heads(attn, attn.to_v(inputs)))

        query = spread(_rotate(_heads(attn, attn.norm_q(attn.to_q(hidden_states))), rotary_emb))
        if sharing is None:
            output = attend(query, *project(hidden_states))
        else:
            output = sharing.self_attention(query, hidden_states, project, attend)
        output = heads_to_tokens(output, config, video_tokens)
        return attn.to_out[1](attn.to_out[0](output.flatten(2).type_as(hidden_states)))


class CrossAttentionProcessor:
    """Video tokens read the text and, where the model has that branch, the picture's CLIP tokens."""

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,  # (B, own video tokens, C)
        encoder_hidden_states: torch.Tensor,  # (B, text tokens, C)
        attention_mask: None,
        rotary_emb: None,
        *,
        image: torch.Tensor | None = None,  # (B, image tokens, C)
        sharing: BlockSharing | None = None,
    ) -> torch.Tensor:
        attend = partial(_attend, backend=self._attention_backend)
        query = _heads(attn, attn.norm_q(attn.to_q(hidden_states)))
        key = _heads(attn, attn.norm_k(attn.to_k(encoder_hidden_states)))
        if sharing is not None:
            gather = partial(gather_tokens, config=context_parallel(self._parallel_config))
            sharing.cross_attention(query, key, gather)
        output = attend(query, key, _heads(attn, attn.to_v(encoder_hidden_states)))
        if image is not None:
            image_key = _heads(attn, attn.norm_added_k(attn.add_k_proj(image)))
            output = output + attend(query, image_key, _heads(attn, attn.add_v_proj(image)))
        return attn.to_out[1](attn.to_out[0](output.flatten(2).type_as(hidden_states)))


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, backend: Any) -> torch.Tensor:
    """(B, T, H, D) in and out."""
    if backend or query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return dispatch_attention_fn(query, key, value, backend=backend)
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return (scores.float().softmax(-1).type_as(value) @ value).transpose(1, 2)


def _heads(attn: WanAttention, states: torch.Tensor) -> torch.Tensor:
    return states.unflatten(2, (attn.heads, -1))  # (B, T, C) -> (B, T, H, D)


def _rotate(states: torch.Tensor, rotary_emb: torch.Tensor) -> torch.Tensor:
    """Turn each pair of neighbouring channels by its token's angle; (B, T, H, D) in and out."""
    cosines, sines = rotary_emb.chunk(2, dim=-1)
    numbers = states.float()
    swapped = numbers.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return (numbers * cosines).addcmul_(swapped, sines).type_as(states)


class RotaryPositions(nn.Module):
    """Angles of all tokens by frame, row and column; the reference picture stands left of the video.

    Reference tokens have frame 0, rows from 0, and columns -w..-1 where `shift_reference`, else 0..w-1.
    """

    def __init__(self, head_dim: int, patch_size: tuple[int, int, int], shift_reference: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.shift_reference = shift_reference
        spatial = 2 * (head_dim // 6)
        self.channels = (head_dim - 2 * spatial, spatial, spatial)  # of frame, row and column, as in Wan

    def forward(
        self, video_shape: tuple[int, int, int], reference_shape: tuple[int, int, int], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines, then sines of the angles, (1, tokens, 1, 2 head_dim): of the video's and the reference's tokens.

        Each pair of channels has its cosine twice, and its sine negative, then positive. Shapes are (frames, height,
        width) of latents.
        """
        video, reference = self._grid(video_shape), self._grid(reference_shape)
        left = reference[2] if self.shift_reference else 0
        tables = partial(rotary_table, channels=self.channels, device=device)
        return tables(video), tables(reference, left=left)

    def _grid(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        return tuple(size // patch for size, patch in zip(shape, self.patch_size, strict=True))


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def rotary_table(
    grid: tuple[int, ...], channels: tuple[int, int, int], device: torch.device, left: int = 0
) -> torch.Tensor:
    """See `RotaryPositions.forward`; the columns of the grid (frames, rows, columns) begin at -left.

    Kept for further passes, so it must not be written to.
    """
    angles = []
    for axis, (size, count) in enumerate(zip(grid, channels, strict=True)):
        exponents = torch.arange(0, count, 2, dtype=torch.float64, device="cpu") / count
        positions = torch.arange(size, dtype=torch.float64, device="cpu") - (left if axis == 2 else 0)
        shape = [1, 1, 1, -1]
        shape[axis] = size
        angles.append(torch.outer(positions, ROTARY_THETA**-exponents).view(shape).expand(*grid, -1))
    joint = torch.cat(angles, dim=-1).flatten(0, 2)  # (tokens, head_dim / 2)
    cosines, sines = joint.cos().repeat_interleave(2, dim=1), joint.sin()
    table = torch.cat([cosines, torch.stack([-sines, sines], dim=-1).flatten(1)], dim=1)
    return table.to(device, torch.float32)[None, :, None]
