"""GGUF files of a tiny Wan. The `gguf` package packs Q8_0 and Q4_0; for K-quants it can only unpack, so they are here.

Layouts are those of llama.cpp's `ggml-common.h`: blocks of 256 values in parts that have a scale each.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter
from gguf.quants import dequantize, quantize

BLOCK = 256


def write_gguf(
    path: Path,
    tensors: dict[str, torch.Tensor],
    modules: list[str],
    kind: Type,
    architecture: str = "wan",
) -> dict[str, torch.Tensor]:
    """A GGUF file with the weights of some modules in one type; returns all tensors with what those unpack to."""
    writer = GGUFWriter(path, architecture)
    unpacked = dict(tensors)
    for name, tensor in tensors.items():
        values = tensor.float().numpy()
        if name.removesuffix(".weight") in modules and name.endswith(".weight"):
            packed = pack(values, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
            unpacked[name] = torch.from_numpy(dequantize(packed, kind).reshape(values.shape))
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unpacked


def pack(values: np.ndarray, kind: Type) -> np.ndarray:
    """Values (rows, columns) float32 as rows of bytes."""
    own = {Type.Q4_K: pack_q4_k, Type.Q5_K: pack_q5_k, Type.Q6_K: pack_q6_k}
    if kind not in own:
        return quantize(values, kind)
    return own[kind](values.reshape(-1, BLOCK)).reshape(len(values), -1)


def pack_q4_k(blocks: np.ndarray) -> np.ndarray:
    """Blocks (n, 256) -> (n, 144): two float16, 12 bytes of scales, 128 of 4-bit values."""
    head, levels = scales_and_minima(blocks, 15)
    return np.concatenate([head, nibbles(levels)], axis=1)


def pack_q5_k(blocks: np.ndarray) -> np.ndarray:
    """Blocks (n, 256) -> (n, 176): as Q4_K, and before the values 32 bytes of their fifth bits."""
    head, levels = scales_and_minima(blocks, 31)
    fifth = (levels >> 4) << np.arange(8, dtype=np.uint8)[:, None]  # part j of a block has bit j
    return np.concatenate([head, fifth.sum(1, dtype=np.uint8), nibbles(levels & 15)], axis=1)


def pack_q6_k(blocks: np.ndarray) -> np.ndarray:
    """Blocks (n, 256) -> (n, 210): 4 low bits, 2 high bits, 16 scales of a byte, one float16."""
    parts = blocks.reshape(-1, 16, 16)
    steps = np.abs(parts).max(2) / 31
    whole = (steps.max(1) / 127).astype(np.float16)
    scales = np.round(steps / whole[:, None].astype(np.float32)).astype(np.int8)
    size = whole[:, None].astype(np.float32) * scales
    levels = np.clip(np.round(parts / size[..., None]), -32, 31).astype(np.int8) + 32
    quarters = levels.astype(np.uint8).reshape(-1, 2, 4, 32)  # of each half of a block
    low = quarters[:, :, :2] & 15 | (quarters[:, :, 2:] & 15) << 4
    high = ((quarters >> 4) << np.array([0, 2, 4, 6], np.uint8)[:, None]).sum(2, dtype=np.uint8)
    rows = len(blocks)
    packed = [low.reshape(rows, -1), high.reshape(rows, -1), scales.view(np.uint8), as_bytes(whole)]
    return np.concatenate(packed, axis=1)


def scales_and_minima(blocks: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """The head of a Q4_K or Q5_K block, (n, 16) bytes, and the levels (n, 8, 32), 0 to `largest`.

    A value is `d * scale * level - dmin * minimum`; the 6-bit scales and minima of 8 parts are packed in 12 bytes.
    """
    parts = blocks.reshape(-1, 8, 32)
    lowest = np.maximum(-parts.min(2), 0)
    steps = (parts.max(2) + lowest) / largest
    d, dmin = ((part.max(1) / 63).astype(np.float16) for part in (steps, lowest))
    scales, minima = (
        np.round(part / whole[:, None].astype(np.float32)).astype(np.uint8)
        for part, whole in ((steps, d), (lowest, dmin))
    )
    size = d[:, None].astype(np.float32) * scales
    start = dmin[:, None].astype(np.float32) * minima
    levels = np.clip(np.round((parts + start[..., None]) / size[..., None]), 0, largest).astype(np.uint8)
    first = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    second = minima[:, :4] | (minima[:, 4:] >> 4) << 6
    third = scales[:, 4:] & 15 | (minima[:, 4:] & 15) << 4
    return np.concatenate([as_bytes(d), as_bytes(dmin), first, second, third], axis=1), levels


def nibbles(levels: np.ndarray) -> np.ndarray:
    """Levels (n, 8, 32) of 4 bits -> (n, 128) bytes: parts 0 and 1 in the first 32 bytes, and so on."""
    pairs = levels.reshape(-1, 4, 2, 32)
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(levels), -1)


def as_bytes(numbers: np.ndarray) -> np.ndarray:
    """float16 (n,) -> (n, 2) bytes."""
    return numbers[:, None].view(np.uint8)
