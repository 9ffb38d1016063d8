"""Precision, recall and F1 of the shot detectors against labelled cuts, and their speed.

    python benchmarks/cuts.py --data DIR --labels FILE

Every video in DIR counts, also without an entry under "cuts" in FILE (JSON: {"cuts": {file name: [frame]}}).
A found cut is right within 2 frames of a label, or where the label lies within its fade; each label counts
once. The last line is one JSON object: by detector precision, recall, f1, and its speed (decoding and
detecting) as a share of that of decoding alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np

from pipeline.plan.shots import FRAME_SIZE, Cut, detector_maker, find_cuts
from posegen.video import VideoInfo, probe, read_frames

TOLERANCE = 2  # frames


def match(cuts: list[Cut], labels: list[int]) -> int:
    """How many labels have a cut of their own."""
    left = list(cuts)
    for label in labels:
        near = [c for c in left if abs(c.frame - label) <= TOLERANCE or c.begin <= label < c.end]
        if near:
            left.remove(min(near, key=lambda cut: abs(cut.frame - label)))
    return len(cuts) - len(left)


def figures(right: int, found: int, labelled: int) -> dict[str, float]:
    """Precision, recall and F1; each is 1 where there was nothing to get wrong."""
    return {
        "precision": right / found if found else 1.0,
        "recall": right / labelled if labelled else 1.0,
        "f1": 2 * right / (found + labelled) if found + labelled else 1.0,
    }


def decoding_seconds(info: VideoInfo) -> float:
    """CPU seconds to decode a video to the detectors' frames."""
    started = time.thread_time()
    for _ in read_frames(info, np.arange(len(info.frame_times)), size=FRAME_SIZE):
        pass
    return time.thread_time() - started


def measure(infos: list[VideoInfo], labels: dict[str, list[int]], detector: str) -> dict[str, float]:
    """Prints a line a file and returns the figures over all files."""
    totals = np.zeros(3, int)
    decoding = detecting = 0.0
    print(f"\n{detector:34} precision recall    f1   found (in fade) | missed")
    for info in infos:
        name = Path(info.path).name
        decoding += decoding_seconds(info)
        started = time.thread_time()
        found = find_cuts(info, detector_maker(detector)(info.rate))
        cuts = [cut for cut in found if 0 < cut.frame < len(info.frame_times)]
        detecting += time.thread_time() - started
        expected = labels.get(name, [])
        counts = (match(cuts, expected), len(cuts), len(expected))
        totals += counts
        shown = [f"{c.frame}" + f" in {c.begin}..{c.end}" * (c.begin < c.end) for c in cuts]
        row = " ".join(f"{value:7.3f}" for value in figures(*counts).values())
        print(f"{name[:34]:34} {row}   {', '.join(shown) or '-'} | {counts[2] - counts[0]}")
    result = figures(*totals.tolist())
    print(f"{'all':34} " + " ".join(f"{value:7.3f}" for value in result.values()))
    return {**result, "speed_over_decoding": decoding / detecting}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of videos")
    parser.add_argument("--labels", type=Path, required=True, help="JSON file with the cuts by file name")
    parser.add_argument("--detectors", nargs="+", default=["adaptive", "transnetv2"])
    options = parser.parse_args()
    cv2.setNumThreads(1)
    labels = json.loads(options.labels.read_text())["cuts"]
    videos = sorted(
        path for path in options.data.iterdir() if path.suffix in (".mp4", ".mkv", ".avi", ".mov")
    )
    infos = [probe(path) for path in videos]
    print(json.dumps({detector: measure(infos, labels, detector) for detector in options.detectors}))


if __name__ == "__main__":
    main()
