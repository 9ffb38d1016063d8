"""Local files that are whole or absent, whoever is killed while writing them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A path to write at, whose file becomes the target when the block ends, and is deleted if it ends in an error.

    It lies beside the target under a hidden name, so readers of the folder pass over what a killed writer leaves; each
    writer has a name of its own.
    """
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
