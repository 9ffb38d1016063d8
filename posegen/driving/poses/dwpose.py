"""DWPose (Yang et al. 2023; Apache-2.0): YOLOX finds people, a SimCC network their 133 keypoints.

Both files come from one place, `yzd-v/DWPose` on the hub unless a folder, URI or other repository is given; another
YOLOX file may take the detector's part (a small one makes a CPU bearable).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from posegen.common.weights import Weight, fetch
from posegen.driving.poses.network import Channels, PictureNetwork
from posegen.driving.poses.runtime import OpenModel, on_cpu
from posegen.driving.poses.topdown import TopDown
from posegen.driving.poses.yolox import DETECTOR, YoloxDetector

POSE = Weight("dw-ll_ucoco_384.onnx", hub="yzd-v/DWPose")
MEAN: Channels = (123.675, 116.28, 103.53)  # of ImageNet, RGB
STD: Channels = (58.395, 57.12, 57.375)
SPLIT_RATIO = 2  # SimCC bins a window pixel


class DWPose(TopDown):
    """A PoseEstimator by DWPose.

    weights: where both files are; None is the hub. detector: another place, or file, of a YOLOX with raw
    outputs. open_model: where the networks run. batch: frames, then people, a run. Raises
    posegen.common.weights.WeightsError where a file cannot be had and ValueError where it is not such a model.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        detector: str | Path | None = None,
        open_model: OpenModel = on_cpu,
        batch: int = 8,
    ) -> None:
        place = detector if detector is not None else weights
        boxes = YoloxDetector(fetch(DETECTOR, place), open_model, batch)
        network = PictureNetwork(fetch(POSE, weights), MEAN, STD, open_model)

        def infer(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            outputs = network(inputs)
            bins = [SPLIT_RATIO * side for side in network.size]
            if [output.shape[1:] for output in outputs] != [(133, count) for count in bins]:
                raise ValueError(
                    f"{network.path} does not give 133 points in {bins} SimCC bins: give another file."
                )
            return decode_simcc(*outputs)

        super().__init__(boxes, network, infer, unbiased=False, batch=batch)


def decode_simcc(columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, K, 2) in window pixels and confidences (n, K) of SimCC (Li et al. 2022, arXiv 2107.03332).

    columns (n, K, 2 width), rows (n, K, 2 height): scores of each half pixel across and down; the confidence
    is the smaller of the two maxima.
    """
    points = np.stack([columns.argmax(-1), rows.argmax(-1)], axis=-1) / SPLIT_RATIO
    return points, np.minimum(columns.max(-1), rows.max(-1))
