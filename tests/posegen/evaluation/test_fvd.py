"""The Fréchet video distance: known values, what the network is shown, and files that are no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from posegen.common.weights import WeightsError
from posegen.evaluation.fvd import VideoFeatures, frechet_distance, windows
from testkit.video_network import write_video_network

RANDOM = np.random.default_rng(0)


def test_the_same_set_is_at_distance_0_and_a_shift_at_its_square() -> None:
    features = RANDOM.standard_normal((50, 5))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features + 3, features) == pytest.approx(9 * 5)


def test_spreads_differ_by_the_squares_of_their_standard_deviations() -> None:
    """Of two normal distributions with the same axes: the sum of (s - s')^2."""
    features = RANDOM.standard_normal((50, 4))
    features -= features.mean(axis=0)
    assert frechet_distance(3 * features, features) == pytest.approx(4 * features.var(axis=0, ddof=1).sum())


def test_fewer_windows_than_features_still_have_a_distance() -> None:
    features, truth = RANDOM.standard_normal((2, 3, 40))
    assert np.isfinite(frechet_distance(features, truth))
    with pytest.raises(ValueError, match="two windows or more"):
        frechet_distance(features[:1], truth)


def test_windows_follow_one_another_and_the_rest_is_left_out() -> None:
    assert [(window[0], window[-1]) for window in windows(40)] == [(0, 15), (16, 31)]
    assert not list(windows(15))


def test_the_network_sees_windows_of_its_own_size_from_minus_1_to_1(tmp_path: Path) -> None:
    network = VideoFeatures(write_video_network(tmp_path / "i3d_torchscript.pt"))
    video = np.zeros((40, 48, 32, 3), np.uint8)
    video[:16, ..., 0] = 255
    features = network(video, 40)  # each channel's mean, and how many pixels and frames there are
    np.testing.assert_allclose(features[0], [1, -1, -1, 224 * 224, 16])
    np.testing.assert_allclose(features[1], [-1, -1, -1, 224 * 224, 16])
    assert len(network(video, 12)) == 0


def test_another_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "i3d_torchscript.pt").write_bytes(b"weights")
    with pytest.raises(WeightsError, match="no TorchScript file"):
        VideoFeatures(tmp_path)
