"""What jobs cost: more work costs more, and each row is its hours times the prices, which must be given."""

from __future__ import annotations

import pytest
import tyro

from benchmarks.sizes import Prices, all_rows
from testkit import ROOT


def test_a_row_is_its_hours_times_the_prices() -> None:
    rows = {row.job: row for row in all_rows()}
    for row in rows.values():
        assert row.cost(Prices(2, 0.5, "2026-11-29")) == 2 * row.gpu_hours + 0.5 * row.cpu_hours > 0
    short, long = (rows[f"make {minutes} min of 720p at 30 frames/s"] for minutes in (1, 10))
    assert 9 < long.gpu_hours / short.gpu_hours < 11 and long.memory_gb == short.memory_gb


def test_the_guide_to_clusters_has_these_figures() -> None:
    guide = (ROOT / "cluster" / "README.md").read_text().splitlines()
    prices = Prices(3.0, 0.04, "2026-11-29")
    for row in all_rows():
        if row.job.startswith("train"):
            (line,) = (line for line in guide if line.startswith(f"| train `{row.job.split()[1]}`"))
            for figure in (f"{row.gpu_hours:.1f}", f"{row.memory_gb:.0f} GB", f"{row.cost(prices):.2f}"):
                assert f" {figure} " in line


def test_prices_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(Prices, args=[], use_underscores=True)
    assert "gpu_hour" in capsys.readouterr().err
