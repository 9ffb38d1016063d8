"""What a training step costs: floating-point operations and bytes, as formulas of the transformer's config.

They are counted as those of generation are (`posegen.costs`): only matrix products, and the bytes that eager code with
a fused attention holds. All bytes are of one worker.
"""

from __future__ import annotations

from posegen.costs import (
    FLOAT32,
    Pass,
    block_linears,
    context_flops,
    float32_parameters,
    model_dim,
    parameters,
    patch_flops,
    rotary_bytes,
    split_block_flops,
)


def flops_per_training_step(one: Pass, gradient_checkpointing: bool = False) -> int:
    """Operations of a forward and a backward pass in which adapters and patch embeddings are trained.

    Backward, a frozen matrix costs as much again, for the gradient of its input, as does a patch embedding, for that of
    its weights, and attention twice as much. Text, CLIP tokens and timesteps need no gradient. Not counted: the
    adapters' own products (2 % at rank 64) and the projection of hands' own gradients. Checkpointing runs all blocks
    forward once more; for a share of the device's peak that is customarily left out.
    """
    config, (video, reference), given = one.config, one.tokens, (one.text_tokens, one.image_tokens)
    linear, context, attention = split_block_flops(config, video, reference, *given)
    blocks = 2 * linear + context + 3 * attention
    if gradient_checkpointing:
        blocks += linear + context + attention
    patches = 2 * patch_flops(config, video, reference)
    return one.batch * (config["num_layers"] * blocks + patches + context_flops(config, *given))


def training_activation_bytes(
    one: Pass, gradient_checkpointing: bool = True, offload: bool = False, context_parallel: int = 1
) -> int:
    """The most that tensors between the weights take in a training step.

    A block keeps for its backward pass, of n tokens with d channels: six float32 and eleven other tensors, and the
    feed-forward's m channels before and after its activation. Checkpointing keeps that of one block, and of the others
    their input only, which `offload` moves to the host. About four float32 and two other tensors come and go. Of
    `context_parallel` workers that share an item each has its part of the tokens, but for the first block's input,
    which is split within that block.
    """
    config, batch, itemsize, whole = one.config, one.batch, one.itemsize, sum(one.tokens)
    count = whole // context_parallel
    dim, ffn, blocks = model_dim(config), config["ffn_dim"], config["num_layers"]
    kept = count * ((6 * FLOAT32 + 11 * itemsize) * dim + 2 * ffn * itemsize)
    context = one.text_tokens + (0 if config["image_dim"] is None else one.image_tokens)
    kept += context * dim * (FLOAT32 + 2 * itemsize)
    passing = count * max((4 * FLOAT32 + 2 * itemsize) * dim, (2 * dim + 2 * ffn) * itemsize)
    if gradient_checkpointing:
        inputs = 0 if offload else blocks * count * dim * itemsize
        inputs += 0 if context_parallel == 1 else whole * dim * itemsize
        return batch * (inputs + kept + passing) + rotary_bytes(config, count)
    return batch * (blocks * kept + passing) + rotary_bytes(config, count)


def training_memory(
    one: Pass,
    trainable_parameters: int,
    zero_stage: int,
    workers: int,
    gradient_checkpointing: bool = True,
    offload: bool = False,
    reduce_bucket_size: int = 500_000_000,
    live_parameters: int = 1_000_000_000,
    fp8_base: bool = False,
    blocks_to_swap: int = 0,
    context_parallel: int = 1,
) -> dict[str, int]:
    """Bytes of one worker in a training step under DeepSpeed, by what they hold, and their sum as the peak.

    one: a worker's pass; `context_parallel` workers share its tokens. trainable_parameters: adapters and whatever is
    trained whole. reduce_bucket_size, live_parameters: DeepSpeed's buffer, allocated whole however small the adapters,
    and `stage3_max_live_parameters`, both in numbers and at its defaults. fp8_base: whether the blocks' frozen linears
    take a byte a number. blocks_to_swap: in how many blocks they lie in the host's memory. Gradients are summed up in
    float32, and AdamW keeps 12 bytes for each trained number (a float32 copy and two moments). Stage 1 splits these
    among the workers, stage 2 the gradients too, stage 3 the weights too (ZeRO, arXiv 1910.02054).
    """
    if zero_stage not in (0, 1, 2, 3) or workers < 1:
        raise ValueError(
            f"ZeRO stage {zero_stage} on {workers} workers is not possible; choose stage 0 to 3 and 1 or more workers"
        )
    itemsize = one.itemsize
    weights = parameters(one.config) + trainable_parameters
    weights += float32_parameters(one.config) * (FLOAT32 - itemsize) // itemsize  # counted as several each
    if zero_stage == 3:
        weights = _ceil_div(weights, workers) + min(weights, live_parameters)
    gradients = _ceil_div(trainable_parameters, workers if zero_stage >= 2 else 1)
    linears = block_linears(one.config)
    held = 1 if fp8_base else itemsize
    swapped = min(1.0, blocks_to_swap / one.config["num_layers"])
    saved = linears * (itemsize - held) + round(linears * swapped) * held
    parts = {
        "weights": weights * itemsize - saved,
        "gradients": gradients * FLOAT32,
        "optimiser": 12 * _ceil_div(trainable_parameters, workers if zero_stage >= 1 else 1),
        "buffers": reduce_bucket_size * itemsize if zero_stage else 0,
        "activations": training_activation_bytes(one, gradient_checkpointing, offload, context_parallel),
    }
    return {**parts, "peak": sum(parts.values())}


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
