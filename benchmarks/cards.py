"""What generating and training take on cards of several sizes, from the library's own estimates.

    python benchmarks/cards.py

Nothing is loaded: the folder that is asked about has the real configurations and empty files of the real weights'
sizes. For generating, a video of three segments of 81 frames of the 14B model is counted, the record that of a full
body with guidance; the table is for 480p and 720p. For training, each configuration is tried on each card with 1, 2, 4
and so on up to its most workers: a cell says how many are enough, what each then needs, and the seconds that a clip
takes one such card at 40 % of its peak; the table is the README's. The last line is one JSON object. The estimates are
held against torch's own counts by tests; no card was measured.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from posegen.costs import PEAK_FLOPS, parameters
from posegen.estimate import Estimate
from posegen.loading import HEADROOM, Placement
from posegen.longvideo.sampling import Guidance
from posegen.longvideo.segments import plan
from posegen.model.transformer import PoseGenTransformer3DModel
from training.config import CONFIGS, TrainConfig
from training.memory import Device, EstimateError, estimate

SHAPE = {
    name: parameter.default
    for name, parameter in signature(PoseGenTransformer3DModel.__init__).parameters.items()
    if parameter.default is not parameter.empty
}
SIZES = {"480p": (480, 832), "720p": (720, 1280)}
CARDS = (24, 32, 48, 80)  # GB
TRAINING_CARDS = {24: "RTX 4090", 48: "L40S", 80: "H100", 141: "H200"}
"""By their GB."""
SHAPE_1B = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "added_kv_proj_dim": 1536}
"""Of Wan2.1-Fun-1.3B-InP, where it is another."""
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
    print("\n" + "\n".join(markdown(trainings)))
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
    """Of each configuration of Wan and each card: the fewest workers that fit, the GB of each and a clip's seconds."""
    found = []
    for name, (_, config) in CONFIGS.items():
        if not name.startswith("wan"):
            continue
        shape = SHAPE | (SHAPE_1B if name.startswith("wan1b") else {})
        (folder / "transformer" / "config.json").write_text(json.dumps(shape))
        for gigabytes, card in TRAINING_CARDS.items():
            device = Device(card, gigabytes * 1e9, PEAK_FLOPS[card])
            row: dict[str, Any] = {"config": name, "card": card, "workers": None}
            for workers in range(config.cluster.context_parallel, config.cluster.max_workers + 1):
                if workers & (workers - 1):
                    continue
                try:
                    made = estimate(with_workers(config, folder, workers), device)
                except EstimateError:
                    continue
                gb, seconds = made.memory["peak"] / 1e9, made.step_seconds * config.cluster.context_parallel
                row |= {"workers": workers, "gb": round(gb, 1), "clip_seconds": round(seconds, 1)}
                break
            found.append(row)
    return found


def with_workers(config: TrainConfig, folder: Path, workers: int) -> TrainConfig:
    """The training of the model in the folder by so many workers, with an item for each group of them."""
    cluster = replace(config.cluster, min_workers=None, max_workers=workers)
    items = workers // cluster.context_parallel
    return replace(config, cluster=cluster, data=replace(config.data, model=str(folder), batch_size=items))


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of the table of trainings by card."""
    head = [f"{gigabytes} GB ({card})" for gigabytes, card in TRAINING_CARDS.items()]
    lines = [["configuration", *head], ["---"] * (1 + len(head))]
    for name in dict.fromkeys(row["config"] for row in rows):
        cells = [cell(row) for row in rows if row["config"] == name]
        lines.append([f"`{name}`", *cells])
    return [f"| {' | '.join(line)} |" for line in lines]


def cell(row: dict[str, Any]) -> str:
    if row["workers"] is None:
        return "-"
    return f"{row['workers']}: {row['gb']:.0f} GB, {row['clip_seconds']:.0f} s"


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
