"""What generating costs, before anything is loaded: floating-point operations, parameters, bytes.

All are closed formulas of a transformer's config and the video's size, in plain Python. Operations are those of matrix
products, 2 m n k each, as torch's own counter has them; norms, activations and rotations are left out. Bytes of
activations are those of the eager code with a fused attention, whose block was followed tensor by tensor on torch's
meta device; test_costs.py does so again, and fails where a formula is below what the code holds or more than a fifth
above. CUDA's context, its libraries' workspaces and the allocator's gaps come on top: leave a tenth of the device free.
All bytes are of one process.

`config` is that of a `PoseGenTransformer3DModel` (its `config.json`); sizes are pixels, frames 4 k + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

Config = Mapping[str, Any]

STRIDES = (4, 8, 8)  # of the VAE in frames, rows and columns; the first frame stands alone
FLOAT32 = 4  # bytes

# Dense bf16 operations a second by what `torch.cuda.get_device_name` says, the first match counts. From NVIDIA's data
# sheets of the A100, H100, H200 and L40S (halved where they are given "with sparsity") and, with float32 accumulation,
# the Ada architecture's white paper for the RTX 4090.
PEAK_FLOPS: dict[str, float] = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}


def peak_flops(device_name: str) -> float | None:
    """A GPU's dense bf16 operations a second, None for one that is not listed."""
    return next((flops for name, flops in PEAK_FLOPS.items() if name in device_name), None)


def tokens(config: Config, frames: int, height: int, width: int) -> tuple[int, int]:
    """How many video and reference tokens a segment has.

    Raises `ValueError` for a size that the VAE's strides and the patches do not divide.
    """
    patch_frames, *patch = config["patch_size"]
    unit = [stride * size for stride, size in zip(STRIDES[1:], patch, strict=True)]
    latent_frames = (frames - 1) // STRIDES[0] + 1
    if frames % STRIDES[0] != 1 or latent_frames % patch_frames or height % unit[0] or width % unit[1]:
        raise ValueError(
            f"a segment of {frames} frames of {width}x{height} does not divide into tokens; choose 4 k + 1 frames, "
            f"a width in multiples of {unit[1]} and a height in multiples of {unit[0]}"
        )
    picture = height // unit[0] * (width // unit[1])
    return latent_frames // patch_frames * picture, picture


def parameters(config: Config) -> int:
    """How many numbers the transformer's weights hold, without adapters."""
    dim, ffn, image_dim = model_dim(config), config["ffn_dim"], config["image_dim"]
    block = 2 * (4 * _linear(dim, dim) + 2 * dim)  # self- and cross-attention, each with two norms
    block += _linear(dim, ffn) + _linear(ffn, dim) + 6 * dim + (2 * dim if config["cross_attn_norm"] else 0)
    if config["added_kv_proj_dim"] is not None:
        block += 2 * _linear(config["added_kv_proj_dim"], dim) + dim
    total = config["num_layers"] * block
    total += _linear(config["freq_dim"], dim) + _linear(dim, dim) + _linear(dim, 6 * dim)  # time
    total += _linear(config["text_dim"], dim) + _linear(dim, dim)
    if image_dim is not None:
        total += 2 * image_dim + _linear(image_dim, image_dim) + _linear(image_dim, dim) + 2 * dim
        total += (config["pos_embed_seq_len"] or 0) * image_dim
    total += sum(_linear(channels, dim) for channels in _patches(config))
    if config["hand_channels"] is not None and config["hand_projection"]:
        total += _linear(dim, dim)
    return total + _linear(dim, _patch(config) * config["out_channels"]) + 2 * dim


def float32_parameters(config: Config) -> int:
    """How many of them stay float32 whatever the model's dtype: of the time embedding, modulation and affine norms."""
    dim, image_dim = model_dim(config), config["image_dim"]
    block = 6 * dim + (2 * dim if config["cross_attn_norm"] else 0)
    total = _linear(config["freq_dim"], dim) + _linear(dim, dim) + 2 * dim + config["num_layers"] * block
    return total + (0 if image_dim is None else 2 * (image_dim + dim))


def block_linears(config: Config) -> int:
    """How many numbers the matrices of the blocks' linear layers hold, those that are quantised."""
    dim, added = model_dim(config), config["added_kv_proj_dim"] or 0
    return config["num_layers"] * (8 * dim**2 + 2 * dim * config["ffn_dim"] + 2 * added * dim)


@dataclass(frozen=True)
class Pass:
    """What goes through a transformer at once: a batch of segments of one size in pixels, with text and CLIP tokens.

    config: the transformer's; itemsize: bytes of the numbers that it computes in.
    """

    config: Config
    frames: int
    height: int
    width: int
    batch: int = 1
    text_tokens: int = 512
    image_tokens: int = 257
    itemsize: int = 2

    @property
    def tokens(self) -> tuple[int, int]:
        """Those of one segment's video and of its reference."""
        return tokens(self.config, self.frames, self.height, self.width)


def flops_per_forward(one: Pass) -> int:
    """Operations of one pass, hands included where the model has them; guidance takes two passes.

    With v video, r reference, t text and i CLIP tokens, d channels, m in the feed-forward network and p numbers in a
    patch: `blocks * block_flops` + 2 d (v p_in + r p_reference + v p_hand + v p_out) + 2 t d (text_dim + d)
    + 2 i image_dim (image_dim + d) + 4 d (freq_dim + d + 6 d), the last for the timesteps of video and reference.
    """
    config, (video, reference), context = one.config, one.tokens, (one.text_tokens, one.image_tokens)
    blocks = config["num_layers"] * block_flops(config, video, reference, *context)
    return one.batch * (blocks + patch_flops(config, video, reference) + context_flops(config, *context))


def block_flops(
    config: Config, video: int, reference: int, text_tokens: int = 512, image_tokens: int = 257
) -> int:
    """Operations of one transformer block: with n = v + r, 8 n d^2 (queries, keys, values, output of self-attention)
    + 4 n^2 d (its scores and sums) + 4 v d^2 + 4 (t + i) d^2 (projections of cross-attention) + 4 v (t + i) d
    + 4 n d m (feed-forward). Letters as in `flops_per_forward`.

    Sharing changes nothing: each query attends once. A reader of a record of attention inputs adds 4 n d^2.
    """
    linear, context, attention = split_block_flops(config, video, reference, text_tokens, image_tokens)
    return linear + context + attention


def activation_bytes(one: Pass) -> int:
    """The most that tensors between the weights take in a pass without gradients.

    Of n tokens with d channels: six streams and three float32 ones around a modulated norm, or five streams and the
    feed-forward's m channels before and after its activation, whichever is more; besides, the rotary table (kept and
    joined: 16 bytes for each token and channel of a head) and the text's embeddings.
    """
    dim, ffn, count = model_dim(one.config), one.config["ffn_dim"], sum(one.tokens)
    modulating = (6 * one.itemsize + 3 * FLOAT32) * dim
    feeding = (5 * dim + 2 * ffn) * one.itemsize
    context = (one.text_tokens + one.image_tokens) * dim * (4 * one.itemsize + FLOAT32)
    return one.batch * (count * max(modulating, feeding) + context) + rotary_bytes(one.config, count)


def decode_bytes(
    vae_config: Config,
    frames: int,
    height: int,
    width: int,
    itemsize: int = FLOAT32,
    tile: tuple[int, int] | None = None,
) -> int:
    """The most that decoding a segment takes beside the VAE's weights.

    `AutoencoderKLWan` goes through a segment one latent at a time, four frames at full resolution in `base_dim`
    channels; with what its convolutions remember of the frames before, 13 such tensors (10 in a much smaller decoder
    than Wan's). The video comes twice on top while it grows. With a tile (height, width), only that much is decoded at
    once, and joining the tiles, which overlap by a quarter, takes five videos (4.7 at 1280x720, 4.8 at 832x480).
    Another VAE's working set is not known here: only its video is counted.
    """
    video = 3 * frames * height * width * itemsize
    if "base_dim" not in vae_config:
        return video
    rows, columns = (height, width) if tile is None else (min(tile[0], height), min(tile[1], width))
    channels = vae_config.get("decoder_base_dim") or vae_config["base_dim"]
    decoding = 13 * channels * STRIDES[0] * rows * columns * itemsize + 2 * video
    return decoding if tile is None else max(decoding, 5 * video)


def generation_memory(
    one: Pass,
    vae_config: Config,
    weights: int = 0,
    decoding_weights: int | None = None,
    record: int = 0,
    tile: tuple[int, int] | None = None,
    overlap: bool = False,
) -> dict[str, int]:
    """Bytes on the device while one segment is generated, by what they hold, and their peak.

    weights: bytes of all weights on the device while it computes, and
    decoding_weights while the VAE does, by default the same. record: bytes of the shared background there
    (`posegen.sharing.SharedRange.nbytes`). The transformer's activations and the VAE's decoding do not meet, so the
    peak has the larger of the two, unless they `overlap`.
    """
    config, frames, height, width = one.config, one.frames, one.height, one.width
    noisy, pose, hands = config["out_channels"], config["in_channels"], config["hand_channels"] or 0
    # float32: the latents, both branches' velocities, their step and preview; the conditions as kept and as cast
    grid = ((frames - 1) // STRIDES[0] + 1) * (height // STRIDES[1]) * (width // STRIDES[2])
    latents = grid * (6 * noisy * FLOAT32 + (pose + hands) * (FLOAT32 + one.itemsize))
    activations = activation_bytes(one)
    decode = decode_bytes(vae_config, frames, height, width, tile=tile)
    parts = {"weights": weights, "record": record, "latents": latents}
    decoding_weights = weights if decoding_weights is None else decoding_weights
    together = weights + activations + decode
    peak = record + latents + (together if overlap else max(weights + activations, decoding_weights + decode))
    return {**parts, "activations": activations, "decode": decode, "peak": peak}


def split_block_flops(
    config: Config, video: int, reference: int, text_tokens: int, image_tokens: int
) -> tuple[int, int, int]:
    """Of one block: its weights' operations on its own tokens, those on text and CLIP tokens, and attention's."""
    dim, ffn, count, context = model_dim(config), config["ffn_dim"], video + reference, text_tokens
    if config["image_dim"] is not None:
        context += image_tokens
    linear = 8 * count * dim**2 + 4 * video * dim**2 + 4 * count * dim * ffn
    return linear, 4 * context * dim**2, 4 * count**2 * dim + 4 * video * context * dim


def patch_flops(config: Config, video: int, reference: int) -> int:
    """Of the patch embeddings and the head."""
    dim = model_dim(config)
    pose, picture, *hands = _patches(config)
    total = 2 * dim * (video * (pose + sum(hands)) + reference * picture)
    if hands and config["hand_projection"]:
        total += 2 * video * dim**2
    return total + 2 * video * dim * _patch(config) * config["out_channels"]


def context_flops(config: Config, text_tokens: int, image_tokens: int) -> int:
    """Of the embeddings of text, CLIP tokens and the two timesteps."""
    dim, image_dim = model_dim(config), config["image_dim"]
    total = 2 * text_tokens * dim * (config["text_dim"] + dim)
    if image_dim is not None:
        total += 2 * image_tokens * image_dim * (image_dim + dim)
    return total + 4 * dim * (config["freq_dim"] + dim + 6 * dim)


def model_dim(config: Config) -> int:
    return config["num_attention_heads"] * config["attention_head_dim"]


def _patch(config: Config) -> int:
    return prod(config["patch_size"])


def _patches(config: Config) -> list[int]:
    """Numbers in a patch of the video with its pose, of the reference and, where the model has them, of the hands."""
    channels = [config["in_channels"], config["reference_channels"], config["hand_channels"]]
    return [_patch(config) * count for count in channels if count is not None]


def _linear(entering: int, leaving: int) -> int:
    """Parameters of a linear layer or a patch embedding."""
    return entering * leaving + leaving


def rotary_bytes(config: Config, count: int) -> int:
    return 16 * count * config["attention_head_dim"]
