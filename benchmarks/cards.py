"""What generating and training take on cards of several sizes, from the library's own estimates.

    python benchmarks/cards.py

Nothing is loaded: the folder that is asked about has the real configurations and empty files of the real weights'
sizes. For generating, a video of three segments of 81 frames of the 14B model is counted, the record that of a full
body with guidance; the table is for 480p and 720p. For training, it tells what each configuration takes of a worker's
card with the fewest and the most workers. The last line is one JSON object. The estimates are held against torch's own
counts by tests; no card was measured.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from inspect import signature
from math import inf
from pathlib import Path
from typing import Any

from posegen.costs import PEAK_FLOPS, parameters
from posegen.estimate import Estimate
from posegen.loading import HEADROOM, Placement
from posegen.longvideo.sampling import Guidance
from posegen.longvideo.segments import plan
from posegen.model.transformer import PoseGenTransformer3DModel
from training.config import CONFIGS
from training.memory import USABLE, Device, estimate

SHAPE = {
    name: parameter.default
    for name, parameter in signature(PoseGenTransformer3DModel.__init__).parameters.items()
    if parameter.default is not parameter.empty
}
SIZES = {"480p": (480, 832), "720p": (720, 1280)}
CARDS = (24, 32, 48, 80)  # GB
SHAPE_1B = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "added_kv_proj_dim": 1536}
"""Of Wan2.1-Fun-1.3B-InP, where it is another."""
TIMED = {24: "RTX 4090", 32: "RTX 4090", 48: "L40S", 80: "H100"}
"""The GPU that trainings are timed for, by the memory that they need."""
WEIGHTS = {  # bytes in bfloat16, the VAE's in float32: 5.68, 0.63 and 0.127 billion parameters
    "text_encoder": 11_360_000_000,
    "image_encoder": 1_264_000_000,
    "vae": 508_000_000,
}
BITS = {"bf16": 16.0, "fp8": 8.0, "Q4_K": 4.5}
"""Of a weight of the transformer, in the folder or in a single file in its place."""


def main() -> None:
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = made_folder(Path(scratch))
        print(f"{'size':5} {'weights':8} {'GB':>6} {'host GB':>8} {'card':>5}  options")
        for size, pixels in SIZES.items():
            for weights, bits in BITS.items():
                for row in rows(folder, pixels, bits):
                    found.append({"size": size, "weights": weights, **row})
                    print(
                        f"{size:5} {weights:8} {row['device_gb']:6.1f} {row['host_gb']:8.1f} "
                        f"{row['card'] or '-':>5}  {row['options']}"
                    )
        trainings = training_rows(folder)
    print(f"\n{'training':20} {'workers':>7} {'GB':>6} {'card':>5} {'s a clip':>9}  on")
    for row in trainings:
        print(
            f"{row['config']:20} {row['workers']:7} {row['gb']:6.1f} {row['card']:5} {row['clip_seconds']:9.0f}  "
            f"{row['timed_on']}"
        )
    print(json.dumps({"headroom": HEADROOM, "rows": found, "trainings": trainings}))


def rows(folder: Path, size: tuple[int, int], bits: float) -> list[dict[str, Any]]:
    """Each placement's memory in GB with headroom, and the smallest card that it fits into."""
    card = Placement("cuda", "bfloat16")
    file = sparse(folder / "single.safetensors", round(parameters(SHAPE) * bits / 8))
    made = Estimate(folder, plan(202), size, 25, Guidance(5.0), "full-body", card, transformer=file)
    found = []
    for way in card.smaller():
        needed = HEADROOM * made.memory(way)["peak"] / 1e9
        fits = [each for each in CARDS if needed <= each]
        found.append(
            {
                "device_gb": round(needed, 1),
                "host_gb": round(made.host(way) / 1e9, 1),
                "card": min(fits) if fits else None,
                "options": way.options,
            }
        )
    return found


def training_rows(folder: Path) -> list[dict[str, Any]]:
    """What each configuration of Wan takes with the fewest and the most workers that it is sized for.

    A clip's seconds are those of one worker on a card of that memory, at the share of its peak that is reckoned with.
    """
    found = []
    for name, (_, config) in CONFIGS.items():
        if not name.startswith("wan"):
            continue
        shape = SHAPE | (SHAPE_1B if name.startswith("wan1b") else {})
        (folder / "transformer" / "config.json").write_text(json.dumps(shape))
        cluster = config.cluster
        for workers in sorted({cluster.min_workers or cluster.max_workers, cluster.max_workers}):
            asked = replace(
                config,
                data=replace(config.data, model=str(folder), batch_size=workers),
                cluster=replace(cluster, min_workers=None, max_workers=workers),
            )
            made = estimate(asked, Device("a card of one operation a second", inf, 1.0))
            peak = made.memory["peak"]
            card = min(each for each in CARDS if peak <= USABLE * each * 1e9)
            found.append(
                {
                    "config": name,
                    "workers": workers,
                    "gb": round(peak / 1e9, 1),
                    "card": card,
                    "clip_seconds": round(made.step_seconds / PEAK_FLOPS[TIMED[card]], 1),
                    "timed_on": TIMED[card],
                }
            )
    return found


def made_folder(folder: Path) -> Path:
    """A model folder of the 14B shape without weights."""
    configs: dict[str, dict[str, Any]] = {
        "transformer/config.json": SHAPE,
        "vae/config.json": {"base_dim": 96, "z_dim": 16},
        "image_encoder/config.json": {"image_size": 224, "patch_size": 14},
        "tokenizer/tokenizer_config.json": {"model_max_length": 512},
        "scheduler/scheduler_config.json": {"shift": 5.0},
        "model_index.json": {},
    }
    for name, values in configs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    (folder / "adapters").mkdir()
    for name, size in WEIGHTS.items():
        sparse(folder / name / "model.safetensors", size)
    return folder


def sparse(path: Path, size: int) -> Path:
    """An empty file of so many bytes that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


if __name__ == "__main__":
    main()
