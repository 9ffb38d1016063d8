"""The PoseGen transformer: diffusers' Wan transformer that also sees a reference picture, a pose and hands.

- A subclass, so that everything diffusers offers for Wan (attention backends, PEFT adapters, gradient checkpointing,
  offloading, compilation, loading and saving) works here too; only the blocks' forward and their attention differ.
- Two streams go through the blocks, video tokens and reference tokens. They meet in self-attention only, and each has
  one modulation: that of the current timestep and that of timestep 0. A timestep for every token would say the same
  with 9.7 GB at 720p.
- The second stream is called `encoder_hidden_states` in a block, as First Block Cache knows it by that name only.
- A pass that shares is computed in full, whatever cache is on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from diffusers.utils import apply_lora_scale
from torch import nn

from posegen.model.attention import (
    BlockSharing,
    CrossAttentionProcessor,
    RotaryPositions,
    SelfAttentionProcessor,
    Sharing,
)
from posegen.model.context_parallel import ContextParallelTransformer
from posegen.model.scaled_linear import ScaledLinear


class PoseGenTransformerBlock(WanTransformerBlock):
    """A Wan block for two streams; the parameters are Wan's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attn1.set_processor(SelfAttentionProcessor())
        self.attn2.set_processor(CrossAttentionProcessor())

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        text: torch.Tensor,
        image: torch.Tensor | None,
        temb: torch.Tensor,
        reference_temb: torch.Tensor,
        rotary_emb: torch.Tensor,
        sharing: BlockSharing | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both streams after this block.

        Shapes: `hidden_states` (B, video tokens, C), `encoder_hidden_states` (B, reference tokens, C), `text` and
        `image` (B, tokens, C), `temb` (B, 6, C), `reference_temb` (1, 6, C).
        """
        video, reference = hidden_states, encoder_hidden_states
        tokens = video.shape[1]
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = _modulation(self.scale_shift_table, temb)
        r_shift, r_scale, r_gate, r_ffn_shift, r_ffn_scale, r_ffn_gate = _modulation(
            self.scale_shift_table, reference_temb
        )

        # 1. Self-attention: both streams as one sequence
        joint = torch.cat(
            [
                _modulate(self.norm1, video, shift, scale),
                _modulate(self.norm1, reference, r_shift, r_scale),
            ],
            dim=1,
        )
        output = self.attn1(joint, None, None, rotary_emb, video_tokens=tokens, sharing=sharing)
        video = _add_gated(video, output[:, :tokens], gate)
        reference = _add_gated(reference, output[:, tokens:], r_gate)

        # 2. Cross-attention: video only
        normalised = self.norm2(video.float()).type_as(video)
        video = video + self.attn2(normalised, text, None, None, image=image, sharing=sharing)

        # 3. Feed-forward: one call, so that a module is loaded, gathered or offloaded once
        joint = torch.cat(
            [
                _modulate(self.norm3, video, ffn_shift, ffn_scale),
                _modulate(self.norm3, reference, r_ffn_shift, r_ffn_scale),
            ],
            dim=1,
        )
        output = self.ffn(joint)
        video = _add_gated(video, output[:, :tokens], ffn_gate)
        reference = _add_gated(reference, output[:, tokens:], r_ffn_gate)
        return video, reference


def _modulation(table: torch.Tensor, temb: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (table + temb.float()).chunk(6, dim=1)


def _modulate(
    norm: nn.Module, states: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    return torch.addcmul(shift, norm(states.float()), 1 + scale).type_as(states)


def _add_gated(states: torch.Tensor, output: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(states.float(), output.float(), gate).type_as(states)


class PoseGenTransformer3DModel(ContextParallelTransformer):
    """Predicts the velocity (or the clean latents) of a person's video from a picture, a pose and a text.

    Beyond Wan's arguments: `reference_channels` and `hand_channels` are the latent channels of the reference picture
    and the hand video (`hand_channels=None`: no hands), `hand_projection` puts a 1x1x1 convolution behind the hand
    patches, `shift_reference` places the picture left of the video, and `prediction` says what the output is:
    `"velocity"` (noise - clean) or `"sample"` (clean). `in_channels` counts noisy latents, the 4-channel frame mask and
    the pose latents.
    """

    _no_split_modules: list[str] = ["PoseGenTransformerBlock"]  # noqa: RUF012 - diffusers' own class attributes
    _repeated_blocks: list[str] = ["PoseGenTransformerBlock"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = 1280,
        added_kv_proj_dim: int | None = 5120,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        reference_channels: int = 16,
        hand_channels: int | None = 16,
        hand_projection: bool = False,
        shift_reference: bool = True,
        prediction: str = "velocity",
    ) -> None:
        inner_dim = num_attention_heads * attention_head_dim
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=0,  # Wan's blocks would be made only to be replaced
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
        )
        self.register_to_config(num_layers=num_layers)
        if prediction not in ("velocity", "sample"):
            raise ValueError(f"prediction {prediction!r} is not known; use 'velocity' or 'sample'")
        self.rope = RotaryPositions(attention_head_dim, patch_size, shift_reference)
        self.blocks = nn.ModuleList(
            PoseGenTransformerBlock(
                inner_dim, ffn_dim, num_attention_heads, qk_norm, cross_attn_norm, eps, added_kv_proj_dim
            )
            for _ in range(num_layers)
        )
        patches = partial(nn.Conv3d, kernel_size=patch_size, stride=patch_size)
        self.reference_patch_embedding = patches(reference_channels, inner_dim)
        self.hand_patch_embedding: nn.Module | None = None
        if hand_channels is not None:
            # Zero, so that hands change nothing until they are trained.
            last = _zero(
                nn.Conv3d(inner_dim, inner_dim, 1) if hand_projection else patches(hand_channels, inner_dim)
            )
            self.hand_patch_embedding = (
                nn.Sequential(patches(hand_channels, inner_dim), last) if hand_projection else last
            )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> PoseGenTransformer3DModel:
        """Load a PoseGen transformer, or a plain Wan image-to-video one, which gets its missing embeddings.

        Arguments are those of diffusers' `ModelMixin.from_pretrained`.
        """
        where = {
            name: kwargs[name] for name in ("subfolder", "revision", "cache_dir", "token") if name in kwargs
        }
        config = cls.load_config(pretrained_model_name_or_path, **where)
        kind = config.get("_class_name", cls.__name__)
        if kind not in (cls.__name__, WanTransformer3DModel.__name__):
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a {kind}; give a PoseGen transformer or one of Wan 2.1 "
                "image-to-video"
            )
        if kind == WanTransformer3DModel.__name__:
            return cls.from_wan(
                WanTransformer3DModel.from_pretrained(pretrained_model_name_or_path, **kwargs)
            )
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_wan(cls, wan: WanTransformer3DModel, **config: Any) -> PoseGenTransformer3DModel:
        """A PoseGen transformer on a plain Wan image-to-video one, whose tensors it takes over without a copy.

        Wan's channels for the given picture become those of the pose. Reference patches start so that the reference is
        to Wan what a given frame without noise is, hand patches at zero. `config` sets arguments that Wan lacks.
        """
        channels = wan.config.out_channels
        if wan.config.in_channels != 2 * channels + 4:
            raise ValueError(
                f"a Wan transformer with {wan.config.in_channels} input channels is not an image-to-video one, which "
                f"has {2 * channels + 4} for {channels} latent channels; take the I2V weights"
            )
        config = {"reference_channels": channels, "hand_channels": channels, **config}
        arguments = signature(cls.__init__).parameters
        known = {name: value for name, value in wan.config.items() if name in arguments}
        with torch.device("meta"):
            model = cls(**known | config)
        for name in ("hf_quantizer", "is_quantized", "quantization_method"):
            if (value := getattr(wan, name, None)) is not None:
                setattr(model, name, value)  # as diffusers marks a quantised model
        linears = {name: part for name, part in wan.named_modules() if isinstance(part, nn.Linear)}
        for name, linear in linears.items():
            model.set_submodule(name, linear)  # quantised ones are of classes of their own
        others = {
            name: part for name, part in wan.state_dict().items() if name.rpartition(".")[0] not in linears
        }
        model.load_state_dict(others, strict=False, assign=True)
        patches = wan.patch_embedding
        noisy, mask, given = patches.weight.detach().split([channels, 4, channels], dim=1)
        started = {
            "reference_patch_embedding.weight": noisy + given,
            "reference_patch_embedding.bias": patches.bias.detach() + mask.sum((1, 2, 3, 4)),
        }
        for name, parameter in model.named_parameters():
            if name.startswith("hand_patch_embedding"):
                started[name] = torch.zeros(
                    parameter.shape, dtype=patches.weight.dtype, device=patches.weight.device
                )
        if config.get("hand_projection"):
            # The projection alone is zero: were both, no gradient would reach either.
            started["hand_patch_embedding.0.weight"] = started["reference_patch_embedding.weight"].clone()
        model.load_state_dict(started, strict=False, assign=True)
        return model.train(wan.training)

    def save_pretrained(
        self, save_directory: str | Path, *, variant: str | None = None, **kwargs: Any
    ) -> None:
        """Write the transformer to a folder, as diffusers does; ValueError where its weights are quantised."""
        if any(isinstance(module, ScaledLinear) for module in self.modules()):
            raise ValueError(
                "Weights of fp8 or int8 with scales cannot be saved; keep the file that they came from, or load one "
                "that is not quantised"
            )
        super().save_pretrained(save_directory, variant=variant, **kwargs)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor | None = None,
        reference_latents: torch.Tensor | None = None,
        hand_latents: torch.Tensor | None = None,
        sharing: Sharing | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """One pass; the output's `sample` is (B, z, f, h, w).

        Args:
            hidden_states: (B, z + 4 + z, f, h, w): noisy latents, frame mask, pose latents; h and w even.
            timestep: (B,), 0 (clean) to 1000 (noise).
            encoder_hidden_states: text, (B, text tokens, text_dim).
            encoder_hidden_states_image: CLIP tokens, (B, image tokens, image_dim), for a model with `image_dim`.
            reference_latents: (B, z, 1, h, w); required.
            hand_latents: (B, z, f, h, w); without it the hands are left to the pose.
            sharing: what `posegen.sharing` does in this pass.
            attention_kwargs: `{"scale": s}` scales the adapters' part.
        """
        if reference_latents is None:
            raise ValueError("reference_latents are missing; encode the reference picture with the VAE")
        video_shape = tuple(hidden_states.shape[2:])
        video = self.patch_embedding(hidden_states)
        if hand_latents is not None and self.hand_patch_embedding is not None:
            video = video + self.hand_patch_embedding(hand_latents)
        video = _tokens(video)
        reference = _tokens(self.reference_patch_embedding(reference_latents))
        self._require_parts(video, reference)
        reference_shape = tuple(reference_latents.shape[2:])
        rotary_emb = torch.cat(self.rope(video_shape, reference_shape, video.device), dim=1)

        # One more timestep, 0, for the reference tokens of the whole batch
        timestep = torch.cat([timestep, timestep.new_zeros(1)])
        temb, projected, text, image = self.condition_embedder(
            timestep, encoder_hidden_states, encoder_hidden_states_image
        )
        modulation, reference_modulation = projected.unflatten(1, (6, -1)).split([len(timestep) - 1, 1])

        with self._in_full(sharing):
            for index, block in enumerate(self.blocks):
                arguments = (
                    video,
                    reference,
                    text,
                    image,
                    modulation,
                    reference_modulation,
                    rotary_emb,
                    None if sharing is None else sharing(index),
                )
                if torch.is_grad_enabled() and self.gradient_checkpointing:
                    video, reference = self._gradient_checkpointing_func(block, *arguments)
                else:
                    video, reference = block(*arguments)

        output = self._head(video, temb[:-1], video_shape)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    @contextmanager
    def _in_full(self, sharing: Sharing | None) -> Iterator[None]:
        """A pass that shares skips no block: what a cache leaves out would be missing in the record."""
        if sharing is None:
            yield
            return
        self._reset_stateful_cache()
        with self.cache_context("sharing"):
            yield

    def _head(self, video: torch.Tensor, temb: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """(B, video tokens, C) -> (B, z, f, h, w)."""
        shift, scale = (self.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        patches = self.proj_out(_modulate(self.norm_out, video, shift, scale))
        grid = [size // patch for size, patch in zip(shape, self.config.patch_size, strict=True)]
        patches = patches.unflatten(2, (*self.config.patch_size, -1)).unflatten(1, grid)
        # (B, f, h, w, pf, ph, pw, z) -> (B, z, f, pf, h, ph, w, pw)
        patches = patches.permute(0, 7, 1, 4, 2, 5, 3, 6)
        return patches.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _zero(convolution: nn.Conv3d) -> nn.Conv3d:
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution


def _tokens(patches: torch.Tensor) -> torch.Tensor:
    return patches.flatten(2).transpose(1, 2).contiguous()  # (B, C, f, h, w) -> (B, tokens, C)


TransformerBlockRegistry.register(
    model_class=PoseGenTransformerBlock,
    metadata=TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=1),
)
