"""Reading safetensors files, whose tensors stay memory-mapped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from posegen.model.checkpoints.names import CheckpointError, Tensors


def read_tensors(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> Tensors:
    """The wanted tensors of a safetensors file, memory-mapped; CheckpointError where it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def read_header(path: Path) -> dict[str, str]:
    """The texts in a safetensors file's header; CheckpointError where the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read ({error}): fetch it again.")
