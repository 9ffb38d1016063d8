"""Decoding by posegen.video (PyAV) and by decord2, side by side: frames/s of one thread, and correctness.

    python benchmarks/decode.py FILES_OR_FOLDERS... [--frames 120]

Needs `pip install decord2`. Prints frames per CPU second for a sequential read at the native size, at analysis
size (short side at most 720) and for spans of 32 frames at random places at analysis size; then how many frames each
reader lists of how many a full decode gives, and their size. The last line is one JSON object with the geometric
means of the ratios.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import decord
import numpy as np

from posegen.video import VideoError, VideoInfo, probe, read_frames
from posegen.video.container import decode_packet, open_video, packets

DECORD_ERRORS = (decord.DECORDError, RuntimeError, IndexError)
SHORT_SIDE, SPAN, SPANS = 720, 32, 4


def analysis_size(info: VideoInfo) -> tuple[int, int]:
    scale = min(1, SHORT_SIDE / min(info.width, info.height))
    return round(info.width * scale), round(info.height * scale)


def read_posegen(path: str, spans: list[np.ndarray], size: tuple[int, int]) -> None:
    info = probe(path)
    for span in spans:
        for _ in read_frames(info, span, size):
            pass


def read_decord(path: str, spans: list[np.ndarray], size: tuple[int, int]) -> None:
    reader = decord.VideoReader(path, width=size[0], height=size[1], num_threads=1)
    for span in spans:
        for start in range(0, len(span), SPAN):
            reader.get_batch(span[start : start + SPAN]).asnumpy()


def rate(read: Callable, path: str, spans: list[np.ndarray], size: tuple[int, int]) -> float:
    """Frames per CPU second of the whole process, opening included; the better of two, since machines are noisy."""
    best = 0.0
    for _ in range(2):
        started = time.process_time()
        read(path, spans, size)
        best = max(best, sum(map(len, spans)) / (time.process_time() - started))
    return best


def speeds(path: str, info: VideoInfo, frames: int) -> dict[str, tuple[float, float]]:
    count = len(info.frame_times)
    random = np.random.default_rng(0)
    starts = np.sort(random.integers(0, max(1, count - SPAN), SPANS))
    spans = [np.arange(start, min(count, start + SPAN)) for start in starts]
    sequence = [np.arange(min(count, frames))]
    cases = {
        "native": (sequence, (info.width, info.height)),
        "analysis": (sequence, analysis_size(info)),
        "random": (spans, analysis_size(info)),
    }
    return {
        name: (rate(read_posegen, path, *case), rate(read_decord, path, *case))
        for name, case in cases.items()
    }


def verdicts(path: str) -> tuple[str, str]:
    """What each reader makes of the file: frames listed against frames of a full decode, size, times."""
    try:
        with open_video(path) as (container, stream):
            decoded = sum(
                len(decode_packet(stream, p) or ()) for p in chain(packets(container, stream), [None])
            )
        info = probe(path)
        ours = f"{len(info.frame_times)} of {decoded}, {info.width}x{info.height}"
    except VideoError as error:
        decoded, ours = 0, f"refused: {str(error).removeprefix(path)[:80]}"
    try:
        reader = decord.VideoReader(path, num_threads=1)
        height, width = reader[0].shape[:2]
        times = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0]
        order = "" if np.all(np.diff(times) > 0) else ", times not increasing"
        theirs = f"{len(reader)} of {decoded}, {width}x{height}{order}"
    except DECORD_ERRORS as error:
        theirs = f"failed: {str(error).splitlines()[0][-80:]}"
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=120, help="read at most so many in sequence")
    options = parser.parse_args()
    files = [f for p in options.paths for f in (sorted(p.iterdir()) if p.is_dir() else [p])]
    print(f"{'file':40} {'native':>13} {'analysis':>13} {'random':>13}   frames/s, posegen / decord2")
    ratios: dict[str, list[float]] = {"native": [], "analysis": [], "random": []}
    for file in files:
        ours, theirs = verdicts(str(file))
        try:
            measured = speeds(str(file), probe(str(file)), options.frames)
        except (VideoError, *DECORD_ERRORS):
            print(f"{file.name:40} {'-':>13} {'-':>13} {'-':>13}   {ours} | {theirs}", flush=True)
            continue
        cells = [f"{a:5.0f} / {b:5.0f}" for a, b in measured.values()]
        print(f"{file.name:40} {cells[0]} {cells[1]} {cells[2]}   {ours} | {theirs}", flush=True)
        for name, (a, b) in measured.items():
            ratios[name].append(a / b)
    means = {
        f"posegen_over_decord_{n}": round(float(np.exp(np.mean(np.log(r)))), 3)
        for n, r in ratios.items()
        if r
    }
    print(json.dumps(means | {"files": len(ratios["native"])}))


if __name__ == "__main__":
    main()
