"""The model as every machine finds it: the same one, each in its own place."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from serving.config import BUNDLED
from serving.model_info import ModelInfo, read_model_info

REPOSITORY, COMMIT = "somebody/posegen-mini", "0123456789abcdef0123456789abcdef01234567"


def machine(folder: Path, commit: str = COMMIT) -> Path:
    """The hub's cache on a machine that has fetched the model."""
    repository = folder / "models--somebody--posegen-mini"
    shutil.copytree(BUNDLED, repository / "snapshots" / commit, dirs_exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    return folder


def test_a_name_of_the_hub_means_each_machines_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    first, second = machine(tmp_path / "first"), machine(tmp_path / "second")
    machine(second, commit="f" * 40)  # the repository's newest here, which is not what is served
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(first))
    sent = pickle.dumps(read_model_info(REPOSITORY, 4))
    shutil.rmtree(first)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(second))
    received: ModelInfo = pickle.loads(sent)
    assert received.folder() == (second / "models--somebody--posegen-mini" / "snapshots" / COMMIT).resolve()


def test_another_model_by_the_same_name_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED, folder)
    info = read_model_info(str(folder), 4)
    assert info.folder() == folder and info.revision is None
    (folder / "transformer" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds another model than the server was started with"):
        info.folder()


def test_the_bundled_model_says_what_it_can_do() -> None:
    assert "drawn people only" in read_model_info(BUNDLED, 4).summary
