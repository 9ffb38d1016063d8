"""Networks that run on GPUs, in processes of their own, and what asks them.

Workers on CPUs decode videos, run the small networks and prepare what the large ones see; these run where the GPUs are
and are sent batches. So as many cores decode as there are, however few processes the GPUs hold. A process is sent a
file's content the first time that it is asked for it, so that no node but the worker's needs the file. A model of a
folder it reads itself.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle

from pipeline.config import CurateConfig
from pipeline.plan.shots import Scores, transnet_on
from pipeline.score.embedding import Embed
from posegen.common.profiling import timed
from posegen.driving.poses.runtime import Model, OpenModel, on_cuda


class GpuProcess:
    """Runs networks on its share of a GPU; made a Ray actor by `start`."""

    def __init__(self, open_model: OpenModel = on_cuda, device: str = "cuda") -> None:
        self._open, self._device = open_model, device
        self._models: dict[str, Model] = {}
        self._transnet: Scores | None = None
        self._embed: dict[str, Embed] = {}

    def node(self) -> str:
        """The id of the node it is on."""
        return str(ray.get_runtime_context().get_node_id())

    def shape(self, name: str) -> list[int | str] | None:
        """The shape of a network's input; None where it has not been loaded."""
        return self._models[name].input_shape if name in self._models else None

    def load(self, name: str, content: bytes) -> None:
        """Loads an ONNX file's content, from then on known by the name: the file's and its size."""
        with tempfile.TemporaryDirectory(prefix="posegen-") as scratch:
            file = Path(scratch) / name.rsplit(" ", 1)[0]
            file.write_bytes(content)
            self._models[name] = self._open(file)

    def run(self, name: str, batch: np.ndarray) -> list[np.ndarray] | None:
        """All outputs of a network for a batch; None where it has not been loaded, as after a restart."""
        return self._models[name](batch) if name in self._models else None

    def transnet(self, frames: np.ndarray) -> np.ndarray:
        """TransNetV2's probabilities, see `shots.Scores`."""
        self._transnet = self._transnet or transnet_on(self._device)
        return self._transnet(frames)

    def embed(self, model: str, pictures: np.ndarray) -> np.ndarray:
        """Embeddings by the model of a folder or a hub name, see `embedding.Embed`."""
        if model not in self._embed:
            from pipeline.score.embedder import ClipEmbedder  # imports transformers

            self._embed[model] = ClipEmbedder(model, self._device)
        return self._embed[model](pictures)


@dataclass(frozen=True)
class Gpus:
    """The processes, each with the id of its node; pickles into workers."""

    processes: tuple[tuple[str, ActorHandle], ...]

    def open_model(self, path: Path) -> Model:
        """An ONNX file, run by one of them."""
        return RemoteModel(path, self._near())

    def scores(self) -> Scores:
        """TransNetV2, run by one of them."""
        process = self._near()

        def scores(frames: np.ndarray) -> np.ndarray:
            with timed("model"):
                found: Any = ray.get(process.transnet.remote(frames))
            return np.asarray(found)

        return scores

    def embed(self, model: str) -> Embed:
        """The model of a folder or a hub name, run by one of them."""
        process = self._near()

        def embed(pictures: np.ndarray) -> np.ndarray:
            with timed("model"):
                found: Any = ray.get(process.embed.remote(model, pictures))
            return np.asarray(found)

        return embed

    def _near(self) -> ActorHandle:
        """One on this node, if there are any."""
        here = ray.get_runtime_context().get_node_id()
        near = [process for node, process in self.processes if node == here]
        return random.choice(near or [process for _, process in self.processes])


class RemoteModel:
    """An ONNX file that a GPU process runs."""

    def __init__(self, path: Path, process: ActorHandle) -> None:
        self._path, self._process = path, process
        self._name = f"{path.name} {path.stat().st_size}"
        self.input_shape: list[int | str] = self._asked(process.shape)

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """All outputs for a batch."""
        with timed("model"):
            outputs: list[np.ndarray] = self._asked(self._process.run, batch)
        return outputs

    def _asked(self, method: Any, *arguments: Any) -> Any:
        """What the process answers about this network, which it is sent where it does not have it."""
        while (answer := ray.get(method.remote(self._name, *arguments))) is None:
            ray.get(self._process.load.remote(self._name, self._path.read_bytes()))
        return answer


def processes_of(config: CurateConfig) -> int:
    """How many processes the cluster's GPUs hold; 0 where none is to be used."""
    if not config.gpu_share:
        return 0
    return max(1, int(ray.cluster_resources().get("GPU", 0) / config.gpu_share))


def start(config: CurateConfig, open_model: OpenModel = on_cuda, device: str = "cuda") -> Gpus | None:
    """Starts the processes and waits for them; None where the run uses no GPU.

    They end with the last handle. Calls wait for a process that was lost, and is started again elsewhere.
    """
    # They compute on the GPU, and so leave all cores to those who measure. Two calls at a time: one's input is received
    # while the other's is computed.
    options: dict[str, Any] = {
        "num_cpus": 0,
        "max_concurrency": 2,
        "max_restarts": -1,
        "max_task_retries": -1,
    }
    process: Any = ray.remote(GpuProcess).options(num_gpus=config.gpu_share, **options)
    started = [process.remote(open_model, device) for _ in range(processes_of(config))]
    nodes = ray.get([one.node.remote() for one in started])
    return Gpus(tuple(zip(nodes, started, strict=True))) if started else None
