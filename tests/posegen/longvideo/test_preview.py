"""Latents as pictures: the fit finds a known map, and a made video is recognised in its latents."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mini_model.puppets import Puppet, Scene, motion, render
from posegen.longvideo.conditions import decode_latents, encode_frames
from posegen.longvideo.preview import HEIGHT, MOST_WIDTH, SHOWN, Preview, latent_colours
from posegen.mini.codec import PrincipalVideoCodec
from testkit import ROOT

BUNDLED = ROOT / "posegen/mini/model"
SIZE = (64, 96)
FRAMES = 17


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    return render(Puppet.sample(5), Scene.sample(5), motion(5, FRAMES, 12.0, SIZE), SIZE).frames


@pytest.fixture(scope="module")
def codec() -> PrincipalVideoCodec:
    return PrincipalVideoCodec.from_pretrained(BUNDLED, subfolder="vae")


class Unknown(PrincipalVideoCodec):
    """A codec that is not known to be linear."""

    linear = False


def test_the_fit_finds_the_map_from_latents_to_colours() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(16, 30, 20, generator=generator)
    weights = 12 * torch.randn(16, 3, generator=generator)
    colours = (latents.movedim(0, -1) @ weights + 128).clamp(0, 255).round().to(torch.uint8).numpy()
    picture = colours.repeat(8, axis=0).repeat(8, axis=1)  # as a VAE of stride 8 would see it
    found = latent_colours(latents, picture)
    assert found.shape == (17, 3)
    assert torch.allclose(found[:-1].float(), weights, atol=1.0)
    assert torch.allclose(found[-1].float(), torch.tensor(128.0), atol=1.0)


def test_a_picture_of_one_colour_gives_that_colour() -> None:
    found = latent_colours(torch.zeros(16, 3, 2), np.full((24, 16, 3), 90, np.uint8))
    assert torch.allclose(found[-1], torch.tensor(90.0, dtype=torch.float64)) and not found[:-1].any()


def test_a_linear_codec_is_asked_for_the_frames(codec: PrincipalVideoCodec, video: np.ndarray) -> None:
    latents = encode_frames(codec, video[None])
    shown = Preview(codec, video[0]).frames(latents)
    assert np.array_equal(shown, decode_latents(codec, latents)[0].numpy()[[0, 5, 11, 16]])


def test_any_other_is_seen_in_the_colours_of_its_latents(
    codec: PrincipalVideoCodec, video: np.ndarray
) -> None:
    """Of frames whose latents it was not fitted to, within what blurs by the codec's stride."""
    codec.__class__, known = Unknown, codec.__class__
    try:
        shown = Preview(codec, video[0]).frames(encode_frames(codec, video[None]))
    finally:
        codec.__class__ = known
    assert shown.shape == (4, 12, 8, 3)
    groups = [video[:1], video[1:5], video[9:13], video[13:17]]
    small = [cv2.resize(group.mean(0), (8, 12), interpolation=cv2.INTER_AREA) for group in groups]
    assert np.abs(shown - np.stack(small)).mean() < 8
    assert np.abs(shown[0] - shown[1:].astype(int)).mean() > 1  # it moves


@pytest.mark.parametrize(("size", "frames"), [(SIZE, FRAMES), ((640, 16), 5), ((16, 480), 1)])
def test_a_preview_is_small_whatever_the_video(
    codec: PrincipalVideoCodec, size: tuple[int, int], frames: int
) -> None:
    picture = np.full((size[1], size[0], 3), 200, np.uint8)
    latents = encode_frames(codec, np.repeat(picture[None, None], frames, axis=1))
    found = Preview(codec, picture).jpeg(latents)
    width, height = Image.open(io.BytesIO(found)).size
    assert height == HEIGHT and width <= SHOWN * MOST_WIDTH and len(found) < 100_000
