"""What a training's data takes at scale: the index of a million made clips, and the rolling window over them.

    python benchmarks/train_scale.py [--clips 1000000] [--steps 10000]

The tables are laid out as curation lays them out, with an id, a caption and a length of its own for each clip; but all
show one drawn person, 9 frames of 32x48 in a few kilobytes, and a tiny model's codec encodes them. So seconds and bytes
an item are small, while files, row groups, draws and cache entries are as many as in the real thing.

- The index is written by a process of its own, whose whole memory is measured.
- The first step is one of two Ray actors that begin with an empty cache; then as many steps as `--paced` are taken, one
  a second, and what each waits for its batch is measured.
- `--steps` steps of one item are encoded in this process, with a cache that holds less than half of them. Bytes needed
  are those of the distinct entries that the steps name; the steps of a window beyond the last are encoded too.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from posegen.dataset import CLIPS, MEDIA, content_id
from testkit.tiny_training import FRAMES, SIZE, puppet_rows, write_tiny_model
from training.cluster import start_ray
from training.data.batches import ItemEncoder
from training.data.cache import FOLDERS, Cache
from training.data.encoders import keeper
from training.data.plan import Plan
from training.data.spans import Names, SpanEncoder, TextEncoder
from training.data.stream import DataConfig, EncoderActors, TrainingStream, prepare
from training.loop import ahead

FILES = 256
"""Of each table, as curation writes for so many clips; below are its row groups."""
CLIPS_A_GROUP, MEDIA_A_GROUP = 64, 4
STEP_S = 1.0
CACHE_BYTES_A_STEP = 8_000
LOOK_EVERY = 100  # steps, at the size of the cache
WORDS = (
    "woman",
    "man",
    "dances",
    "walks",
    "turns",
    "waves",
    "on",
    "the",
    "street",
    "stage",
    "beach",
    "slowly",
    "red",
)
GB = 1e9


def main(clips: int = 1_000_000, steps: int = 10_000, paced: int = 60) -> None:
    """Measures, prints a table, and as the last line one JSON object.

    Args:
        clips: How many.
        steps: Steps of one item whose bytes are counted.
        paced: Steps that are taken in time.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        write_tiny_model(scratch / "model")
        start = time.monotonic()
        write_tables(scratch / "dataset", clips)
        print(f"made tables of {clips:,} clips in {time.monotonic() - start:.0f} s", flush=True)
        config = DataConfig(
            dataset=str(scratch / "dataset"),
            model=str(scratch / "model"),
            sizes=(SIZE,),
            frames=(FRAMES,),
            cache=str(scratch / "cache"),
        )
        found = index(config) | pace(config, paced) | count(replace(config, batch_size=1), steps)
    for key, value in found.items():
        print(f"{key:28} {value:,.4g}")
    print(json.dumps({"clips": clips, "steps": steps, **found}))


def write_tables(folder: Path, clips: int) -> None:
    """Curated tables of so many clips that show one person under other names."""
    rows = puppet_rows(folder, 0)
    with ThreadPoolExecutor(2) as pool:
        parts = np.array_split(np.arange(clips), min(FILES, clips))
        list(pool.map(lambda part: write_part(folder, part, *rows), parts))


def write_part(folder: Path, numbers: np.ndarray, clip: dict[str, object], media: dict[str, object]) -> None:
    ids = [content_id(int(number)) for number in numbers]
    random = np.random.default_rng(int(numbers[0]))
    captions = [" ".join(random.choice(WORDS, 30)) for _ in ids]
    columns = {"clip_id": ids, "video_id": [id_[::-1] for id_ in ids], "caption": captions}
    for table, schema, row, group in (
        ("clips", CLIPS, clip, CLIPS_A_GROUP),
        ("media", MEDIA, media, MEDIA_A_GROUP),
    ):
        made = pa.table([column(field, row, columns, len(ids)) for field in schema], schema.names)
        path = folder / table / f"part-{numbers[0]:07}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(made, path, compression="zstd", row_group_size=group, store_schema=False)


def column(field: pa.Field, row: dict[str, object], own: dict[str, list[str]], length: int) -> pa.Array:
    """A column with a value for each clip, or the same for all."""
    if field.name in own:
        return pa.array(own[field.name], field.type)
    value = pa.array([row.get(field.name)], field.type)
    if pa.types.is_binary(field.type) and row.get(field.name):
        # Parquet writes it the same as if each row held the bytes.
        return pa.DictionaryArray.from_arrays(np.zeros(length, np.int8), value)
    return value.take(np.zeros(length, np.int8))


def index(config: DataConfig) -> dict[str, float]:
    """Seconds and peak memory of the process that writes the index."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, cpu_seconds, before, peak = pool.apply(write_index, (config,))
    return {
        "index_seconds": seconds,
        "index_cpu_seconds": cpu_seconds,
        "index_memory_gb": peak,
        "of_it_imports_gb": before,
    }


def write_index(config: DataConfig) -> tuple[float, ...]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, spent = time.monotonic(), time.process_time()
    prepare(config)
    seconds = time.monotonic() - start, time.process_time() - spent
    return *seconds, before * 1024 / GB, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB


def pace(config: DataConfig, steps: int) -> dict[str, float]:
    """Seconds from the start of the encoders to the first batch, and what later steps of a second waited."""
    start_ray()
    config = replace(config, encode_workers=2, encode_cpus=0.5)
    start = time.monotonic()
    actors = EncoderActors.start(config)
    started = time.monotonic() - start
    batches = ahead(TrainingStream(config, actors).batches(0, 0, 1))
    waits = []
    for _ in range(steps):
        asked = time.monotonic()
        next(batches)
        waits.append(time.monotonic() - asked)
        time.sleep(STEP_S)
    return {
        "encoders_started_seconds": started,
        "first_step_seconds": started + waits[0],
        "steady_wait_seconds_a_step": float(np.mean(waits[config.window :])),
        "steady_longest_wait_seconds": max(waits[config.window :]),
    }


def count(config: DataConfig, steps: int) -> dict[str, float]:
    """Bytes encoded over bytes needed, and the cache's largest size over its bound."""
    cache = Path(f"{config.cache}-counted")
    shutil.copytree(Path(config.cache_folder) / "index", cache / "index")
    bound = steps * CACHE_BYTES_A_STEP
    plan = Plan(replace(config, cache=str(cache), cache_gb=bound / GB))
    names, held = Names(plan.config), keeper(plan)
    encoded: list[int] = []
    sizes: dict[str, int] = {}
    largest = 0

    def room(step: int | None, name: str, size: int) -> bool:
        encoded.append(size)
        sizes[name] = size
        return held.room(step, name, size)

    files = Cache(str(cache), room)
    encoder = ItemEncoder(plan, SpanEncoder(plan.config, files), TextEncoder(plan.config, files))
    start = time.monotonic()
    for step in range(steps + config.window):
        encoder.item(step, 0)
        if step % LOOK_EVERY == 0:
            largest = max(largest, bytes_in(cache))
    seconds = time.monotonic() - start
    needed = {name for step in range(steps) for name in names.all(plan.request(step, 0))}
    return {
        "encoded_gb": sum(encoded) / GB,
        "encoded_over_needed": sum(encoded) / sum(sizes[name] for name in needed),
        "cache_over_bound": largest / bound,
        "items_a_second": steps / seconds,
    }


def bytes_in(cache: Path) -> int:
    """Of the files that the bound is for."""
    return sum(
        path.stat().st_size for folder in FOLDERS for path in (cache / folder).rglob("*") if path.is_file()
    )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
