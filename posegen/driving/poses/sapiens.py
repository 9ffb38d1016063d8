"""Sapiens (Khirodkar et al. 2024): 133 keypoints, surface normals, body parts, the hand video.

Networks are ONNX files. The publishers have TorchScript, which becomes ONNX by
    torch.onnx.export(torch.jit.load(file), torch.zeros(1, 3, 1024, 768), "sapiens_pose.onnx", dynamo=False,
                      input_names=["image"], dynamic_axes={"image": {0: "n"}})
of `noahcao/sapiens-pose-coco`, `facebook/sapiens-normal-2b-torchscript`,
`facebook/sapiens-seg-1b-torchscript`; so there is no public place to fetch them from. Meta's Sapiens
licence does not allow every use: read it first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from posegen.common.weights import Weight, fetch
from posegen.driving.poses.network import Channels, PictureNetwork
from posegen.driving.poses.runtime import OpenModel, on_cpu
from posegen.driving.poses.topdown import TopDown
from posegen.driving.poses.yolox import DETECTOR, YoloxDetector
from posegen.driving.skeleton import FLIP_ORDER

POSE = Weight("sapiens_pose.onnx")
NORMALS = Weight("sapiens_normal.onnx")
SEGMENTATION = Weight("sapiens_seg.onnx")
MEAN: Channels = (123.5, 116.5, 103.5)  # RGB
STD: Channels = (58.5, 57.0, 57.5)
LEFT_HAND, RIGHT_HAND = 5, 14  # of the 28 Goliath classes


class Sapiens(TopDown):
    """A PoseEstimator by Sapiens.

    weights: the ONNX file, or a folder or URI of it. detector: the file, folder, URI or hub name of a YOLOX;
    None looks for one person in the whole frame. flip_test: take the mean of a picture's and its mirror
    image's heatmaps, at twice the cost. open_model: where the networks run. batch: frames, then
    people, a run. Raises posegen.common.weights.WeightsError where a file cannot be had and ValueError where it is
    not such a model.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        detector: str | Path | None = None,
        flip_test: bool = False,
        open_model: OpenModel = on_cpu,
        batch: int = 4,
    ) -> None:
        network = PictureNetwork(fetch(POSE, weights), MEAN, STD, open_model)
        boxes = None
        if detector is not None:
            boxes = YoloxDetector(fetch(DETECTOR, detector), open_model, batch)

        def infer(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            heatmaps = network(inputs)[0]
            if heatmaps.shape[1:2] != (133,):
                raise ValueError(
                    f"{network.path} gives {heatmaps.shape}, not 133 heatmaps: give another file."
                )
            if flip_test:
                mirrored = network(np.ascontiguousarray(inputs[..., ::-1]))[0]
                heatmaps = (heatmaps + mirrored[:, FLIP_ORDER, :, ::-1]) / 2
            points, confidences = decode_heatmaps(heatmaps)
            cells = np.array(heatmaps.shape[:1:-1]) - 1  # last column and row
            return points * (np.array(network.size) - 1) / cells, confidences

        super().__init__(boxes, network, infer, unbiased=True, batch=batch)


# (3, 13): a blur's weights for a cell and its two neighbours; 11 cells of sigma 2, as in training.
BLUR = np.stack([np.pad(cv2.getGaussianKernel(11, 2)[:, 0], (shift, 2 - shift)) for shift in range(3)])


def decode_heatmaps(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, K, 2) in heatmap cells and confidences (n, K), the maxima, of heatmaps (n, K, H, W).

    DARK (Zhang et al. 2020, arXiv 1910.06278) as UDP uses it (arXiv 1911.07524): blur, take the logarithm,
    and go from the largest cell to the top of the parabola that value, slope and curvature there describe.
    Only the 3 x 3 blurred values that this needs are computed. Where they describe no top, the largest cell
    stays.
    """
    n, keypoints, height, width = heatmaps.shape
    flat = heatmaps.reshape(n * keypoints, height * width)
    largest = flat.argmax(axis=1)
    rows, columns = np.divmod(largest, width)
    confidences = flat[np.arange(len(flat)), largest]
    around = _blurred_around(heatmaps.reshape(-1, height, width), rows, columns)  # (n * K, 3, 3)
    around *= (confidences / np.maximum(around.max(axis=(1, 2)), 1e-12))[:, None, None]
    points = np.stack([columns, rows], axis=1) + _parabola_top(np.log(np.clip(around, 1e-3, 50)))
    return points.reshape(n, keypoints, 2), confidences.reshape(n, keypoints)


def _blurred_around(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(m, 3, 3) values around one cell of each map (m, H, W) after the blur, repeated beyond the edge."""
    _, height, width = maps.shape
    reach = np.arange(BLUR.shape[1]) - BLUR.shape[1] // 2
    down, right = rows[:, None] + reach, columns[:, None] + reach  # (m, 13)
    inside = ((down >= 0) & (down < height))[:, :, None] & ((right >= 0) & (right < width))[:, None, :]
    down, right = down.clip(0, height - 1)[:, :, None], right.clip(0, width - 1)[:, None, :]
    patches = maps[np.arange(len(maps))[:, None, None], down, right] * inside  # (m, 13, 13)
    blurred = BLUR @ patches @ BLUR.T
    for side, row, column in ((0, 0, 0), (2, height - 1, width - 1)):
        blurred[rows == row, side] = blurred[rows == row, 1]
        blurred[columns == column, :, side] = blurred[columns == column, :, 1]
    return blurred


def _parabola_top(values: np.ndarray) -> np.ndarray:
    """(m, 2) steps right and down from the middle of (m, 3, 3) to its parabola's top; 0 where it has none."""
    middle = values[:, 1, 1]
    left, right, above, below = values[:, 1, 0], values[:, 1, 2], values[:, 0, 1], values[:, 2, 1]
    dx, dy = (right - left) / 2, (below - above) / 2
    dxx, dyy = right - 2 * middle + left, below - 2 * middle + above
    dxy = (values[:, 2, 2] - right - below + 2 * middle - left - above + values[:, 0, 0]) / 2
    determinant = dxx * dyy - dxy**2
    top = (determinant > 1e-9) & (dxx < 0)
    step = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=1)
    return np.where(top[:, None], step / np.where(top, determinant, 1)[:, None], 0)


class SapiensNormals:
    """The surface normal at each pixel of a person, as the camera sees it. batch: frames a run."""

    def __init__(
        self, weights: str | Path | None = None, open_model: OpenModel = on_cpu, batch: int = 4
    ) -> None:
        self._network = PictureNetwork(fetch(NORMALS, weights), MEAN, STD, open_model)
        self._batch = batch

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) float32 unit vectors x, y, z for N > 0 frames (N, H, W, 3) uint8 RGB."""
        normals = np.stack(list(_maps(self._network, frames, self._batch, channels=3)))
        return normals / (np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-5)


class SapiensSegmentation:
    """The part of the body at each pixel: one of 28 classes, 0 the background. batch: frames a run."""

    def __init__(
        self, weights: str | Path | None = None, open_model: OpenModel = on_cpu, batch: int = 4
    ) -> None:
        self._network = PictureNetwork(fetch(SEGMENTATION, weights), MEAN, STD, open_model)
        self._batch = batch

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """(N, H, W) uint8 classes for N > 0 frames (N, H, W, 3) uint8 RGB."""
        scores = _maps(self._network, frames, self._batch, channels=28)
        return np.stack([classes.argmax(axis=-1).astype(np.uint8) for classes in scores])


def _maps(network: PictureNetwork, frames: np.ndarray, batch: int, channels: int) -> Iterator[np.ndarray]:
    """The network's map (H, W, channels) of each whole frame, which it sees squeezed to its own size."""
    height, width = frames.shape[1:3]
    for start in range(0, len(frames), batch):
        squeezed = [
            cv2.resize(frame, network.size, interpolation=cv2.INTER_LINEAR)
            for frame in frames[start : start + batch]
        ]
        for seen in network(network.inputs(squeezed))[0]:
            if len(seen) != channels:
                raise ValueError(
                    f"{network.path} gives {len(seen)} channels, not {channels}: give another file."
                )
            yield cv2.resize(seen.transpose(1, 2, 0), (width, height), interpolation=cv2.INTER_LINEAR)


def hand_video(frames: np.ndarray, normals: SapiensNormals, segmentation: SapiensSegmentation) -> np.ndarray:
    """What the network sees of the hands: their normals, -1..1 as 0..255, on black; (N, H, W, 3) uint8 RGB.

    frames: N > 0 frames (N, H, W, 3) uint8 RGB of one chunk; 100 bytes a pixel are held on the way.
    """
    parts = segmentation(frames)
    hands = (parts == LEFT_HAND) | (parts == RIGHT_HAND)
    colours = ((normals(frames) + 1) / 2 * 255).astype(np.uint8)
    return np.where(hands[..., None], colours, np.uint8(0))
