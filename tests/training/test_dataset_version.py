"""A training keeps to the versions of the datasets that it began with."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest

from posegen import versions
from posegen.common.storage import Folder
from testkit.tiny_training import tiny_config, write_tiny_dataset, write_tiny_model
from training.checkpoint import POSITION_FILE, Position, check_output, fingerprint
from training.config import TrainConfig
from training.data.plan import Key, Plan
from training.data.stream import TrainingStream, prepare
from training.data.tables import Place, Tables
from training.dataset_versions import with_newest, with_versions


def test_a_training_keeps_to_its_version_when_another_is_written(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))

    def publish(name: str) -> None:
        folder.write_table(name, pa.table({"clip_id": [name]}))
        versions.publish(folder, {"clips": {name: 1}, "media": {}})

    def ids(tables: Tables) -> list[str]:
        return [
            id_ for _, rows, _ in tables.scan("clips", ["clip_id"]) for id_ in rows["clip_id"].to_pylist()
        ]

    publish("clips/a.parquet")
    begun = Tables(str(tmp_path), 1)
    ((file, _, groups),) = begun.scan("clips", ["clip_id"])
    publish("clips/b.parquet")
    assert begun.row(Place(file, int(groups[0])), "clips/a.parquet", ["clip_id"]) == {
        "clip_id": "clips/a.parquet"
    }
    assert ids(begun) == ["clips/a.parquet"]
    assert ids(Tables(str(tmp_path))) == ["clips/b.parquet"]


def test_a_training_goes_on_with_the_version_that_it_began_with(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model")
    grow(tmp_path / "dataset", clips=5)
    config = tiny_config(tmp_path, tmp_path / "run")
    begun = with_versions(config)
    assert begun.data.dataset_versions == {config.data.dataset: 1}
    prepare(begun.data, tell=lambda line: None)
    write_checkpoint(begun, step=3)

    grow(tmp_path / "dataset", clips=9)
    again = with_versions(config)
    assert again == begun
    check_output(again, TrainingStream(again.data))

    newest = {config.data.dataset: 2}
    other = with_versions(replace(config, output=str(tmp_path / "other")))
    assert other.data.dataset_versions == newest
    asked = with_versions(replace(config, data=replace(config.data, dataset_versions=newest)))
    prepare(asked.data, tell=lambda line: None)
    with pytest.raises(ValueError, match="holds a training on other clips"):
        check_output(asked, TrainingStream(asked.data))


def test_a_training_that_has_no_checkpoint_yet_takes_the_newest(tmp_path: Path) -> None:
    grow(tmp_path / "dataset", clips=2)
    config = tiny_config(tmp_path, tmp_path / "run")
    for clips, version in ((2, 1), (3, 2)):
        grow(tmp_path / "dataset", clips)
        assert with_versions(config).data.dataset_versions == {config.data.dataset: version}


def test_a_training_takes_the_newest_version_from_an_epochs_beginning(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model")
    grow(tmp_path / "dataset", clips=10)
    config = tiny_config(tmp_path, tmp_path / "run")
    begun = with_versions(config)
    before = stream_of(begun)
    write_checkpoint(begun, step=3)
    assert before.steps_per_epoch == 2  # 8 clips, as two are validated on, in batches of 4

    grow(tmp_path / "dataset", clips=18)
    taken = with_newest(with_versions(config), before)
    assert taken.data.later_versions == ((4, {config.data.dataset: 2}),)
    after = stream_of(taken)
    check_output(taken, after)
    assert after.steps_per_epoch == 4
    assert [keys(before, step) for step in range(4)] == [keys(after, step) for step in range(4)]
    epoch = [key for step in range(4, 8) for key in keys(after, step)]
    held_out = {request.clip.clip_id for batch in Plan(begun.data).validation for request in batch}
    assert sorted({key.clip_id for key in epoch} | held_out) == [f"clip-{seed:03}" for seed in range(18)]
    assert {key.epoch for key in epoch} == {2}  # epochs go on, and with them the noise

    # Before the epoch, the part may still be decided anew; after it, it stays whatever is added and asked for.
    assert with_versions(config).data.later_versions == ()
    assert with_newest(with_versions(config), before) == taken
    write_checkpoint(taken, step=5)
    grow(tmp_path / "dataset", clips=19)
    again = with_versions(config)
    assert again == taken
    check_output(again, stream_of(again))
    third = with_newest(again, stream_of(again))
    assert third.data.later_versions == (*taken.data.later_versions, (8, {config.data.dataset: 3}))
    check_output(third, stream_of(third))


def test_versions_are_not_taken_within_an_epoch(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model")
    grow(tmp_path / "dataset", clips=10)
    config = with_versions(tiny_config(tmp_path, tmp_path / "run"))
    within = replace(config.data, later_versions=((3, config.data.dataset_versions),))
    prepare(within, tell=lambda line: None)
    with pytest.raises(ValueError, match="Step 3 does not begin an epoch"):
        Plan(within)


def stream_of(config: TrainConfig) -> TrainingStream:
    prepare(config.data, tell=lambda line: None)
    return TrainingStream(config.data)


def keys(stream: TrainingStream, step: int) -> list[Key]:
    """Of the items of a step."""
    return [request.key for request in Plan(stream.config).requests(step)]


def grow(dataset: Path, clips: int) -> None:
    """Publishes so many clips as the dataset's newest version; those of earlier ones are put away."""
    with tempfile.TemporaryDirectory() as scratch:
        made = write_tiny_dataset(Path(scratch) / "made", clips)
        names = {table: {f"{table}/of-{clips}.parquet": clips} for table in versions.TABLES}
        for table in versions.TABLES:
            Folder(str(dataset)).save(f"{table}/of-{clips}.parquet", made / table / "part-0.parquet")
    versions.publish(Folder(str(dataset)), names)


def write_checkpoint(config: TrainConfig, step: int) -> None:
    """What tells that the training has come to this step."""
    position = Position(step, fingerprint(config, TrainingStream(config.data), step))
    name = f"checkpoint-{step:08}/{POSITION_FILE}"
    Folder(config.output).write(name, json.dumps(asdict(position)).encode())
