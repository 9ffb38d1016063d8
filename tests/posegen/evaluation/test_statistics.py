"""What figures add up to: known slopes, ratios and chances."""

from __future__ import annotations

import numpy as np
import pytest

from posegen.evaluation.statistics import (
    bootstrap,
    bootstrap_ratio,
    last_over_first,
    paired_permutation_test,
    per_second,
    slope_per_minute,
)


def test_bootstrap_covers_the_mean() -> None:
    """Of many samples about 95 % have the true mean in their interval."""
    random = np.random.default_rng(0)
    samples = [bootstrap(random.normal(3, 1, 40)) for _ in range(200)]
    assert np.mean([interval.low <= 3 <= interval.high for interval in samples]) == pytest.approx(
        0.94, abs=0.04
    )
    assert bootstrap([2.0, 2.0]) == (2, 2, 2)


def test_what_is_not_finite_is_left_out() -> None:
    assert bootstrap([2.0, np.nan, 2.0]) == (2, 2, 2)
    assert np.isnan(bootstrap([])).all()


def test_a_ratio_is_of_the_means() -> None:
    assert bootstrap_ratio([2.0, 4.0], [1.0, 2.0]) == (2, 2, 2)
    found = bootstrap_ratio([1.0, 5.0, 3.0], [1.0, 1.0, 4.0])
    assert found.mean == pytest.approx(9 / 6)
    assert found.low < found.mean < found.high


def test_seconds_are_those_of_the_clock() -> None:
    """2.5 frames a second: frames 0, 1, 2 begin in the first second, 3 and 4 in the second."""
    np.testing.assert_allclose(per_second(np.array([1, 2, 3, 4, np.nan, 6.0]), 2.5), [2, 4, 6])
    assert np.isnan(per_second(np.full(4, np.nan), 2)).all()


def test_a_known_slope_is_found() -> None:
    values = 5 + 2.4 * np.arange(90) / 60  # 2.4 more a minute, one value a second
    values[10] = np.nan
    assert slope_per_minute(values) == pytest.approx(2.4)
    assert np.isnan(slope_per_minute(values[:19]))
    assert last_over_first(values) == pytest.approx(values[-10:].mean() / values[:10].mean())
    assert np.isnan(last_over_first(values[:19]))


def test_a_difference_that_is_chance_is_told_from_one_that_is_not() -> None:
    random = np.random.default_rng(0)
    pairs = random.normal(0, 1, (2, 40))
    assert paired_permutation_test(*pairs) > 0.05
    assert paired_permutation_test(pairs[0] + 2, pairs[1]) < 0.001
    assert (
        paired_permutation_test(np.array([1.0, 2, 3]), np.zeros(3)) == 2 / 8
    )  # all signs alike: 2 of 8 ways
    assert paired_permutation_test(np.ones(5), np.ones(5)) == 1


def test_chance_is_called_a_difference_as_often_as_p_says() -> None:
    random = np.random.default_rng(1)
    found = [paired_permutation_test(*random.normal(0, 1, (2, 10))) < 0.05 for _ in range(300)]
    assert 0.02 < np.mean(found) < 0.09
