"""LoRAs by name: what the operator's setting may be, checked at the start, and the same file in every process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving.app import app
from serving.config import ConfigError, load_config
from serving.loras import read_loras
from testkit.lora_files import comfyui_file, distillation_file, random_differences, random_matrices
from testkit.single_files import tiny_wan
from testkit.tiny_model import save_tiny_model, tiny_transformer

CONFIG: dict[str, Any] = dict(tiny_transformer().config)


def lora_file(folder: Path, name: str, seed: int = 0) -> Path:
    return comfyui_file(random_matrices(tiny_transformer(), seed), folder / "made").rename(folder / name)


def test_a_folders_files_are_called_as_they_are(tmp_path: Path) -> None:
    for seed, name in enumerate(("ink", "oil")):
        lora_file(tmp_path, f"{name}.safetensors", seed)
    ink, oil = read_loras(str(tmp_path), CONFIG)
    assert (ink.name, oil.name) == ("ink", "oil") and ink.sha256 != oil.sha256
    assert ink.file() == tmp_path / "ink.safetensors"


def test_a_file_that_was_changed_is_not_taken(tmp_path: Path) -> None:
    path = lora_file(tmp_path, "style.safetensors")
    (ink,) = read_loras({"ink": str(path)}, CONFIG)
    lora_file(tmp_path, "style.safetensors", seed=1)
    with pytest.raises(ValueError, match="another LoRA than the server was started with"):
        ink.file()


def test_paths_mean_the_same_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lora_file(tmp_path, "style.safetensors")
    monkeypatch.chdir(tmp_path)
    hub = "somebody/styles/ink.safetensors"
    loras = load_config({"loras": f"{{oil: style.safetensors, ink: {hub}}}"}, {}).loras
    assert loras == {"oil": f"{tmp_path}/style.safetensors", "ink": hub}
    assert load_config({"loras": "."}, {}).loras == str(tmp_path)


def test_a_file_of_the_hub_is_found_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--somebody--styles", "a" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    kept = repository / "snapshots" / commit / "wan"
    kept.mkdir(parents=True)
    lora_file(kept, "ink.safetensors")
    (ink,) = read_loras({"ink": "somebody/styles/wan/ink.safetensors"}, CONFIG)
    assert ink.file().samefile(kept / "ink.safetensors")
    with pytest.raises(
        ValueError, match=r"oil\.safetensors is neither under a local path somebody/styles nor"
    ):
        read_loras({"oil": "somebody/styles/oil.safetensors"}, CONFIG)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("{tmp}/nowhere", "loras: {tmp}/nowhere is no folder of .safetensors files"),
        ({"ink": "{tmp}/nowhere.safetensors"}, "nowhere.safetensors"),
        ({"my ink": "{tmp}/ink.safetensors"}, "loras: 'my ink' cannot be asked for"),
        ({"ink": "{tmp}/other.safetensors"}, "the down matrix of"),
        ({"ink": "{tmp}/fast.safetensors"}, "changes whole tensors, so it cannot be switched on and off"),
        ({"ink": "{tmp}/damaged.safetensors"}, "damaged.safetensors"),
    ],
)
def test_what_cannot_be_served_keeps_the_server_from_starting(
    tmp_path: Path, setting: Any, sentence: str
) -> None:
    lora_file(tmp_path, "ink.safetensors")
    comfyui_file(random_matrices(tiny_wan()), tmp_path / "made").rename(tmp_path / "other.safetensors")
    tiny = tiny_transformer()
    fast = distillation_file(random_matrices(tiny), random_differences(tiny), tmp_path / "made")
    fast.rename(tmp_path / "fast.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"no tensors")

    def here(text: str) -> str:
        return text.replace("{tmp}", str(tmp_path))

    loras = here(setting) if isinstance(setting, str) else {n: here(where) for n, where in setting.items()}
    arguments = {
        "database": f"sqlite:///{tmp_path}/serving.db",
        "artifacts": str(tmp_path / "artifacts"),
        "model": str(save_tiny_model(tmp_path / "model")),
        "loras": loras,
    }
    with pytest.raises(ConfigError, match=r"^loras: ") as refused:
        app(arguments)
    assert here(sentence) in str(refused.value)
