"""A video autoencoder that trains on a CPU, with the interface and the strides of Wan's.

Latents are linear, the leading principal components of 8x8 pixels (first frame) or of 8x8 pixels of four frames, so the
encoder needs no training; the decoder is the transposed basis and a small learnt convolutional refiner behind it.
Nothing is whitened: one number scales all channels, so an error in the latents weighs what the same error weighs in
pixels.

Both bases span the same directions in the same order: a still picture has nearly the same latents as a first frame and
later on. The refiner looks back one latent frame, never ahead: what is decoded does not depend on later frames.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

SPACE, TIME = 8, 4
FIRST = (1, SPACE, SPACE)
GROUP = (TIME, SPACE, SPACE)
STILL = TIME**0.5
"""A still picture's components over four frames are this many times its components over one."""


class PrincipalVideoCodec(ModelMixin, ConfigMixin):
    """Video (B, 3, 4k + 1, H, W) in -1..1 <-> latents (B, z_dim, k + 1, H / 8, W / 8).

    latents_mean, latents_std (one number for each channel): a caller normalises by them, as with Wan's
    autoencoder. refiner_width, refiner_blocks: channels and residual blocks of the decoder's refiner.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 48,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        refiner_width: int = 48,
        refiner_blocks: int = 3,
        scale_factor_spatial: int = SPACE,
        scale_factor_temporal: int = TIME,
    ) -> None:
        super().__init__()
        if (scale_factor_spatial, scale_factor_temporal) != (SPACE, TIME):
            raise ValueError(f"The codec's strides are {SPACE} in space and {TIME} in time, no others.")
        self.register_buffer("first_basis", torch.zeros(z_dim, 3, *FIRST))
        self.register_buffer("group_basis", torch.zeros(z_dim, 3, *GROUP))
        self.refiner = Refiner(refiner_width, refiner_blocks)

    @classmethod
    def fit(cls, videos: Iterable[Tensor], z_dim: int = 48, **config: int) -> PrincipalVideoCodec:
        """The codec of some videos' principal components, its refiner untrained.

        videos: any number of (B, 3, 4k + 1, H, W) in -1..1, k at least 1, gone through twice.
        """
        videos = list(videos)
        first = _principal(torch.cat([_rows(video[:, :, :1], FIRST) for video in videos]), z_dim)
        group = _principal(torch.cat([_rows(video[:, :, 1:], GROUP) for video in videos]), z_dim)
        codec = cls(z_dim, **config)
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
        latents = STILL * functional.conv3d(x[:, :, :1], self.first_basis, stride=FIRST)
        if frames > 1:
            groups = functional.conv3d(x[:, :, 1:], self.group_basis, stride=GROUP)
            latents = torch.cat([latents, groups], dim=2)
        distribution = IdentityDistribution(latents)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Video (B, 3, 4k + 1, H, W), cut to -1..1, of latents (B, z_dim, k + 1, H / 8, W / 8)."""
        video = self.refine(self.project(z)).clamp(-1, 1)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def project(self, z: Tensor) -> Tensor:
        """The linear half of decoding: the components' sum, not cut to -1..1."""
        video = functional.conv_transpose3d(z[:, :, :1] / STILL, self.first_basis, stride=FIRST)
        if z.shape[2] > 1:
            groups = functional.conv_transpose3d(z[:, :, 1:], self.group_basis, stride=GROUP)
            video = torch.cat([video, groups], dim=2)
        return video

    def refine(self, video: Tensor) -> Tensor:
        """The learnt half of decoding: takes and gives a video (B, 3, 4k + 1, H, W), not cut to -1..1."""
        still = video[:, :, :1].expand(-1, -1, TIME - 1, -1, -1)
        return video + self.refiner(torch.cat([still, video], dim=2))[:, :, TIME - 1 :]


class Refiner(nn.Module):
    """What the principal components miss, from a video (B, 3, 4f, H, W) of whole groups of four frames.

    Works at half the resolution, the four frames of a group in the channels.
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        pixels = 3 * TIME * 4
        self.entry = CausalConv(pixels, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(CausalConv(width, width), nn.SiLU(), CausalConv(width, width))
            for _ in range(blocks)
        )
        self.exit = nn.Conv3d(width, pixels, 1)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)  # type: ignore[arg-type]

    def forward(self, video: Tensor) -> Tensor:
        groups = video.unflatten(2, (-1, TIME)).permute(0, 2, 1, 3, 4, 5).flatten(2, 3)  # (B, f, 12, H, W)
        hidden = self.entry(
            functional.pixel_unshuffle(groups, 2).movedim(1, 2)
        )  # (B, width, f, H / 2, W / 2)
        for block in self.blocks:
            hidden = hidden + block(functional.silu(hidden))
        groups = functional.pixel_shuffle(self.exit(functional.silu(hidden)).movedim(2, 1), 2)
        return groups.unflatten(2, (3, TIME)).permute(0, 2, 1, 3, 4, 5).flatten(2, 3)


class CausalConv(nn.Conv3d):
    """3x3 pixels of this latent frame and the one before it; before the first frame stands the first again."""

    def __init__(self, entering: int, leaving: int) -> None:
        super().__init__(entering, leaving, (2, 3, 3), padding=(0, 1, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(torch.cat([hidden[:, :, :1], hidden], dim=2))


def _rows(video: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Every patch of a video as a row (patches, 3 * t * h * w)."""
    for axis, size in enumerate(patch):
        video = video.unflatten(2 + 2 * axis, (-1, size))
    return video.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(0, 3).flatten(1)


def _principal(rows: Tensor, count: int) -> Tensor:
    """Orthonormal columns (features, count), the strongest first; not centred, so that grey is the origin."""
    _, directions = torch.linalg.eigh((rows.T @ rows).double())
    return directions.flip(1)[:, :count].to(rows.dtype)


def _aligned(first: Tensor, group_basis: Tensor) -> Tensor:
    """The same span, turned so that a still picture gets the components it has as a group (Procrustes)."""
    still = group_basis.sum(2).flatten(1).T / STILL  # (3 * 8 * 8, z): components of a picture repeated
    left, _, right = torch.linalg.svd(first.T @ still)
    return first @ left @ right
