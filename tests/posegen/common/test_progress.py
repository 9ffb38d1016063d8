"""Progress is told in plain lines: how many, how fast, how long still."""

from __future__ import annotations

import re

import pytest

from posegen.common import progress
from posegen.common.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5369, "89 min"),
        (5400, "1 h 30 min"),
        (86400, "24 h 0 min"),
    ],
)
def test_durations_are_said_as_people_do(seconds: float, words: str):
    assert duration(seconds) == words


def test_a_line_says_how_many_how_fast_and_how_long_still(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    counted = Progress("score", "clips", total=2000, rate_unit="frames")
    counted.add(1000, work=30000, failed=1)
    line = capsys.readouterr().err
    assert re.fullmatch(r"score    1,000/2,000 clips \(1 failed\), \d+\.\d frames/s, \d+ s to go\n", line)


def test_what_was_there_before_makes_no_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    clock = iter([0.0, 1.0, 10.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    counted = Progress("draw", "clips", total=1000)
    counted.find(800)
    counted.add(100)
    assert capsys.readouterr().err == "draw     900/1,000 clips, 10.0 clips/s, 10 s to go\n"


def test_lines_come_seconds_apart(capsys: pytest.CaptureFixture[str]):
    counted = Progress("plan", "videos", total=100)
    for _ in range(50):
        counted.add()
    assert capsys.readouterr().err == ""


def test_the_last_line_says_how_long_it_took(capsys: pytest.CaptureFixture[str]):
    counted = Progress("plan", "videos", total=3)
    counted.add(3)
    stage = counted.end()
    assert re.fullmatch(r"plan     3/3 videos, \d+\.\d videos/s, took 0 s\n", capsys.readouterr().err)
    assert (stage.name, stage.things, stage.unit) == ("plan", 3, "videos")
    assert 0 < stage.seconds < 1


def test_nothing_to_do_is_no_error(capsys: pytest.CaptureFixture[str]):
    assert Progress("cut", "clips", total=0).end().things == 0
    assert capsys.readouterr().err.startswith("cut      0 clips")
