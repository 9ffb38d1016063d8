"""What finding clips that show the same takes: made embeddings of known duplicates, compared as the job does on Ray.

    python benchmarks/semantic.py [--clips 100000]

The clips are of as many subjects as clusters, and every tenth is a copy of another with a little noise, at a cosine of
0.995; subjects, as wide apart as chance has them in 768 dimensions, hold clips of a cosine of 0.8. `found` is the share
of the copies that were rejected, and `wrong` counts rejected clips that are none and have none. Then one core embeds
the four pictures of a clip by CLIP's two published shapes, with random weights.
"""

from __future__ import annotations

import json
import logging
import resource
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
import tyro
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.scale import cpu_seconds
from pipeline.config import CurateConfig
from pipeline.journals import score_journal
from pipeline.records.journal import Files
from pipeline.score.embedding import FRAMES
from pipeline.semantic import CLUSTER, find_semantic_duplicates
from pipeline.tables.join import joined_schema
from posegen.dataset import KEPT, content_id

WIDTH, GROUPS, COPIES = 768, 64, 10
SHAPES: dict[str, dict[str, Any]] = {
    "ViT-L/14": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24},
    "ViT-H/14": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32},
}


def main(clips: int = 100_000) -> None:
    """Measures, prints a table, and as the last line one JSON object.

    Args:
        clips: How many embeddings are compared.
    """
    figures: dict[str, float] = {"clips": clips, **compare(clips)}
    for name, value in figures.items():
        print(f"{name:24} {value:12,.3f}", flush=True)
    for name, shape in SHAPES.items():
        label = f"{name}: CPU s a clip"
        figures[label] = embed(shape)
        print(f"{label:24} {figures[label]:12,.3f}", flush=True)
    print(json.dumps(figures))


def compare(clips: int) -> dict[str, float]:
    """Seconds, CPU seconds and the driver's peak memory of the comparison, and what it found."""
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        config = CurateConfig("videos", scratch, embedder="made")
        parts = [range(first, clips, GROUPS) for first in range(GROUPS)]
        made: Any = ray.remote(make_group).options(num_returns=2)
        groups = [made.remote(config, number, part, clips) for number, part in enumerate(parts)]
        scores = {
            f"{number:02x}": files for number, files in enumerate(ray.get([files for files, _ in groups]))
        }
        rows = {f"{number:02x}": table for number, (_, table) in enumerate(groups)}
        started, cpu, before = time.monotonic(), cpu_seconds(), peak()
        tables = find_semantic_duplicates(config, 0.99, scores, rows)
        ray.wait(tables, num_returns=len(tables))
        seconds, cpu, after = time.monotonic() - started, cpu_seconds() - cpu, peak()
        found = ray.get(tables)
    pairs = {row["clip_id"]: row["duplicate_of"] for row in pa.concat_tables(found).to_pylist()}
    copies = {frozenset((clip_of(n), clip_of(n - 1))) for n in range(COPIES - 1, clips, COPIES)}
    hits = sum(frozenset(pair) in copies for pair in pairs.items())
    return {
        "seconds": seconds,
        "CPU s": cpu,
        "driver MB before": before,
        "driver MB": after,
        "found": hits / len(copies),
        "wrong": len(pairs) - hits,
    }


def peak() -> float:
    """This process's peak memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def clip_of(number: int) -> str:
    """A made clip's id."""
    return content_id("made clip", number)


def made_embedding(number: int, clips: int) -> np.ndarray:
    """A made clip's embedding (WIDTH,) float16; every tenth is the one before it, with noise."""
    if number % COPIES == COPIES - 1:
        return unit(made_embedding(number - 1, clips).astype(np.float32) + 0.1 * noise(number)).astype(
            np.float16
        )
    subject = noise(-1 - number % max(1, clips // CLUSTER))
    return unit(2 * subject + noise(number)).astype(np.float16)


def noise(seed: int) -> np.ndarray:
    """A random direction (WIDTH,) float32."""
    return unit(np.random.default_rng([seed < 0, abs(seed)]).standard_normal(WIDTH, np.float32))


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector at length 1."""
    scaled: np.ndarray = vector / np.linalg.norm(vector)
    return scaled


def make_group(config: CurateConfig, number: int, clips: range, total: int) -> tuple[Files, pa.Table]:
    """Records the embeddings of a group of made clips; returns its files and rows."""
    journal, schema = score_journal(config), joined_schema(config)
    video = f"{number:02x}" + content_id("made video", number)[2:]
    ids = [clip_of(clip) for clip in clips]
    blank = dict.fromkeys(schema.names) | {"path": "made.mp4", "status": KEPT, "reasons": [], "video": video}
    size = {"width": 1280, "height": 720, "blur": 0.5}
    rows = [blank | size | {"clip_id": clip_id, "record": clip_id} for clip_id in ids]
    files, empty = Files(), journal.packed_schema.empty_table()
    for part, first in enumerate(range(0, len(ids), journal.packed_rows)):
        some = ids[first : first + journal.packed_rows]
        vectors = [made_embedding(clip, total) for clip in clips[first : first + journal.packed_rows]]
        columns = {"video": [video] * len(some), "key": some, "clip_id": some, "embedding": vectors}
        there = {name: pa.array(values, empty.schema.field(name).type) for name, values in columns.items()}
        records = pa.concat_tables([empty, pa.table(there)], promote_options="default")
        files.packed.append(journal.write_packed(f"{number:02x}", part, records))
    return files, pa.Table.from_pylist(rows, schema)


def embed(shape: dict[str, Any]) -> float:
    """CPU seconds of one core for a clip's pictures by a model of this shape, of random weights."""
    torch.set_num_threads(1)
    config = CLIPVisionConfig(image_size=224, patch_size=14, num_attention_heads=16, **shape)
    network, pictures = CLIPVisionModelWithProjection(config).eval(), torch.randn(FRAMES, 3, 224, 224)
    with torch.inference_mode():
        network(pictures)  # the first call allocates
        started = time.thread_time()
        network(pictures)
        return time.thread_time() - started


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
