"""The README's table of trainings by card is what the command prints."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cards import made_folder, markdown, training_rows
from testkit import ROOT


def test_the_readme_has_the_table_that_is_estimated(tmp_path: Path) -> None:
    assert "\n".join(markdown(training_rows(made_folder(tmp_path)))) in (ROOT / "README.md").read_text()
