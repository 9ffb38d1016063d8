"""Pictures of any depth, transparency and remark come as what they show, or as one sentence."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from posegen.video.pictures import PictureError, read_picture
from testkit.videos import numbered_picture

RAMP = np.tile(np.linspace(0, 1, 256), (16, 1))  # (16, 256) black to white
# Takes all memory in blocks of 16 KiB, then gives them back one by one and reads the picture after each.
STARVED = """
import ctypes, pathlib, resource, sys
from posegen.video.pictures import read_picture
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
read_picture(sys.argv[1])
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
blocks, outcomes = [], []
while block := libc.malloc(2**14):
    blocks.append(block)
for block in blocks[:200]:
    try:
        outcomes.append(read_picture(sys.argv[1]).shape)
    except MemoryError:
        outcomes.append("no memory")
    libc.free(block)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(*set(outcomes), sep="; ")
"""
GREY = np.repeat(np.round(RAMP * 255).astype(np.uint8)[..., None], 3, axis=2)


def saved(path: Path, picture: Image.Image, **how) -> Path:
    picture.save(path, **how)
    return path


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("grey16.png", np.round(RAMP * 65535).astype(np.uint16)),
        ("grey16.tiff", np.round(RAMP * 65535).astype(np.uint16)),
        ("grey32.tiff", np.round(RAMP * (2**31 - 1)).astype(np.int32)),
        ("float.tiff", RAMP.astype(np.float32)),
        ("large_float.tiff", (RAMP * 255).astype(np.float32)),
        ("grey8.png", np.round(RAMP * 255).astype(np.uint8)),
    ],
)
def test_deep_pictures_are_scaled(tmp_path: Path, name: str, values: np.ndarray):
    picture = read_picture(saved(tmp_path / name, Image.fromarray(values)))
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture.astype(int), GREY, atol=1)


def test_broken_floats_are_black_or_white(tmp_path: Path):
    values = np.array([[np.nan, -1, 0.5, 1]], np.float32)
    picture = read_picture(saved(tmp_path / "a.tiff", Image.fromarray(values)))
    assert picture[0, :, 0].tolist() == [0, 0, 128, 255]


@pytest.mark.parametrize("below", [0, 255, "noise"])
@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_what_is_transparent_is_white_whatever_lies_below(tmp_path: Path, below: int | str, name: str):
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    if below != "noise":
        colours[:] = below
    alpha = np.zeros((32, 32, 1), np.uint8)
    alpha[8:24, 8:24] = 255
    colours[8:24, 8:24] = (200, 30, 60)
    alpha[0] = 51  # a fifth
    colours[0] = 0
    path = saved(tmp_path / name, Image.fromarray(np.concatenate([colours, alpha], axis=2)), lossless=True)
    picture = read_picture(path)
    assert (picture[8:24, 8:24] == (200, 30, 60)).all()
    assert (picture[1:8] == 255).all() and (picture[0] == 204).all()


def test_transparent_colours_of_a_palette_are_white(tmp_path: Path):
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    picture.putpalette([10, 20, 30, 200, 100, 50])
    got = read_picture(saved(tmp_path / "a.png", picture, transparency=0))
    assert got.tolist() == [[[255] * 3, [200, 100, 50]], [[200, 100, 50], [255] * 3]]


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "tEXt"])
def test_notes_of_any_length_do_not_matter(tmp_path: Path, kind: str):
    note = "x" * (80 * 2**20 if kind == "tEXt" else 3 * 2**20)
    info = PngImagePlugin.PngInfo()
    if kind == "iTXt":
        info.add_itxt("workflow", note, zip=True)
    else:
        info.add_text("workflow", note, zip=kind == "zTXt")
    path = saved(tmp_path / "a.png", Image.fromarray(numbered_picture(5)), pnginfo=info)
    np.testing.assert_array_equal(read_picture(path), numbered_picture(5))


def test_pictures_come_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    stored = np.ascontiguousarray(np.rot90(numbered_picture(5)))
    path = saved(tmp_path / "a.png", Image.fromarray(stored), exif=exif)
    np.testing.assert_array_equal(read_picture(path), numbered_picture(5))


def png() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def renamed_chunk() -> bytes:
    """A PNG file of two blocks of data, the second of which has a broken name."""
    data = png()
    at = data.index(b"IDAT") - 4
    size = int.from_bytes(data[at : at + 4])
    body = data[at + 8 : at + 8 + size]

    def chunk(name: bytes, part: bytes) -> bytes:
        return len(part).to_bytes(4) + name + part + zlib.crc32(name + part).to_bytes(4)

    return data[:at] + chunk(b"IDAT", body[:999]) + chunk(b"AT\xe0\xaf", body[999:]) + data[at + 12 + size :]


BAD = {
    "missing.png": (None, "no such file; check the path"),
    "empty.png": (b"", "cannot be read as a picture"),
    "text.png": (b"no picture", "cannot be read as a picture"),
    "short.png": (png()[:3000], "cannot be read as a picture"),
    "block.png": (renamed_chunk(), "cannot be read as a picture"),
    "header.png": (png()[:20], "cannot be read as a picture"),
    "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as a picture"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_one_sentence(tmp_path: Path, name: str):
    content, why = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureError) as caught:
        read_picture(tmp_path / name)
    sentence = str(caught.value)
    assert sentence.startswith(f"{tmp_path / name}: ") and why in sentence
    assert sentence.endswith(".") and "\n" not in sentence


def test_formats_and_sizes_are_limited(tmp_path: Path):
    path = saved(tmp_path / "a.tiff", Image.fromarray(GREY))
    assert read_picture(path).shape == (16, 256, 3)
    with pytest.raises(PictureError, match=r"give a whole file of JPEG, PNG\."):
        read_picture(path, formats=("JPEG", "PNG"))
    huge = saved(tmp_path / "huge.png", Image.new("1", (9000, 9000)))
    with pytest.raises(PictureError, match=r"huge\.png: it is 9000x9000; give at most"):
        read_picture(huge)


def test_any_damage_is_a_picture_or_a_sentence(tmp_path: Path):
    random, path = np.random.default_rng(0), tmp_path / "a.png"
    for _ in range(200):
        data = bytearray(png())
        for place in random.integers(8, len(data), 3):
            data[place] = random.integers(256)
        path.write_bytes(data)
        try:
            assert read_picture(path).dtype == np.uint8
        except PictureError as error:
            assert str(error).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_decoder_short_of_memory_does_not_call_a_picture_broken(tmp_path: Path, name: str):
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    path = saved(tmp_path / name, Image.fromarray(noise))
    run = [sys.executable, "-c", STARVED, str(path)]
    outcomes = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert "no memory" in outcomes
    assert set(outcomes.strip().split("; ")) <= {"no memory", "(64, 96, 3)"}
