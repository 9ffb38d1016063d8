"""A video at another rate: which frames are shown, whatever the chunks, and for how long."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from posegen.video.rates import RateChange


def shown(rate: float | Fraction, wanted: float | Fraction, *counts: int) -> list[int]:
    """The frames of a video that comes in chunks of so many frames, by their place in all of it."""
    change, places, start = RateChange(rate, wanted), [], 0
    for count in counts:
        indices = change.shown(count)
        assert ((indices >= 0) & (indices < count)).all()
        places += [start + int(index) for index in indices]
        start += count
    return places


def test_frames_are_repeated_or_left_out() -> None:
    assert shown(30, 30, 5) == [0, 1, 2, 3, 4]
    assert shown(30, 60, 3) == [0, 0, 1, 1, 2, 2]
    assert shown(30, 15, 6) == [0, 2, 4]
    assert shown(30, 24, 10) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert shown(8, 1, 9) == [0, 8]  # the last second is begun


@pytest.mark.parametrize("wanted", [1, 12, 23.976, 24, Fraction(30000, 1001), 30, 50, 60, 240])
def test_the_frame_on_screen_is_the_one_of_the_moment(wanted: float | Fraction) -> None:
    exact = Fraction(wanted).limit_denominator(1001)
    places = shown(30, wanted, 300)
    moments = [Fraction(number) / exact for number in range(len(places))]
    assert places == [int(moment * 30) for moment in moments]
    assert moments[-1] < 10 <= Fraction(len(places)) / exact


def test_the_chunks_change_nothing() -> None:
    counts = np.random.default_rng(0).integers(0, 9, 40).tolist()
    assert shown(30, 23.976, *counts) == shown(30, 23.976, sum(counts))


@pytest.mark.parametrize("wanted", [0, -5, 0.5, 241, float("nan"), float("inf")])
def test_a_rate_that_no_video_has_is_refused(wanted: float) -> None:
    with pytest.raises(ValueError, match="choose 1 to 240"):
        RateChange(30, wanted)
