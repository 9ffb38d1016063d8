"""What measurements come to, of made ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.verdict import OURS, Table, print_thirds
from posegen.evaluation.measure import Measured


def add(table: Table, seed: int, *names: str, error: float = 0.0) -> None:
    """A video of 30 s whose error, more than a constant, grows with the curves of some names."""
    seconds = np.arange(30.0)
    curves = {"identity_truth": error + seconds, "silhouette_iou": 1 - seconds / 30}
    table.add(30, seed, [(OURS, Measured("video", 360, 12, curves | dict.fromkeys(names, seconds)), {})])


def test_errors_are_told_by_thirds_of_a_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(tmp_path)
    add(table, 0, "away")
    print_thirds(table, "away", "distance", ".0f")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "Ours by distance"
    assert [line.split(":")[0] for line in lines[2::2]] == ["0 to 10", "10 to 19", "19 to 29"]
    assert "identity error 4.5 " in lines[2] and "identity error 24.5 " in lines[6]


def test_a_third_that_is_one_persons_is_compared_with_that_persons_other_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table(tmp_path)
    add(table, 0, "away")
    add(table, 1, "away", error=100.0)
    print_thirds(table, "away", "distance", ".0f")
    lines = capsys.readouterr().out.splitlines()
    assert "identity error 54.5 " in lines[2]
    assert "less that of the same video's other seconds: -15 [-15, -15], 0.5 [0.5, 0.5], in 2" in lines[3]


def test_a_video_whose_seconds_are_all_alike_has_no_others_to_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table(tmp_path)
    alike = dict.fromkeys(("away", "identity_truth", "silhouette_iou"), np.ones(30))
    table.add(30, 0, [(OURS, Measured("video", 360, 12, alike), {})])
    print_thirds(table, "away", "distance", ".0f")
    assert "identity error 1 " in (printed := capsys.readouterr().out) and "other seconds" not in printed


def test_videos_measured_before_a_curve_existed_end_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table(tmp_path)
    add(table, 0, "away")
    add(table, 1)
    print_thirds(table, "away", "distance", ".0f")
    assert "--output" in capsys.readouterr().out
