"""Whether a video can be written where it is wanted, found out before any work."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_output(path: Path) -> None:
    """Makes the folder of the video to be written; raises ValueError where it could not be written there."""
    if path.suffix.lower() != ".mp4" or path.is_dir():
        raise ValueError(f"--output {path}: the video is an MP4; give a name that ends in .mp4.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"--output {path} cannot be written ({error.strerror}); choose another place."
        ) from error
