"""The frozen parts of a model folder that training needs beside the transformer, and a hash that identifies them.

Only the parts that are asked for are loaded, as they were saved. The index of a folder in diffusers' layout names the
class of each part; classes are imported from three known libraries only, whatever the index says.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from typing import Any

import torch

from posegen.model.folder import INDEX_FILE, model_folder

LIBRARIES = ("diffusers", "transformers", "posegen")
SAMPLE = 2**20  # bytes of a file's start, middle and end that go into its fingerprint


def has(model: str, part: str) -> bool:
    """Whether a model folder holds that part."""
    return (model_folder(model) / part).is_dir()


def load(model: str, part: str, device: str = "cpu") -> Any:
    """A part of a model folder, such as "vae" or "tokenizer"; networks are frozen and on the device.

    Raises ValueError where there is no such folder or it names a class of an unknown library.
    """
    folder = model_folder(model)
    library, name = json.loads((folder / INDEX_FILE).read_text()).get(part) or ("", "")
    if str(library).split(".")[0] not in LIBRARIES or not has(model, part):
        raise ValueError(f"{model} has no {part} of {', '.join(LIBRARIES)}; check its {INDEX_FILE}.")
    loaded = getattr(importlib.import_module(library), name).from_pretrained(folder / part)
    return loaded.requires_grad_(False).eval().to(device) if isinstance(loaded, torch.nn.Module) else loaded


def fingerprint(model: str, *parts: str) -> str:
    """64 digits of the files of a model's parts: names, sizes, and a sample of what is in large ones."""
    digest, folder = hashlib.sha256(), model_folder(model)
    for path in sorted(path for part in parts for path in (folder / part).rglob("*") if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)} {size}".encode())
        with path.open("rb") as file:
            for start in (0, size // 2, max(0, size - SAMPLE)):
                file.seek(start)
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()
