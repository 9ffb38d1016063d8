"""Small ONNX files with the inputs and outputs of the published networks, whose answers a test can foretell.

They look for coloured marks: the detector for red blocks, the keypoint networks for the brightest spot of a
colour. Each undoes its published normalisation first, so wrong channels or scaling show as wrong answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GREEN, BLUE = 1, 2
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
SAPIENS = ((123.5, 116.5, 103.5), (58.5, 57.0, 57.5))
DETECTED = (40.0, 56.0)  # width and height of every box that the detector finds, in its own pixels


class Graph:
    """Collects operators and constants; each method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        result = result or f"{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [result], **attributes))
        return result

    def pixels(self, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
        """The picture's values as 0..1, red, green, blue."""
        scaled = self.add("Mul", "images", self.constant(np.reshape(std, (3, 1, 1)) / 255))
        return self.add("Add", scaled, self.constant(np.reshape(mean, (3, 1, 1)) / 255))

    def save(
        self,
        path: Path,
        batch: int | None,
        size: tuple[int, int],
        outputs: dict[str, tuple[int, ...]],
        channels: int = 3,
        kind: int = TensorProto.FLOAT,
    ) -> Path:
        """Writes the file; batch: its fixed number of pictures, or None for any; size: (width, height).

        channels, kind: of the input.
        """
        number = "n" if batch is None else batch
        image = helper.make_tensor_value_info("images", kind, [number, channels, size[1], size[0]])
        results = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [number, *shape])
            for name, shape in outputs.items()
        ]
        graph = helper.make_graph(self.nodes, path.stem, [image], results, self.constants)
        opset = helper.make_opsetid("", 18)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
        return path


def yolox(path: Path, side: int = 416, batch: int | None = 1) -> Path:
    """A detector of a DETECTED person around each red cell of 8 x 8; the score is its redness."""
    graph = Graph()
    green = graph.add("Gather", "images", graph.constant([1], np.int64), axis=1)
    red = graph.add(
        "Gather", "images", graph.constant([2], np.int64), axis=1
    )  # the input is blue, green, red
    redness = graph.add("Relu", graph.add("Sub", red, green))
    cells = graph.add("AveragePool", redness, kernel_shape=[8, 8], strides=[8, 8])
    count, others = (side // 8) ** 2, (side // 16) ** 2 + (side // 32) ** 2
    listed = graph.add("Reshape", cells, graph.constant([-1, count, 1], np.int64))
    objectness = graph.add("Pad", listed, graph.constant([0, 0, 0, 0, others, 0], np.int64))
    varying, fixed = np.zeros((1, 1, 85)), np.zeros((1, 1, 85))
    varying[..., 4] = 1 / 255
    fixed[..., :4] = 0.5, 0.5, *np.log(np.array(DETECTED) / 8)
    fixed[..., 5] = 1  # the first class, surely
    raw = graph.add("Mul", objectness, graph.constant(varying))
    graph.add("Add", raw, graph.constant(fixed), result="output")
    return graph.save(path, batch, (side, side), {"output": (count + others, 85)})


def simcc(path: Path, channels: list[int], batch: int | None = None) -> Path:
    """DWPose's network: keypoint k is the brightest spot of colour channels[k]."""
    graph = Graph()
    pixels = graph.pixels(*IMAGENET)
    chosen = graph.constant(channels, np.int64)
    for result, across in (("simcc_x", 2), ("simcc_y", 3)):
        profile = graph.add("ReduceMax", pixels, graph.constant([across], np.int64), keepdims=0)
        halves = graph.add(
            "Resize",
            profile,
            "",
            graph.constant([1, 1, 2]),
            mode="linear",
            coordinate_transformation_mode="asymmetric",
        )
        graph.add("Gather", halves, chosen, axis=1, result=result)
    return graph.save(path, batch, (288, 384), {"simcc_x": (133, 576), "simcc_y": (133, 768)})


def heatmaps(
    path: Path, channels: list[int], ramps: np.ndarray | None = None, batch: int | None = None
) -> Path:
    """Sapiens' pose network: heatmap k is colour channels[k], times ramps[k] (192,) across if given."""
    graph = Graph()
    small = graph.add(
        "Resize",
        graph.pixels(*SAPIENS),
        "",
        "",
        graph.constant([256, 192], np.int64),
        axes=[2, 3],
        mode="linear",
        coordinate_transformation_mode="align_corners",
    )
    chosen = graph.add("Gather", small, graph.constant(channels, np.int64), axis=1)
    factors = np.ones((133, 192)) if ramps is None else ramps
    graph.add("Mul", chosen, graph.constant(factors[None, :, None]), result="heatmaps")
    return graph.save(path, batch, (768, 1024), {"heatmaps": (133, 256, 192)})


def colour_maps(path: Path, matrix: np.ndarray, offset: np.ndarray, batch: int | None = None) -> Path:
    """Sapiens' dense networks at an eighth of the size: channels matrix @ (red, green, blue) + offset."""
    graph = Graph()
    small = graph.add("AveragePool", graph.pixels(*SAPIENS), kernel_shape=[8, 8], strides=[8, 8])
    weights, bias = graph.constant(matrix[:, :, None, None]), graph.constant(offset)
    graph.add("Conv", small, weights, bias, result="maps")
    return graph.save(path, batch, (768, 1024), {"maps": (len(matrix), 128, 96)})


def explicit(
    path: Path,
    batch: int | None = 1,
    channels: int = 3,
    scores: int = 1,
    twice: bool = False,
    double: bool = False,
    factor: float = 1.0,
) -> Path:
    """A detector of explicit content whose score is the picture's mean redness, 0..1, times `factor`.

    The others spoil its form: the input's channels, the scores of a picture, a second output, an input of float64.
    """
    graph = Graph()
    image = graph.add("Cast", "images", to=TensorProto.FLOAT)
    red = graph.add("Gather", image, graph.constant([0], np.int64), axis=1)
    means = graph.add("ReduceMean", red, graph.constant([2, 3], np.int64), keepdims=0)
    results = ["score", "again"][: 1 + twice]
    for result in results:
        graph.add("Mul", means, graph.constant(np.full((1, scores), factor)), result=result)
    size, kind = (64, 64), TensorProto.DOUBLE if double else TensorProto.FLOAT
    return graph.save(path, batch, size, dict.fromkeys(results, (scores,)), channels, kind)
