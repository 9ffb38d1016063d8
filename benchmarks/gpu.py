"""What the 14B model takes on this machine's GPU, with random weights: `python benchmarks/gpu.py`.

Measured: a block at 480p and 720p with 81 frames, plain and reading the shared background, in bf16 and with products in
fp8; a whole step without guidance, the anchor's record on the device and on the host; encoding and decoding a segment;
the peak of memory against the library's estimate. The share of the chip's peak is operations / seconds / peak, with the
operations of `posegen.costs.block_flops` and dense bf16 peaks; fp8 is held against the same peak. Needs 80 GB or more.
Prints a table, writes benchmarks/results/DEVICE.json, and ends with one JSON object. `--tiny` runs all of it at a small
size, also on a CPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import nn

from benchmarks.sharing import person_mask
from posegen.costs import (
    Pass,
    block_flops,
    flops_per_forward,
    generation_memory,
    parameters,
    peak_flops,
    tokens,
)
from posegen.longvideo.conditions import Conditions, decode_latents, encode_frames
from posegen.longvideo.sampling import Guidance, denoise, initial_noise, schedule
from posegen.model.scaled_linear import ScaledLinear, use_fp8_products
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.sharing import (
    AnchorReader,
    AnchorRecorder,
    GivenForeground,
    HostRecord,
    SharedRange,
    SharedRecord,
)

RESULTS = Path(__file__).parent / "results"
FRAMES = 81
SIZES = {"480p": (832, 480), "720p": (1280, 720)}  # height and width
TINY_FRAMES, TINY_SIZES = 9, {"tiny": (32, 48)}
TINY: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 32,
    "text_dim": 16,
    "freq_dim": 16,
    "num_layers": 2,
    "image_dim": 16,
    "added_kv_proj_dim": 24,
}
TEXT_TOKENS, IMAGE_TOKENS = 512, 257
E4M3 = torch.float8_e4m3fn


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a small model, also on a CPU")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of each measurement, after one that is not counted"
    )
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        parser.error("there is no GPU here; --tiny runs at a small size on the CPU")
    report = measure(device, options.tiny, options.rounds)
    RESULTS.mkdir(exist_ok=True)
    if device.type == "cuda" and not options.tiny:
        name = report["device"].lower().replace(" ", "-")
        (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


@torch.inference_mode()
def measure(device: torch.device, tiny: bool, rounds: int) -> dict[str, Any]:
    """All figures by size."""
    config, sizes, frames = (TINY, TINY_SIZES, TINY_FRAMES) if tiny else ({}, SIZES, FRAMES)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU"
    report: dict[str, Any] = {"device": name, "date": f"{datetime.datetime.now():%Y-%m-%d}", "tiny": tiny}
    model = random_model(device, config)
    for size, pixels in sizes.items():
        shape = (frames, *pixels)
        report[size] = {"block": blocks(model, shape, rounds, "bf16"), "step": steps(model, shape)}
    if quantise(model.blocks[0]):
        for size, pixels in sizes.items():
            report[size]["block"] |= blocks(model, (frames, *pixels), rounds, "fp8")
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()
    for size, pixels in sizes.items():
        report[size]["vae"] = vae(device, (frames, *pixels), tiny)
    return report


def random_model(device: torch.device, config: dict[str, Any]) -> PoseGenTransformer3DModel:
    """The transformer in bfloat16 with random weights, made on the device."""
    default = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return PoseGenTransformer3DModel(**config).eval()
    finally:
        torch.set_default_dtype(default)


def blocks(
    model: PoseGenTransformer3DModel, shape: tuple[int, int, int], rounds: int, precision: str
) -> dict[str, dict[str, float | None]]:
    """Seconds and share of the peak of the first block, plain and shared; precision: what it is in."""
    video, reference = tokens(model.config, *shape)
    flops, found = block_flops(model.config, video, reference, TEXT_TOKENS, IMAGE_TOKENS), {}
    run = block_run(model, shape)
    for variant in ("plain", "shared"):
        taken = seconds(partial(run, variant), rounds, model.device)
        found[f"{precision} {variant}"] = figures(taken, flops, model.device)
        print(
            f"{shape[0]} frames of {shape[2]}x{shape[1]}, a block, {precision} {variant}: {taken:.4f} s",
            flush=True,
        )
    return found


def block_run(model: PoseGenTransformer3DModel, shape: tuple[int, int, int]) -> Callable[[str], torch.Tensor]:
    """Runs the first block, "plain" or "shared", on random streams."""
    device, config = model.device, model.config
    frames, height, width = shape
    grid = (frames + 3) // 4, height // 8, width // 8
    video, reference = tokens(config, *shape)
    dim = config.num_attention_heads * config.attention_head_dim
    with device:
        streams = [
            torch.randn(1, count, dim, dtype=torch.bfloat16)
            for count in (video, reference, TEXT_TOKENS, IMAGE_TOKENS)
        ]
        modulations = [torch.randn(1, 6, dim) for _ in range(2)]
    rotary = torch.cat(model.rope(grid, (1, *grid[1:]), device), dim=1)
    record, shared = SharedRecord(), SharedRange(range(1), range(1))
    person = GivenForeground(person_mask(grid[0], grid[1] // 2, grid[2] // 2).to(device))

    def run(variant: str) -> torch.Tensor:
        kinds = {"anchor": AnchorRecorder, "shared": AnchorReader}
        sharing = kinds[variant](shared, person, record).at(0, "guided") if variant in kinds else None
        return model.blocks[0](*streams, *modulations, rotary, sharing and sharing(0))[0]

    run("anchor")
    return run


def quantise(block: nn.Module) -> bool:
    """Makes a block's linears products of fp8 in place, one scale a row; False where the device has none."""
    for name, linear in list(block.named_modules()):
        if not isinstance(linear, nn.Linear):
            continue
        scale = (linear.weight.float().abs().amax(1, keepdim=True) / torch.finfo(E4M3).max).clamp_min(1e-12)
        scaled = ScaledLinear((linear.weight.float() / scale).to(E4M3), scale, linear.bias is not None)
        if linear.bias is not None:
            scaled.bias = linear.bias
        block.set_submodule(name, scaled)
    try:
        use_fp8_products(block)
    except ValueError:
        return False
    return True


def steps(model: PoseGenTransformer3DModel, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Seconds of a step of the anchor, its record on the device and on the host, and peak bytes with the estimate's."""
    frames, height, width = shape
    config, device = model.config, model.device
    latent = (frames + 3) // 4, height // 8, width // 8
    with device:
        conditions = Conditions(
            pose=torch.randn(1, config.in_channels - config.out_channels, *latent),
            reference=torch.randn(1, config.reference_channels, 1, *latent[1:]),
            text=torch.randn(1, TEXT_TOKENS, config.text_dim),
            image=torch.randn(1, IMAGE_TOKENS, config.image_dim),
            hands=torch.randn(1, config.hand_channels, *latent),
        )
    noise = initial_noise(0, (1, config.out_channels, *latent))
    person = GivenForeground(person_mask(latent[0], latent[1] // 2, latent[2] // 2).to(device))
    shared = SharedRange.of("full-body", 25, config.num_layers)
    one = Pass(config, *shape, text_tokens=TEXT_TOKENS, image_tokens=IMAGE_TOKENS)
    flops = flops_per_forward(one)
    found: dict[str, Any] = {}
    for place in ("plain", "device", "host"):
        record = HostRecord() if place == "host" else SharedRecord()
        sharing = None if place == "plain" else AnchorRecorder(shared, person, record)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        run = partial(denoise, model, conditions, noise, schedule(25, 5.0).first(1), Guidance(1.0), sharing)
        found[place] = figures(seconds(run, 1, device), flops, device)
        expected = generation_memory(
            one,
            {},
            weights=2 * parameters(config),
            record=0 if place != "device" else record.nbytes,
        )
        found[place]["estimated_bytes"] = expected["peak"]
        if device.type == "cuda":
            found[place]["peak_bytes"] = torch.cuda.max_memory_allocated()
        row = " ".join(f"{key}={value}" for key, value in found[place].items())
        print(f"{frames} frames of {width}x{height}, a step, record {place}: {row}", flush=True)
    return found


def vae(device: torch.device, shape: tuple[int, int, int], tiny: bool) -> dict[str, float]:
    """Seconds of encoding and decoding one segment in tiles, float32."""
    small: dict[str, Any] = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1} if tiny else {}
    with device:
        network = AutoencoderKLWan(**small).eval()
    network.enable_tiling()
    frames, height, width = shape
    video = torch.zeros(1, frames, height, width, 3, dtype=torch.uint8)
    latents = torch.zeros(1, 16, (frames + 3) // 4, height // 8, width // 8)
    found = {
        "encode": seconds(lambda: encode_frames(network, video), 1, device),
        "decode": seconds(lambda: decode_latents(network, latents), 1, device),
    }
    print(
        f"{frames} frames of {width}x{height}, VAE: " + ", ".join(f"{k} {v:.2f} s" for k, v in found.items())
    )
    return found


def seconds(run: Callable[[], torch.Tensor], rounds: int, device: torch.device) -> float:
    """The median of some rounds, after one that is not counted."""
    taken = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def figures(taken: float, flops: int, device: torch.device) -> dict[str, float | None]:
    peak = peak_flops(torch.cuda.get_device_name()) if device.type == "cuda" else None
    share = None if peak is None else round(flops / taken / peak, 3)
    return {"seconds": round(taken, 4), "share_of_peak": share}


if __name__ == "__main__":
    main()
