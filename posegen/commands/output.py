"""Whether a file can be written where it is wanted, found out before any work."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_output(path: Path, option: str = "--output", endings: tuple[str, ...] = (".mp4",)) -> None:
    """Makes the folder of the file that an option names; raises ValueError where it could not be written there."""
    if path.suffix.lower() not in endings or path.is_dir():
        raise ValueError(f"{option} {path}: give the name of a file that ends in {' or '.join(endings)}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} {path} cannot be written ({error.strerror}); choose another place."
        ) from error
