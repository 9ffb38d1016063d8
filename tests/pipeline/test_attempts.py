"""Attempts are counted until they end, and work that hangs becomes work that dies."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.records.attempts import Attempts

# Both hold the interpreter's lock, so that no Python thread could end them.
SLEEP = "import ctypes; ctypes.PyDLL(None).sleep(60)"
MATCH = "import re; re.match('(a+)+b', 'a' * 40)"


def alive() -> set[str]:
    return {"one", "other"}


def test_attempts_count_up_until_the_work_ends():
    attempts = Attempts(alive)
    keys = ("a", "a", "b")
    assert [attempts.begin(key, "one") for key in keys] == [1, 2, 1]
    attempts.end("a")
    assert [attempts.begin(key, "other") for key in ("a", "b")] == [1, 2]


def test_an_attempt_that_went_down_with_its_node_counts_for_nothing():
    up = {"one", "other"}
    attempts = Attempts(lambda: up)
    assert [attempts.begin("a", "one"), attempts.begin("a", "one")] == [1, 2]
    up.remove("one")
    assert [attempts.begin("a", "other"), attempts.begin("a", "other")] == [1, 2]


def test_an_end_without_a_beginning_is_no_error():
    attempts = Attempts(alive)
    attempts.end("a")  # the count was lost together with the actor's process
    assert attempts.begin("a", "one") == 1


def test_a_thing_is_whose_claim_came_first():
    attempts = Attempts(alive)
    assert attempts.claim("video", "a") and attempts.claim("video", "a")
    assert not attempts.claim("video", "b") and attempts.claim("another", "b")


@pytest.mark.parametrize("hang", [SLEEP, MATCH, "while True: pass"])
def test_what_hangs_is_ended_with_a_traceback(hang: str):
    code = f"from pipeline.records.attempts import time_limit\nwith time_limit(0.3):\n    {hang}\n"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr and 'File "<string>", line 3' in ended.stderr


@pytest.mark.parametrize("work", ["pass", "raise KeyError"])
def test_after_work_within_the_limit_the_timer_is_off(work: str):
    code = "import contextlib, time\nfrom pipeline.records.attempts import time_limit\n"
    code += f"with contextlib.suppress(KeyError), time_limit(1):\n    {work}\ntime.sleep(1.2)\n"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


def test_a_claim_of_an_earlier_run_stands() -> None:
    attempts = Attempts(alive, {"a video": "its file"})
    assert not attempts.claim("a video", "a copy") and attempts.claim("a video", "its file")
