"""The two runtimes of the pose models, each behind one call: array in, arrays out.

LiteRT (with XNNPACK) runs the TFLite files as published, onnxruntime the ONNX files; one thread each, as curation runs
one process a core. A TFLite file can be cut down to the outputs that are used: BlazePose's body model gives the same
landmarks in 0.6 of the time without its segmentation.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from posegen.common.profiling import timed


class CudaError(ValueError):
    """A GPU was asked for and cannot be used; the message says what to do."""


class TFLiteModel:
    """A TFLite model of one image input: (H, W, 3) in, arrays without the batch axis out.

    outputs: which of the file's outputs are computed, by position; all of them by default.
    """

    def __init__(self, path: Path, outputs: list[int] | None = None, threads: int = 1) -> None:
        content = path.read_bytes()
        if outputs is not None:
            content = only_outputs(content, outputs)
        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        self._interpreter.allocate_tensors()
        entry = self._interpreter.get_input_details()[0]
        self._input = entry["index"]
        self.size: int = int(entry["shape"][1])
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]

    def __call__(self, image: np.ndarray, scale: float = 1 / 255, offset: float = 0.0) -> list[np.ndarray]:
        """Outputs for one image (size, size, 3) uint8, of which the network sees `image * scale + offset`."""
        entry = self._interpreter.tensor(self._input)()
        np.multiply(image, np.float32(scale), out=entry[0])
        if offset:
            entry += np.float32(offset)
        del entry  # LiteRT refuses to run while a view of its memory is alive
        with timed("model"):
            self._interpreter.invoke()
        return [self._interpreter.get_tensor(index)[0] for index in self._outputs]


class Model(Protocol):
    """A network of one input: its shape, names standing for what is open, and all outputs for a batch of it."""

    input_shape: list[int | str]

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]: ...


OpenModel = Callable[[Path], Model]
"""What opens an ONNX file and decides where it runs."""


def on_cpu(path: Path) -> ONNXModel:
    """An ONNX file, run on this process' CPU."""
    return ONNXModel(path)


def on_cuda(path: Path) -> ONNXModel:
    """An ONNX file, run on this process' GPU; raises CudaError where there is none."""
    return ONNXModel(path, cuda=True)


class ONNXModel:
    """An ONNX model of one input, on the CPU or, where `cuda` asks for it, on a GPU.

    Raises ValueError where the file is no ONNX model or onnxruntime is not installed, and CudaError where it cannot use
    a GPU that was asked for, which it would pass over in silence.
    """

    def __init__(self, path: Path, threads: int = 1, cuda: bool = False) -> None:
        onnxruntime = _onnxruntime(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        providers: list[Any] = ["CPUExecutionProvider"]
        if cuda and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        state = onnxruntime.capi.onnxruntime_pybind11_state
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except (state.InvalidProtobuf, state.InvalidGraph, state.Fail, state.NoSuchFile) as error:
            raise ValueError(f"{path} cannot be read as an ONNX model ({error}): fetch it again.") from error
        if cuda and "CUDAExecutionProvider" not in self._session.get_providers():
            raise CudaError(
                f"{path.name} was to run on a GPU, but onnxruntime {onnxruntime.__version__} cannot use CUDA here; "
                "install onnxruntime-gpu and NVIDIA's libraries, or ask for no GPU"
            )
        entry = self._session.get_inputs()[0]
        self._input: str = entry.name
        self.input_shape: list[int | str] = entry.shape

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """All outputs, in the file's order, for a batch of the input's shape and type."""
        with timed("model"):
            return self._session.run(None, {self._input: batch})


def _onnxruntime(path: Path) -> Any:
    """The module, whose builds for CPUs and for GPUs are two packages of which only one can be installed."""
    try:
        return import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path.name} needs onnxruntime: pip install 'posegen[cpu]', or 'posegen[gpu]' for NVIDIA's GPUs."
        ) from error


def only_outputs(content: bytes, outputs: list[int]) -> bytes:
    """A TFLite file that computes only these of its outputs: operators that none of them needs are left out."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    graph.outputs = [graph.outputs[position] for position in outputs]
    needed = {int(tensor) for tensor in graph.outputs}
    kept = []
    for operator in reversed(graph.operators):  # operators stand in the order they run
        if not needed.isdisjoint(int(tensor) for tensor in operator.outputs):
            kept.append(operator)
            needed.update(int(tensor) for tensor in operator.inputs)
    graph.operators = kept[::-1]
    model.signatureDefs = []
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits (of any shape); those beyond 80, where float32 overflows, count as 80."""
    return 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
