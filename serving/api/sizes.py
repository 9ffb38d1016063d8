"""Which sizes a video may have, and the list of usual ones that whoever asks for another is given."""

from __future__ import annotations

import re
from collections.abc import Iterator

from serving.api.settings import ApiSettings

SIZE = r"[1-9][0-9]{1,4}x[1-9][0-9]{1,4}"
SCALES = 1.0, 2 / 3
"""Of the usual sizes beside the model's own; two thirds make 480p of 720p."""


def size_problem(size: str, settings: ApiSettings) -> str | None:
    """Why a video cannot have that size, WIDTHxHEIGHT in pixels, if it cannot."""
    if not re.fullmatch(SIZE, size):
        return f"{size!r} is not WIDTHxHEIGHT in pixels"
    model = settings.model
    width, height = map(int, size.split("x"))
    if width % model.unit or height % model.unit:
        return f"width and height must be multiples of {model.unit} pixels"
    if width * height > settings.video_pixels:
        return f"{size} has more than {settings.video_pixels} pixels, the most that this server takes"
    if (squares := width * height // model.unit**2) % model.shared_by:
        return f"{squares} squares of {model.unit} pixels are no multiple of {model.shared_by}, the GPUs that share"
    return None


def usual_sizes(settings: ApiSettings) -> list[str]:
    """The model's own size first, then that one turned and squares, each also smaller; only what is taken."""
    sizes = dict.fromkeys(f"{width}x{height}" for width, height in _shapes(settings))
    return [size for size in sizes if size_problem(size, settings) is None]


def _shapes(settings: ApiSettings) -> Iterator[tuple[int, int]]:
    width, height = settings.model.size
    side = (width * height) ** 0.5
    for scale in SCALES:
        for shape in ((width, height), (height, width), (side, side)):
            yield _units(shape[0] * scale, settings), _units(shape[1] * scale, settings)


def _units(pixels: float, settings: ApiSettings) -> int:
    unit = settings.model.unit
    return max(unit, round(pixels / unit) * unit)
