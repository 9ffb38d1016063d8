"""A training whose output is a bucket, which refuses one call in five with SlowDown."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from pyarrow import fs

from posegen.common.storage import Folder, StorageError
from posegen.model.checkpoints import read_adapter
from testkit.buckets import BucketProxy
from testkit.tiny_training import tiny_config, write_tiny_dataset, write_tiny_model
from training.checkpoint import positions
from training.cluster import start_ray
from training.config import ClusterConfig
from training.log import Log, read_log
from training.output import below, fetched, open_output, ray_storage
from training.train import main, run


@pytest.fixture
def own_ray() -> Iterator[None]:
    """A cluster that begins when the environment names the bucket."""
    yield
    ray.shutdown()


@pytest.mark.long
def test_a_training_into_a_bucket_that_refuses_calls_ends_well_and_goes_on(
    proxy: BucketProxy, bucket: str, tmp_path: Path, own_ray: None
) -> None:
    write_tiny_model(tmp_path / "model")
    write_tiny_dataset(tmp_path / "dataset")
    config = tiny_config(tmp_path, tmp_path, steps=4)
    record = replace(config.record, sample_every=4, sample_clips=1, num_inference_steps=1)
    config = replace(
        config,
        output=f"{bucket}/below/run",
        record=record,
        data=replace(config.data, cache=f"{bucket}/cache"),
        cluster=ClusterConfig(cpus=0.5),
    )
    proxy.share = 0.2
    start_ray()
    assert run(config) == f"{bucket}/below/run/adapters/base"
    run(replace(config, steps=6))
    assert proxy.refused > 10
    proxy.share = 0.0

    output = Folder(config.output)
    assert [row["step"] for row in read_log(config.output) if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [position.step for position in positions(config.output)] == [4, 6]
    assert [name.startswith("step-00000004-clip-") for name in output.names("samples")] == [True]
    assert any(name.startswith("events.out") for name in output.names("tensorboard"))
    assert Folder(f"{bucket}/cache").folders() == ["index", "latents", "text"]
    with (
        fetched(config.output, "adapters/base") as finished,
        fetched(config.output, "checkpoint-00000006/ema") as last,
    ):
        expected = read_adapter(last).tensors
        for name, tensor in read_adapter(finished).tensors.items():
            assert tensor.equal(expected[name])


def test_an_output_that_cannot_be_written_is_refused_before_anything_starts(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match="is a whole bucket; give the output a folder in it"):
        open_output(bucket)
    (tmp_path / "file").write_text("")
    for wrong in (f"{bucket}-that-is-not-there/run", str(tmp_path / "file" / "run")):
        with pytest.raises(StorageError, match=r"cannot be written: .*look for a mistake in it"):
            open_output(wrong)
        monkeypatch.setattr("sys.argv", ["train.py", "mini_cpu", "--output", wrong])
        with pytest.raises(SystemExit, match=r"train: .* cannot be written"):
            main()
    with pytest.raises(StorageError, match="no folder that can be opened"):
        open_output("ftp://somewhere/run")
    assert not ray.is_initialized()


def test_rays_storage_is_patient_and_does_all_that_a_file_system_does(
    proxy: BucketProxy, bucket: str
) -> None:
    storage = ray_storage(f"{bucket}/below/run")
    assert (storage["name"], storage["storage_path"]) == ("run", f"{bucket.removeprefix('s3://')}/below")
    files = pickle.loads(pickle.dumps(storage["storage_filesystem"]))
    assert files == storage["storage_filesystem"]
    proxy.share = 0.5
    folder = f"{storage['storage_path']}/run"
    files.create_dir(folder)
    for name in "ab":
        with files.open_output_stream(f"{folder}/{name}") as stream:
            stream.write(name.encode())
    files.copy_file(f"{folder}/a", f"{folder}/c")
    files.move(f"{folder}/b", f"{folder}/d")
    found = files.get_file_info(fs.FileSelector(folder, recursive=True))
    assert sorted(info.base_name for info in found) == ["a", "c", "d"]
    with files.open_input_file(f"{folder}/d") as file, files.open_input_stream(f"{folder}/c") as stream:
        assert (file.read(), stream.read()) == (b"b", b"a")
    files.delete_file(f"{folder}/a")
    files.delete_dir_contents(folder)
    assert files.get_file_info(f"{folder}/c").type == fs.FileType.NotFound
    files.delete_dir(folder)
    assert proxy.refused > 5


def test_what_ended_a_run_is_removed_and_the_rest_stays(bucket: str) -> None:
    folder = Folder(f"{bucket}/run")
    for name in ("stop", "diverged.txt", "log.jsonl"):
        folder.write(name, b"")
    open_output(f"{bucket}/run")
    assert folder.names() == ["log.jsonl"]


def test_a_log_in_a_bucket_goes_on(bucket: str) -> None:
    log = Log(f"{bucket}/run", 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": float(step)})
    log.send()
    log.write(4, {"loss": 4.0})  # never sent, as if the machine was taken away
    other = Log(f"{bucket}/run", 2)
    other.write(3, {"loss": 0.5})
    other.close()
    assert [(row["step"], row["loss"]) for row in read_log(f"{bucket}/run")] == [(1, 1.0), (2, 2.0), (3, 0.5)]


def test_names_below_a_uri_keep_its_options() -> None:
    assert below("s3://bucket/run/", "adapters/base") == "s3://bucket/run/adapters/base"
    assert below("s3://bucket/run?region=eu-west-1", "a") == "s3://bucket/run/a?region=eu-west-1"
