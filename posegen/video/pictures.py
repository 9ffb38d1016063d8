"""Picture files as upright 8-bit RGB, whatever their depth, transparency and remarks; the one reader of all rooms.

Values of 16 bits are scaled by their full range; floating-point ones are taken as 0..1 unless some are
above it, which are scaled so that the largest is white. Transparent pictures are laid on white, so that what a cut-out
hides below its transparency never shows. Text in PNG files is not read, as it may be of any size. Colour profiles are
not applied.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

# The four plugins register what they read; Pillow would import all there are for the last two.
from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from posegen.video.container import MAX_PIXELS

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
BELOW = (255, 255, 255)  # RGB behind transparency
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt")
HEADROOM = 2**26  # bytes that must be free for a decoder's error to be the file's fault


class PictureError(ValueError):
    """A file cannot be read as a picture; the message is one sentence: which file, what is wrong, what to do."""


def check_pixels(size: tuple[int, int]) -> None:
    """Raises ValueError for a picture of too many pixels."""
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"it is {size[0]}x{size[1]}; give at most {MAX_PIXELS} pixels.")


def jpeg(picture: np.ndarray, height: int, quality: int = 85) -> bytes:
    """A picture (H, W, 3) uint8 RGB as a JPEG of this height; quality: 1 to 100."""
    if picture.shape[0] != height:
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def read_picture(
    path: str | Path,
    formats: tuple[str, ...] = FORMATS,
    check: Callable[[tuple[int, int]], None] = check_pixels,
) -> np.ndarray:
    """A picture file as (H, W, 3) uint8 RGB, turned upright.

    formats: Pillow's names of those that are tried. check: given the stored (width, height) before a pixel is decoded,
    it raises ValueError, a sentence about "it", where they will not do. Raises `PictureError` then, and where the file
    is not there or cannot be read as a picture.
    """
    with _said_of(path, formats):
        picture = Image.open(io.BytesIO(_without_text(Path(path).read_bytes())), formats=formats)
    try:
        check(picture.size)
    except ValueError as error:
        raise PictureError(f"{path}: {error}") from error
    with _said_of(path, formats):
        return _eight_bits(ImageOps.exif_transpose(picture))


@contextmanager
def _said_of(path: str | Path, formats: tuple[str, ...]) -> Iterator[None]:
    """Makes any error but that of too little memory a `PictureError` about this file."""
    try:
        yield
    except MemoryError:
        raise
    except FileNotFoundError:
        raise PictureError(f"{path}: no such file; check the path.") from None
    except Exception as error:  # decoders raise whatever they like, from SyntaxError to struct.error
        bytearray(HEADROOM)  # raises MemoryError: a decoder short of memory may call a good file broken
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(
            f"{path}: it cannot be read as a picture ({reason}); give a whole file of {', '.join(formats)}."
        ) from error


def _eight_bits(picture: Image.Image) -> np.ndarray:
    if picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture), nan=0.0)
        return _grey(values / max(1.0, float(values.max())))
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.float64)
        return _grey(values / (2**16 - 1 if values.max() < 2**16 else 2**31 - 1))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, BELOW), picture)
    return np.array(picture.convert("RGB"))


def _grey(values: np.ndarray) -> np.ndarray:
    """(H, W) values 0..1 as RGB."""
    rounded = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return np.repeat(rounded[..., None], 3, axis=2)


def _without_text(content: bytes) -> bytes:
    """A PNG file without its text chunks (PNG specification, 11.3.3); other content as it is."""
    if not content.startswith(PNG_SIGNATURE):
        return content
    kept, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while at < len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4])  # length, name and checksum are 4 bytes each
        if content[at + 4 : at + 8] not in PNG_TEXT:
            kept.append(content[at:end])
        at = end
    return b"".join(kept)
