"""What goes wrong in a training: data that is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from safetensors.torch import load_file

from posegen.dataset import MEDIA, table
from testkit.tiny_training import tiny_config, write_tiny_dataset, write_tiny_model
from training.checkpoint import read_position
from training.cluster import start_ray
from training.config import ClusterConfig, TrainConfig
from training.data.cache import Cache
from training.data.plan import Plan
from training.data.spans import Names
from training.data.stream import TrainingStream, prepare
from training.log import read_log
from training.train import run, trainer

pytestmark = pytest.mark.slow

STEPS = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny model and dataset; the module's cluster is up."""
    path = tmp_path_factory.mktemp("faults")
    write_tiny_model(path / "model")
    write_tiny_dataset(path / "dataset")
    start_ray()
    yield path
    ray.shutdown()


def poisoned(folder: Path, name: str, clips: int) -> TrainConfig:
    """A training whose cache holds latents that are not finite for so many of the clips it trains on."""
    config = tiny_config(folder, folder / name, steps=STEPS)
    config = replace(
        config,
        data=replace(config.data, cache=str(folder / f"{name}-cache")),
        record=replace(config.record, validate_every=0),
        cluster=ClusterConfig(max_workers=2, cpus=0.5),
    )
    prepare(config.data)
    stream = TrainingStream(config.data)
    trained = {clip_id for step in range(STEPS) for clip_id in clip_ids(stream, step)}
    poison(config, set(sorted(trained)[:clips]))
    return config


def clip_ids(stream: TrainingStream, step: int) -> list[str]:
    return next(stream.batches(step, 0, 1)).clip_ids


def poison(config: TrainConfig, clips: set[str]) -> None:
    """Rewrites cached latents of these clips, for each step that shows one, with a number that is none."""
    plan, names = Plan(config.data), Names(config.data)
    cache = Cache(config.data.cache_folder, lambda step, name, size: True)
    requests = [request for step in range(STEPS) for request in plan.requests(step)]
    for name in {names.span(request) for request in requests if request.clip.clip_id in clips}:
        arrays = cache.read(name)
        assert arrays is not None
        latents = arrays["latents"].copy()
        latents[0, 0, 0, 0] = np.nan
        cache.write(None, name, arrays | {"latents": latents})


def test_steps_that_are_not_finite_are_skipped_and_counted(folder: Path) -> None:
    config = poisoned(folder, "one", clips=1)
    stream = TrainingStream(config.data)
    (bad,) = {key for step in range(STEPS) for key in keys_not_finite(stream, step)}
    expected = sum(bad in clip_ids(stream, step) for step in range(STEPS))
    assert 0 < expected < STEPS

    result = trainer(config).fit()

    assert result.metrics == {"step": STEPS}
    rows = read_log(folder / "one")
    assert rows[-1]["skipped_steps"] == expected
    assert sum("loss" in row for row in rows) == STEPS - expected
    last = folder / "one" / f"checkpoint-{STEPS:08}"
    assert read_position(last).skipped == expected
    weights = load_file(last / "adapter" / "adapter_model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())


def keys_not_finite(stream: TrainingStream, step: int) -> list[str]:
    batch = next(stream.batches(step, 0, 1))
    return [
        clip_id
        for clip_id, latents in zip(batch.clip_ids, batch.latents, strict=True)
        if not latents.isfinite().all()
    ]


def test_a_training_without_finite_steps_ends_in_a_sentence_and_keeps_its_last_checkpoint(
    folder: Path,
) -> None:
    config = poisoned(folder, "all", clips=0)
    trainer(replace(config, steps=2)).fit()
    poison(config, {f"clip-{seed:03}" for seed in range(10)})
    with pytest.raises(ValueError, match="gradients of steps 3 to 12 were not finite"):
        run(replace(config, steps=30))
    last = read_position(max((folder / "all").glob("checkpoint-0*")))
    assert last.step - last.skipped == 2


def test_a_training_without_a_clip_that_can_be_used_ends_in_a_sentence(folder: Path) -> None:
    write_tiny_dataset(folder / "broken", clips=3)
    (media,) = (folder / "broken" / "media").iterdir()
    rows = [row | {"media": b"no video"} for row in pq.read_table(media).to_pylist()]
    pq.write_table(table(rows, MEDIA), media)
    config = tiny_config(folder, folder / "none")
    config = replace(
        config,
        data=replace(config.data, dataset=str(folder / "broken"), validation_clips=0),
        cluster=ClusterConfig(cpus=0.5, max_failures=0),
    )
    with pytest.raises(ValueError, match=r"^The training failed\. 20 clips in a row .* Start it again"):
        run(config)


def test_a_checkpoint_is_written_when_the_last_one_is_old(folder: Path) -> None:
    config = tiny_config(folder, folder / "old", steps=4)
    prepare(config.data)
    record = replace(config.record, checkpoint_every=1000, checkpoint_minutes=0.0, validate_every=0)
    trainer(replace(config, record=record)).fit()
    steps = sorted(read_position(path).step for path in (folder / "old").glob("checkpoint-0*"))
    assert steps == [3, 4]
