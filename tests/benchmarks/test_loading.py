"""The benchmark of a model's memory on the host, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.loading import measured, save_model


@pytest.mark.long
def test_a_group_is_measured(tmp_path: Path) -> None:
    save_model(tmp_path, layers=1, width=64)
    row = measured(tmp_path, "float32", processes=2)
    assert 0 < row["weights_gb"] < row["before_gb"] < row["peak_gb"]
