"""A group is stuck where no process does a block, however slow one of them is."""

from __future__ import annotations

from posegen.distributed.progress import Patience


def test_one_that_gets_on_keeps_the_group_alive() -> None:
    patience = Patience(limit=10)
    assert not patience.ended([0, 0], now=100)
    for second in range(9, 900, 9):  # the first waits all along
        assert not patience.ended([1, second], now=100 + second)


def test_a_group_that_stands_still_is_stuck() -> None:
    patience = Patience(limit=10)
    assert not patience.ended([3, 4], now=100)
    assert not patience.ended([3, 4], now=110)
    assert patience.ended([3, 4], now=111)


def test_time_in_which_nothing_is_waited_for_does_not_count() -> None:
    patience = Patience(limit=10)
    assert not patience.ended([3, 4], now=100)
    patience.renew()
    assert not patience.ended([3, 4], now=200)
    assert patience.ended([3, 4], now=211)
