"""The LoRAs that a video may ask for by name.

Which files they are is the operator's matter and never the request's. Each is read when the server starts, so one that
does not fit the model, or could not be taken out of it again, keeps the server from starting rather than a video from
ending. A replica takes a file only if it is the one that the server was started with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posegen.common.weights import Weight, WeightsError, fetch

NAME = r"[A-Za-z0-9_-]{1,64}"
"""What names of LoRAs look like; the library makes names of adapters of them."""


@dataclass(frozen=True)
class Lora:
    """name: by which it is asked for. source: file, URI, or OWNER/REPOSITORY/FILE of the Hugging Face hub. sha256: of
    the file, in hexadecimal digits."""

    name: str
    source: str
    sha256: str

    def file(self) -> Path:
        """The file on this machine; ValueError where it cannot be had or is another one."""
        path = lora_file(self.source)
        if _sha256(path) != self.sha256:
            raise ValueError(
                f"{path} is another LoRA than the server was started with; copy the same file to every machine, and "
                "start the server again after a change."
            )
        return path


def read_loras(setting: str | Mapping[str, str], transformer: Mapping[str, Any]) -> tuple[Lora, ...]:
    """The LoRAs of a folder, each called as its file, or of names and their sources.

    transformer: the configuration that they must fit. Raises ValueError, a sentence, where one cannot be served.
    """
    sources = _in_folder(setting) if isinstance(setting, str) else dict(setting)
    shapes = _shapes(transformer) if sources else {}
    return tuple(_checked(name, source, shapes) for name, source in sources.items())


def lora_file(source: str) -> Path:
    """The file of a source on this machine, fetched where it is not here yet; ValueError where it cannot be had."""
    weight, place = Weight(Path(source).name), source
    if "://" not in source and not Path(source).exists():
        owner, _, rest = source.partition("/")
        repository, _, file = rest.partition("/")
        if not (owner and file):
            raise ValueError(f"{source}: there is no such file; check the path.")
        weight, place = Weight(file), f"{owner}/{repository}"
    try:
        return fetch(weight, place)
    except WeightsError as error:
        raise ValueError(str(error)) from error


def _in_folder(folder: str) -> dict[str, str]:
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} is no folder of .safetensors files; give one, or names and their files.")
    return {file.stem: str(file) for file in files}


def _checked(name: str, source: str, shapes: Mapping[str, Any]) -> Lora:
    from posegen.model.checkpoints import CheckpointError, read_lora_file  # imports torch

    if not re.fullmatch(NAME, name):
        raise ValueError(f"{name!r} cannot be asked for; take 1 to 64 letters, digits, - and _ for a name.")
    path = lora_file(source)
    try:
        read_lora_file(path, shapes).require_switchable(path)
    except CheckpointError as error:
        raise ValueError(str(error)) from error
    return Lora(name, source, _sha256(path))


def _shapes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Names and shapes of the tensors of a transformer, which takes no memory here."""
    import torch

    from posegen.model.checkpoints import model_shapes
    from posegen.model.transformer import PoseGenTransformer3DModel

    with torch.device("meta"):
        return dict(model_shapes(PoseGenTransformer3DModel.from_config(dict(config))))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
