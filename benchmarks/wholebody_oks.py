"""COCO-WholeBody OKS of BlazePose beside MediaPipe's own Holistic, over annotated people.

MediaPipe gives one person a picture, so each annotated person is evaluated alone, on the picture cut
to its box grown by half on each side, for both alike. Both are trackers: each cut is shown five times as a video,
and the last frame counts. MediaPipe gives no hand or face of which it is less than half sure, ours gives them with
that confidence; "sure" leaves those out of ours too. OKS as in COCO's evaluation, with COCO-WholeBody's sigmas, over
the labelled points; a point not given counts as infinitely far. People smaller than 32 x 32 pixels or without a
labelled point are left out, as there.

    python benchmarks/wholebody_oks.py --data FOLDER     (test_coco_wholebody.json and its pictures)
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.mediapipe_holistic import frames
from benchmarks.mediapipe_peer import PARTS, SHORT_SIDE, holistic, keypoints
from posegen.driving.poses.blazepose import BlazePose
from posegen.evaluation.pose import oks

REPEAT = 5
GROUPS = {"all": slice(0, 133), **PARTS}


def labels(annotation: dict) -> np.ndarray:
    """An annotation's keypoints (133, 3): x, y in pixels and whether labelled (above 0)."""
    names = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
    return np.concatenate([np.reshape(annotation[name], (-1, 3)) for name in names]).astype(np.float64)


def cut(picture: np.ndarray, box: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The picture around a box x, y, width, height, and the cut's offset (2,)."""
    x, y, width, height = box
    low = np.maximum([x - width / 2, y - height / 2], 0).astype(int)
    high = np.minimum([x + 1.5 * width, y + 1.5 * height], picture.shape[1::-1]).astype(int)
    return picture[low[1] : high[1], low[0] : high[0]], low


def cut_people(data: Path, folder: Path) -> tuple[list[Path], list[np.ndarray], list[float]]:
    """Writes each evaluated person's cut into a folder: their paths, labels in the cut's pixels, and areas."""
    table = json.loads((data / "test_coco_wholebody.json").read_text())
    names = {image["id"]: image["file_name"] for image in table["images"]}
    paths, truths, areas = [], [], []
    for annotation in table["annotations"]:
        truth = labels(annotation)
        if annotation["area"] < 32**2 or not truth[:, 2].any():
            continue
        picture = np.asarray(cv2.imread(str(data / names[annotation["image_id"]])))
        part, offset = cut(picture, annotation["bbox"])
        paths.append(folder / f"{annotation['id']}.png")
        cv2.imwrite(str(paths[-1]), part)
        truth[:, :2] -= offset
        truths.append(truth)
        areas.append(annotation["area"])
    return paths, truths, areas


def ours(paths: list[Path]) -> list[np.ndarray]:
    """Our first person's keypoints (133, 3) in each picture, NaN where nobody is or a part was not looked at."""
    estimator, found = BlazePose(max_people=1), []
    for path in paths:
        estimator.reset()
        people = estimator(np.stack([*frames(str(path), SHORT_SIDE)] * REPEAT))[-1]
        points = people[0].keypoints.copy() if people else np.full((133, 3), np.nan)
        points[23:][points[23:, 2] == 0] = np.nan
        found.append(points)
    return found


def sure(points: np.ndarray) -> np.ndarray:
    """Keypoints (133, 3) with faces and hands of a presence below a half left out (NaN)."""
    part = np.arange(len(points)) >= 23
    return np.where((part & (points[:, 2] < 0.5))[:, None], np.nan, points)


def evaluate(data: Path) -> dict[str, float]:
    """Prints mean OKS by part and estimator over a folder's annotated people; returns them by name."""
    with tempfile.TemporaryDirectory() as scratch:
        paths, truths, areas = cut_people(data, Path(scratch))
        peers = [keypoints(found)[0] for found in holistic(paths, REPEAT)]
        points = ours(paths)
    both = {"ours": points, "ours_sure": [sure(person) for person in points], "mediapipe": peers}
    summary = {}
    for name, group in GROUPS.items():
        for peer, found in both.items():
            scores = [oks(*person, group) for person in zip(found, truths, areas, strict=True)]
            key = f"oks_{peer}" if name == "all" else f"oks_{name}_{peer}"
            summary[key] = round(float(np.nanmean(scores)), 4)
            print(f"{name:6s} {peer:10s} {summary[key]:.3f}  of {np.isfinite(scores).sum()} people")
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    print(json.dumps(evaluate(parser.parse_args().data)))


if __name__ == "__main__":
    main()
