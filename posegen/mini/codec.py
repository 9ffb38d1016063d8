"""A video autoencoder that trains on a CPU, with the interface and the strides of Wan's.

Latents are linear, the leading principal components of 8x8 pixels (first frame) or of 8x8 pixels of four
frames, and decoding is the transposed basis: neither half needs training. Nothing is whitened: one number scales all
channels, so an error in the latents weighs what the same error weighs in pixels.

Both bases span the same directions in the same order: a still picture has nearly the same latents as a first frame and
later on. A latent frame is decoded alone, so nothing depends on later frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

SPACE, TIME = 8, 4
FIRST = (1, SPACE, SPACE)
GROUP = (TIME, SPACE, SPACE)
STILL = TIME**0.5
"""A still picture's components over four frames are this many times its components over one."""


class PrincipalVideoCodec(ModelMixin, ConfigMixin):
    """Video (B, 3, 4k + 1, H, W) in -1..1 <-> latents (B, z_dim, k + 1, H / 8, W / 8).

    latents_mean, latents_std (one number for each channel): a caller normalises by them, as with Wan's
    autoencoder.
    """

    linear = True
    """Decoding costs next to nothing, see `posegen.longvideo.preview`."""

    @register_to_config
    def __init__(
        self,
        z_dim: int = 48,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        scale_factor_spatial: int = SPACE,
        scale_factor_temporal: int = TIME,
    ) -> None:
        super().__init__()
        if (scale_factor_spatial, scale_factor_temporal) != (SPACE, TIME):
            raise ValueError(f"The codec's strides are {SPACE} in space and {TIME} in time, no others.")
        self.register_buffer("first_basis", torch.zeros(z_dim, 3, *FIRST))
        self.register_buffer("group_basis", torch.zeros(z_dim, 3, *GROUP))

    @classmethod
    def fit(cls, videos: Iterable[Tensor], z_dim: int = 48) -> PrincipalVideoCodec:
        """The codec of some videos' principal components.

        videos: any number of (B, 3, 4k + 1, H, W) in -1..1, k at least 1, gone through twice.
        """
        videos = list(videos)
        first = _principal(torch.cat([_rows(video[:, :, :1], FIRST) for video in videos]), z_dim)
        group = _principal(torch.cat([_rows(video[:, :, 1:], GROUP) for video in videos]), z_dim)
        codec = cls(z_dim)
        codec.group_basis.copy_(group.T.reshape(codec.group_basis.shape))
        codec.first_basis.copy_(_aligned(first, codec.group_basis).T.reshape(codec.first_basis.shape))
        latents = torch.cat([codec.encode(v).latent_dist.mode().movedim(1, -1).flatten(0, 3) for v in videos])
        mean = latents.mean(0)
        std = (latents - mean).square().mean().sqrt().item()
        codec.register_to_config(latents_mean=mean.tolist(), latents_std=[std] * z_dim)
        return codec

    def encode(
        self, x: Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[IdentityDistribution]:
        """Latents of a video (B, 3, 4k + 1, H, W) in -1..1; H and W multiples of 8."""
        frames, height, width = x.shape[2:]
        if frames % TIME != 1 or height % SPACE or width % SPACE:
            raise ValueError(
                f"A video of {frames} frames of {width}x{height} cannot be encoded: "
                f"give 4k + 1 frames, and width and height in multiples of {SPACE}."
            )
        latents = STILL * _components(x[:, :, :1], self.first_basis)
        if frames > 1:
            latents = torch.cat([latents, _components(x[:, :, 1:], self.group_basis)], dim=2)
        distribution = IdentityDistribution(latents)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Video (B, 3, 4k + 1, H, W), cut to -1..1, of latents (B, z_dim, k + 1, H / 8, W / 8)."""
        video = _pixels(z[:, :, :1] / STILL, self.first_basis)
        if z.shape[2] > 1:
            video = torch.cat([video, _pixels(z[:, :, 1:], self.group_basis)], dim=2)
        video = video.clamp(-1, 1)
        return DecoderOutput(sample=video) if return_dict else (video,)


def _pixels(latents: Tensor, basis: Tensor) -> Tensor:
    """A video (B, 3, t f, H, W) of latents (B, z, f, h, w): the inverse of `_components` in their span."""
    patches = latents.movedim(1, -1) @ basis.flatten(1)  # (B, f, h, w, 3 * t * 8 * 8)
    patches = patches.unflatten(-1, basis.shape[1:]).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return patches.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _components(video: Tensor, basis: Tensor) -> Tensor:
    """Latents (B, z, f, h, w) of a video's patches; a matrix product, as a CPU is slow at convolutions with strides."""
    return (_patches(video, basis.shape[2:]) @ basis.flatten(1).T).movedim(-1, 1)


def _patches(video: Tensor, patch: Sequence[int]) -> Tensor:
    """Every patch of a video as a row, (B, f, h, w, 3 * patch pixels)."""
    for axis, size in enumerate(patch):
        video = video.unflatten(2 + 2 * axis, (-1, size))
    return video.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def _rows(video: Tensor, patch: Sequence[int]) -> Tensor:
    """Every patch of a video as a row of one matrix."""
    return _patches(video, patch).flatten(0, 3)


def _principal(rows: Tensor, count: int) -> Tensor:
    """Orthonormal columns (features, count), the strongest first; not centred, so that grey is the origin."""
    _, directions = torch.linalg.eigh((rows.T @ rows).double())
    return directions.flip(1)[:, :count].to(rows.dtype)


def _aligned(first: Tensor, group_basis: Tensor) -> Tensor:
    """The same span, turned so that a still picture gets the components it has as a group (Procrustes)."""
    still = group_basis.sum(2).flatten(1).T / STILL  # (3 * 8 * 8, z): components of a picture repeated
    left, _, right = torch.linalg.svd(first.T @ still)
    return first @ left @ right
