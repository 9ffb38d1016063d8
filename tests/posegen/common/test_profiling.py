"""CPU seconds go to the names they were spent under, and to the collector that surrounds them."""

from __future__ import annotations

import time

import pytest

from posegen.common.profiling import collect, timed


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_seconds_of_one_name_add_up():
    with collect() as seconds:
        for _ in range(3):
            with timed("work"):
                burn(0.01)
    assert seconds.keys() == {"work"}
    assert 0.03 <= seconds["work"] < 0.05


def test_waiting_costs_nothing():
    with collect() as seconds, timed("wait"):
        time.sleep(0.05)
    assert seconds["wait"] < 0.02


def test_nested_names_both_count():
    with collect() as seconds, timed("all"), timed("part"):
        burn(0.01)
    assert seconds["all"] >= seconds["part"] >= 0.01


def test_an_inner_collector_keeps_its_own():
    with collect() as outer:
        with collect() as inner, timed("work"):
            pass
        with timed("after"):
            pass
    assert (inner.keys(), outer.keys()) == ({"work"}, {"after"})


def test_a_block_that_raises_is_counted():
    with collect() as seconds:
        with pytest.raises(KeyError), timed("work"):
            raise KeyError
        assert seconds.keys() == {"work"}


def test_what_ran_without_a_collector_is_in_no_later_one():
    with timed("work"):
        pass
    with collect() as seconds, timed("other work"):
        pass
    assert seconds.keys() == {"other work"}
