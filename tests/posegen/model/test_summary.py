"""What a model can do is said before somebody's photograph becomes squares: by its folder, the help and the program."""

from __future__ import annotations

from pathlib import Path

import pytest

from posegen.cli import main
from posegen.commands.generate import BUNDLED
from posegen.model.folder import model_summary


def test_a_folder_says_what_its_model_can_do(tmp_path: Path) -> None:
    assert "drawn people only" in model_summary(BUNDLED)
    assert model_summary(tmp_path) == ""
    for card in (
        "# A model",
        "---\nlicense: apache-2.0\n---\n",
        "---\n- a list\n---\n",
        "---\na: [\n---\n",
        "---\n---\n",
    ):
        (tmp_path / "README.md").write_text(card)
        assert model_summary(tmp_path) == ""


def test_the_help_says_what_the_bundled_model_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "drawn people only" in text
