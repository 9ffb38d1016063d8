"""BlazePose beside MediaPipe's own Holistic on the same videos: frames a second, and how far apart they see people.

MediaPipe lives in an environment of its own in the cache (numpy 1.26), made at the first run. It uses
all cores in one process; ours runs one single-threaded process a core, the way curation does, over the same decoded
frames, several videos at once. Both are timed without decoding. A video's distance is the mean over points that
MediaPipe calls visible, in frames where both follow the same body, in shares of the person's height (the median
larger side of the box of MediaPipe's body points).

    python benchmarks/mediapipe_peer.py VIDEO... [--processes 2] [--out landmarks.npz]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

from benchmarks.mediapipe_holistic import frames
from posegen.common.weights import MEDIAPIPE, cache_dir
from posegen.driving.poses import Person
from posegen.driving.poses.blazepose import BlazePose
from posegen.driving.poses.regions import overlap
from posegen.driving.poses.wholebody import FACE, FACE_68, LEFT_HAND, RIGHT_HAND, body_keypoints

HOLISTIC = Path(__file__).with_name("mediapipe_holistic.py")
SHORT_SIDE, CHUNK = 720, 32
VISIBLE = 0.5
SAME_BODY = 0.5
"""Least IoU of the boxes of two bodies that count as one: the two may follow different people of a video."""
PARTS = {"body": slice(0, 17), "feet": slice(17, 23), "face": FACE_68, "hands": slice(91, 133)}


def peer_python() -> Path:
    """The interpreter of MediaPipe's own environment, made in the cache where it is missing."""
    folder = cache_dir() / "environments" / MEDIAPIPE
    python, done = folder / "bin" / "python", folder / "complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", MEDIAPIPE], check=True)
            done.touch()
    return python


def holistic(paths: list[Path], repeat: int = 1, out: Path | None = None) -> list[dict[str, np.ndarray]]:
    """What MediaPipe's Holistic finds in each file; see mediapipe_holistic.run for the arrays."""
    with tempfile.TemporaryDirectory() as scratch:
        out = out or Path(scratch) / "landmarks.npz"
        command: list[str | Path] = [
            peer_python(),
            HOLISTIC,
            out,
            *paths,
            f"--short-side={SHORT_SIDE}",
            f"--repeat={repeat}",
        ]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
        with np.load(out) as arrays:
            found: list[dict[str, np.ndarray]] = [{} for _ in paths]
            for key in arrays.files:
                number, name = key.split("/")
                found[int(number)][name] = arrays[key]
    return found


def keypoints(found: dict[str, np.ndarray]) -> np.ndarray:
    """MediaPipe's landmarks as (N, 133, 3) COCO-WholeBody keypoints, mapped as ours are; NaN where it has none."""
    rows = np.full((len(found["pose"]), 133, 3), np.nan, np.float32)
    for row, pose in zip(rows, found["pose"], strict=True):
        row[:23] = body_keypoints(pose[:, :3], pose[:, 3])
    rows[:, FACE_68] = found["face"][:, FACE][..., [0, 1, 3]]
    rows[:, LEFT_HAND] = found["left_hand"][..., [0, 1, 3]]
    rows[:, RIGHT_HAND] = found["right_hand"][..., [0, 1, 3]]
    return rows


def distances(ours: list[list[Person]], found: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean distance to MediaPipe's points by part, and over all, in shares of the person's height; NaN where nothing
    is shared. "same": share of MediaPipe's frames in which somebody of ours is the same body, which alone count.

    A hand or face counts where both saw it (presence of at least 0.5).
    """
    theirs = keypoints(found)
    height = np.nanmedian(np.ptp(found["pose"][:, :, :2], axis=1).max(1))
    inside = (theirs[..., :2] >= 0).all(-1) & (theirs[..., :2] < found["size"]).all(-1)
    visible = inside & (theirs[..., 2] >= VISIBLE)
    there = np.isfinite(theirs[:, 0, 0])
    apart = np.full(theirs.shape[:2], np.nan)
    for number in np.flatnonzero(there):
        person = same_body(ours[number], theirs[number])
        if person is not None:
            unseen = person.keypoints[:, 2] < VISIBLE
            unseen[:23] = False  # MediaPipe's own visibility decides for body and feet
            gaps = np.linalg.norm(person.keypoints[:, :2] - theirs[number, :, :2], axis=1)
            apart[number] = np.where(visible[number] & ~unseen, gaps, np.nan)
    groups = {name: apart[:, part] for name, part in PARTS.items()} | {"all": apart}
    shared = {name: gaps[np.isfinite(gaps)] for name, gaps in groups.items()}
    means = {name: float(gaps.mean() / height) if gaps.size else np.nan for name, gaps in shared.items()}
    return means | {"same": float(np.isfinite(apart).any(1).sum() / max(there.sum(), 1))}


def same_body(people: list[Person], theirs: np.ndarray) -> Person | None:
    """Who of the people is the body that MediaPipe's keypoints (133, 3) show: the box of the body points overlaps."""
    if not people:
        return None
    bodies = [body_box(person.keypoints) for person in people]
    shared = overlap(body_box(theirs), np.stack(bodies))
    return people[int(shared.argmax())] if shared.max() >= SAME_BODY else None


def body_box(points: np.ndarray) -> np.ndarray:
    """The box (4,) around the 17 body points of keypoints (133, 3)."""
    body = points[PARTS["body"], :2]
    return np.concatenate([body.min(0), body.max(0)])


def track(path: Path) -> tuple[list[list[Person]], float]:
    """Our people in each frame of a video, and the wall-clock seconds it took without decoding."""
    cv2.setNumThreads(1)
    estimator, seconds = BlazePose(), 0.0
    people: list[list[Person]] = []
    source = frames(str(path), SHORT_SIDE)
    while chunk := list(islice(source, CHUNK)):
        started = time.perf_counter()
        people += estimator(np.stack(chunk))
        seconds += time.perf_counter() - started
    return people, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where MediaPipe's landmarks are kept (npz)")
    options = parser.parse_args()
    found = holistic(options.videos, out=options.out)
    with ProcessPoolExecutor(options.processes) as pool:
        ours = list(pool.map(track, options.videos))
    rows = []
    for path, mine, theirs in zip(options.videos, ours, found, strict=True):
        people, seconds = mine
        count = len(people)
        rate = options.processes * count / seconds
        row = {"ours": rate, "mediapipe": count / theirs["seconds"][0], **distances(people, theirs)}
        rows.append((count, seconds, float(theirs["seconds"][0]), row))
        print(f"{path.name:32s}", " ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
    frame_count = sum(count for count, *_ in rows)
    fps_ours = options.processes * frame_count / sum(seconds for _, seconds, *_ in rows)
    fps_peer = frame_count / sum(seconds for _, _, seconds, _ in rows)
    summary = {"fps_ours": fps_ours, "fps_mediapipe": fps_peer, "ours_over_mediapipe": fps_ours / fps_peer}
    for part in PARTS:
        summary[f"distance_{part}"] = float(np.nanmean([row[part] for *_, row in rows]))
    print(json.dumps({name: round(value, 4) for name, value in summary.items()}))


if __name__ == "__main__":
    main()
