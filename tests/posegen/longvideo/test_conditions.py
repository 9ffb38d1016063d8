"""Conditions: against the formulas, and against diffusers' Wan pipeline where it does the same."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline
from PIL import Image
from transformers import CLIPImageProcessorPil

from posegen.driving.drawing import draw
from posegen.longvideo.conditions import (
    clip_pixels,
    decode_latents,
    draw_poses,
    encode_frames,
    encode_image,
    encode_text,
    frame_mask,
    pose_condition,
    subject_tokens,
)
from posegen.mini.codec import PrincipalVideoCodec
from testkit.tiny_model import (
    SIZE,
    picture,
    tiny_image_encoder,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_vae,
    walking,
)

FRAMES = 9


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return tiny_vae()


def videos(batch: int = 1) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (batch, FRAMES, SIZE[1], SIZE[0], 3), np.uint8)


def test_the_mask_says_which_frames_are_given() -> None:
    given = torch.zeros(1, 17, dtype=torch.bool)
    given[:, :5] = given[:, -4:] = True
    mask = frame_mask(given, 2, 3)
    assert mask.shape == (1, 4, 5, 2, 3)
    of_latents = mask[0, :, :, 0, 0].T.tolist()  # four frames for each latent one
    assert of_latents == [[1] * 4, [1] * 4, [0] * 4, [0] * 4, [1] * 4]
    assert (mask == mask[..., :1, :1]).all()


def test_the_mask_of_a_first_frame_is_that_of_wan() -> None:
    """As in diffusers' WanImageToVideoPipeline.prepare_latents."""
    given = torch.tensor([[True] + [False] * 8])
    ones = torch.cat([torch.ones(1, 1, 4), torch.zeros(1, 1, 8)], dim=2)
    expected = ones.view(1, -1, 4).transpose(1, 2)
    assert torch.equal(frame_mask(given, 1, 1)[..., 0, 0], expected)


@torch.no_grad()
def test_latents_are_normalised_with_the_config(vae: AutoencoderKLWan) -> None:
    video = torch.from_numpy(videos()).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    raw = vae.encode(video).latent_dist.mode()
    latents = encode_frames(vae, videos())
    assert latents.shape == (1, 16, 3, SIZE[1] // 8, SIZE[0] // 8)
    config = vae.config
    for channel in range(16):
        expected = (raw[:, channel] - config.latents_mean[channel]) / config.latents_std[channel]
        torch.testing.assert_close(latents[:, channel], expected)


@torch.no_grad()
def test_a_batch_is_its_videos(vae: AutoencoderKLWan) -> None:
    both = encode_frames(vae, videos(2))
    one = torch.cat([encode_frames(vae, videos(2)[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(both, one, rtol=1e-4, atol=1e-5)
    assert decode_latents(vae, both).shape == (2, FRAMES, SIZE[1], SIZE[0], 3)


@torch.no_grad()
def test_pixels_come_back_through_another_autoencoder() -> None:
    """With as many components as pixels the codec loses nothing, so only our own conversions could."""
    torch.manual_seed(0)
    noise = torch.rand(64, 3, 5, 16, 16) * 2 - 1
    codec = PrincipalVideoCodec.fit([noise], z_dim=192)
    still = np.broadcast_to(picture((16, 16)), (1, 1, 16, 16, 3))
    assert encode_frames(codec, still.copy()).shape == (1, 192, 1, 2, 2)
    assert (
        np.abs(decode_latents(codec, encode_frames(codec, still.copy())).numpy().astype(int) - still).max()
        <= 1
    )


def test_poses_are_drawn_as_the_network_knows_them() -> None:
    poses = walking(2, (320, 480))
    pictures = draw_poses(poses, (320, 480))
    assert np.array_equal(pictures, np.stack([draw(pose, (320, 480)) for pose in poses]))


def test_small_pictures_get_thin_limbs() -> None:
    plain, thin = (draw_poses(walking(1, (64, 96)), (64, 96), oversampling=times)[0] for times in (1, 4))
    assert thin.shape == plain.shape == (96, 64, 3)
    assert 0 < thin.astype(float).sum() < 0.5 * plain.astype(float).sum()


def test_a_frame_without_a_person_is_black() -> None:
    assert not draw_poses(np.full((1, 133, 3), np.nan, np.float32), SIZE).any()


@torch.no_grad()
def test_pose_condition_is_mask_then_latents(vae: AutoencoderKLWan) -> None:
    given = torch.zeros(1, FRAMES, dtype=torch.bool)
    given[:, :5] = True
    condition = pose_condition(vae, videos(), given)
    assert torch.equal(condition[:, :4], frame_mask(given, SIZE[1] // 8, SIZE[0] // 8))
    assert torch.equal(condition[:, 4:], encode_frames(vae, videos()))


@torch.no_grad()
def test_text_is_that_of_diffusers() -> None:
    tokenizer = tiny_tokenizer()
    encoder = tiny_text_encoder(tokenizer)
    prompts = ["the woman dances", "a man"]
    ours = encode_text(tokenizer, encoder, ["the  woman\ndances ", "a man"])
    pipeline = SimpleNamespace(
        tokenizer=tokenizer, text_encoder=encoder, _execution_device=torch.device("cpu")
    )
    theirs = WanImageToVideoPipeline._get_t5_prompt_embeds(pipeline, prompts, max_sequence_length=8)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert ours.shape == (2, 8, 16)
    assert ours[0, :4].any(-1).all() and not ours[0, 4:].any()


@torch.no_grad()
def test_clip_sees_the_whole_picture_squashed() -> None:
    processor = CLIPImageProcessorPil()
    tall = np.zeros((128, 72, 3), np.uint8)
    tall[:16], tall[-16:] = (255, 0, 0), (0, 0, 255)
    pixels = clip_pixels(processor, tall[None], 224)[0].permute(1, 2, 0) * torch.tensor(processor.image_std)
    seen = pixels + torch.tensor(processor.image_mean)
    assert seen.shape == (224, 224, 3)
    torch.testing.assert_close(seen[:20], torch.tensor([1.0, 0, 0]).expand(20, 224, 3))
    torch.testing.assert_close(seen[-20:], torch.tensor([0, 0, 1.0]).expand(20, 224, 3))
    assert seen.max() > 1.01  # bicubic overshoots at an edge; nothing is clipped


@torch.no_grad()
def test_image_tokens_of_a_picture_of_clips_size_are_those_of_diffusers() -> None:
    encoder = tiny_image_encoder()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    ours = encode_image(processor, encoder, picture((16, 16))[None])
    pipeline = SimpleNamespace(
        image_processor=processor, image_encoder=encoder, _execution_device=torch.device("cpu")
    )
    theirs = WanImageToVideoPipeline.encode_image(pipeline, Image.fromarray(picture((16, 16))))
    torch.testing.assert_close(ours, theirs)
    assert ours.shape == (1, 5, 16)


@pytest.mark.parametrize(
    ("prompt", "places"),
    [
        ("a woman dances", [1]),
        ("the  many dancing man", [3]),
        ("A Man", [1]),
        ("Women dances", [0]),
        ("many romantic dances", []),
        ("", []),
    ],
)
def test_the_subject_is_a_whole_word(prompt: str, places: list[int]) -> None:
    assert subject_tokens(tiny_tokenizer(), prompt) == places
