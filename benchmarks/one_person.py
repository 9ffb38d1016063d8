"""Does curation know a video of one real person? Precision and recall against labels, through the whole job.

    python benchmarks/one_person.py --data videos --labels labels.json [--person-detector yolox.onnx]

The labels are JSON: {"people": {"folder/name.mp4": {"one_person": true}, ..}}. A video counts as found where clips that
pass every rule about the person make up at least half of its length; rules about the picture (length, blur, text, ..)
are left out, and how many videos the whole set of rules keeps something of is said beside.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import tyro

from pipeline.config import CurateConfig
from pipeline.curate import run
from pipeline.score.looks import wilson
from posegen.dataset import ABOUT_PERSON, KEPT

PERSON_RULES = set(ABOUT_PERSON) - {"blur", "subject_motion"}
TWO_SIDED = 1.96
"""Standard deviations of a normal distribution within which 95 % of it lie."""


def main(data: Path, labels: Path, person_detector: str | None = None, output: Path | None = None) -> None:
    """Runs curation over labelled videos and prints precision and recall of "one person".

    Args:
        data: Folder that the labels' names start from.
        labels: JSON with the truth for each video.
        person_detector: YOLOX model for the job, as in curate.py.
        output: Folder for the job's output; a temporary one by default.
    """
    truth = {
        name: bool(label["one_person"]) for name, label in json.loads(labels.read_text())["people"].items()
    }
    with tempfile.TemporaryDirectory() as scratch:
        videos = Path(scratch) / "videos"
        for name in truth:
            (videos / name).parent.mkdir(parents=True, exist_ok=True)
            (videos / name).symlink_to((data / name).resolve())
        target = output or Path(scratch) / "dataset"
        run(CurateConfig(str(videos), str(target), person_detector=person_detector))
        columns = ["path", "start", "stop", "status", "reasons"]
        rows = pq.read_table(target / "clips", columns=columns).to_pylist()
    print_scores(truth, *shares(rows))


def shares(rows: list[dict]) -> tuple[dict[str, float], dict[str, bool]]:
    """By video: the share of its planned seconds that passes the rules about the person, and whether any is kept."""
    passed: dict[str, float] = defaultdict(float)
    planned: dict[str, float] = defaultdict(float)
    kept: dict[str, bool] = defaultdict(bool)
    for row in rows:
        seconds = (row["stop"] or 0) - (row["start"] or 0)
        about_person = any(reason.split(":")[0] in PERSON_RULES for reason in row["reasons"])
        planned[row["path"]] += seconds
        passed[row["path"]] += 0 if about_person or row["status"] == "failed" else seconds
        kept[row["path"]] |= row["status"] == KEPT
    return {path: passed[path] / max(planned[path], 1e-9) for path in planned}, kept


def print_scores(truth: dict[str, bool], share: dict[str, float], kept: dict[str, bool]) -> None:
    """The table by video, and the JSON line: precision and recall, each with the ends of its 95 % interval."""
    print(f"{'video':<44} {'one person':>10} {'share':>6} {'kept':>5}")
    for name, real in truth.items():
        mark = "" if (share[name] >= 0.5) == real else "  <- wrong"
        print(f"{name:<44} {real!s:>10} {share[name]:6.2f} {kept[name]!s:>5}{mark}")
    found = {name for name in truth if share[name] >= 0.5}
    people = {name for name in truth if truth[name]}
    right = len(found & people)
    figures = {"precision": with_interval(right, len(found)), "recall": with_interval(right, len(people))}
    print(json.dumps({**figures, "videos": len(truth), "kept": sum(kept[name] for name in truth)}))


def with_interval(right: int, count: int) -> list[float]:
    """The share of right ones, and the ends of its 95 % interval (Wilson); 0 of none, about which nothing is known."""
    low, high = wilson(right, count, TWO_SIDED)
    return [round(value, 3) for value in (right / max(count, 1), low, high)]


if __name__ == "__main__":
    tyro.cli(main)
