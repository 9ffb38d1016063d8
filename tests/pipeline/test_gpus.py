"""Networks in processes of their own answer as they do here, and outlive a process.

There is no GPU here: the processes run the same networks on CPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from pipeline.config import CurateConfig
from pipeline.curate import pool_size
from pipeline.gpus import GpuProcess, Gpus, processes_of, start
from pipeline.plan.planner import make_planner
from pipeline.plan.shots import transnet_on
from pipeline.plan.source import Source
from pipeline.score.embedder import make_embedder
from posegen.common.storage import Folder
from posegen.driving.poses import load_estimator
from posegen.driving.poses.runtime import CudaError, on_cpu
from testkit import onnx_models
from testkit.tiny_clip import save_tiny_clip
from testkit.videos import write_video

SIZE = (320, 240)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    onnx_models.yolox(folder / "yolox_l.onnx")
    onnx_models.simcc(folder / "dw-ll_ucoco_384.onnx", [k % 3 for k in range(133)])
    return folder


def frames() -> np.ndarray:
    """Two pictures (2, H, W, 3) with a red spot each."""
    pictures = np.full((2, SIZE[1], SIZE[0], 3), 40, np.uint8)
    pictures[0, 100:116, 80:96] = pictures[1, 60:76, 200:216] = (250, 20, 20)
    return pictures


def on_cpus(config: CurateConfig) -> Gpus:
    gpus = start(config, on_cpu, "cpu")
    assert gpus is not None
    return gpus


@pytest.fixture(scope="module")
def gpus() -> Iterator[Gpus]:
    """Two processes, each with half of what Ray takes for a GPU."""
    ray.init(num_cpus=2, num_gpus=1, log_to_driver=False)
    yield on_cpus(CurateConfig("in", "out", gpu_share=0.5))
    ray.shutdown()


@pytest.mark.slow
def test_processes_share_the_gpus_and_leave_the_cores(gpus: Gpus) -> None:
    config = CurateConfig("in", "out", gpu_share=0.5)
    assert len(gpus.processes) == processes_of(config) == 2
    assert pool_size(config) == 2  # as many decode as there are cores
    assert start(CurateConfig("in", "out")) is None


@pytest.mark.slow
def test_poses_are_the_same_as_in_this_process(gpus: Gpus, weights: Path) -> None:
    here = load_estimator("dwpose", weights)(frames())
    there = load_estimator("dwpose", weights, open_model=gpus.open_model)
    for _ in range(2):
        for own, far in zip(here, there(frames()), strict=True):
            assert len(own) == len(far) > 0
            for one, other in zip(own, far, strict=True):
                np.testing.assert_array_equal(one.keypoints, other.keypoints)
    for _, process in gpus.processes:
        ray.kill(process, no_restart=False)
    assert list(map(len, there(frames()))) == list(map(len, here))  # the files were sent again


@pytest.mark.slow
def test_shots_are_the_same_as_in_this_process(gpus: Gpus, tmp_path: Path) -> None:
    window = np.random.default_rng(0).integers(0, 255, (100, 27, 48, 3), np.uint8)
    np.testing.assert_allclose(gpus.scores()(window), transnet_on("cpu")(window), atol=1e-5)
    write_video(tmp_path / "a.mp4", range(90))
    config = CurateConfig(str(tmp_path), "out", shots="transnetv2", gpu_share=0.5)
    with Source(Folder(str(tmp_path)), "a.mp4") as source:
        assert make_planner(config, gpus.scores())(source).num_rows >= 1


@pytest.mark.slow
def test_embeddings_are_the_same_as_in_this_process(gpus: Gpus, tmp_path: Path) -> None:
    config = CurateConfig("in", "out", embedder=str(save_tiny_clip(tmp_path)), gpu_share=0.5)
    assert config.embedder
    here, there = make_embedder(config), make_embedder(config, gpus.embed(config.embedder))
    pictures = np.stack([here.prepare(frame) for frame in frames()])
    np.testing.assert_allclose(there.embed(pictures), here.embed(pictures), atol=1e-6)
    for _, process in gpus.processes:
        ray.kill(process, no_restart=False)
    np.testing.assert_allclose(
        there.embed(pictures), here.embed(pictures), atol=1e-6
    )  # the model was loaded again


@pytest.mark.slow
def test_a_file_that_cannot_be_loaded_is_an_error_of_the_one_who_asks(gpus: Gpus, tmp_path: Path) -> None:
    (tmp_path / "yolox_l.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match="cannot be read as an ONNX model"):
        load_estimator("dwpose", tmp_path, open_model=gpus.open_model)


def test_a_process_without_a_gpu_says_so(weights: Path) -> None:
    with pytest.raises(CudaError, match="install onnxruntime-gpu"):
        GpuProcess().load("yolox_l.onnx 1", (weights / "yolox_l.onnx").read_bytes())
