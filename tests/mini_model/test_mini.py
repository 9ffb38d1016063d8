"""The mini model's codec, tokenizer and pretraining, on a few small puppet clips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5EncoderModel

from mini_model.base import BaseConfig, choose_frames, sample_sigmas, tokenize, train_base
from mini_model.clips import ClipsConfig, clips_folder, draw_clip, read_clips, to_unit, write_clips
from mini_model.codec import CodecConfig, fit_codec, psnr
from mini_model.items import (
    ITEMS_A_CLIP,
    LONG_FRAMES,
    SHIFT,
    ItemsConfig,
    read_items,
    reference_poses,
    write_items,
)
from mini_model.loop import WARMUP_STEPS, Loop, make_optimizers
from mini_model.muon import Muon
from mini_model.posed import (
    Encoder,
    Examples,
    Pictures,
    PosedConfig,
    difference,
    error_weight,
    merged,
    network_weights,
    reached,
    train_posed,
)
from mini_model.puppets import motion
from posegen.mini.codec import PrincipalVideoCodec
from posegen.mini.text import MAX_TOKENS, make_tokenizer

SMALL: dict[str, Any] = {"steps": 4, "batch": 2, "validate_every": 2}


@pytest.fixture(scope="module")
def video() -> Tensor:
    """(4, 3, 33, 96, 64) in -1..1."""
    return to_unit(torch.stack([torch.from_numpy(draw_clip(seed)[0]) for seed in range(4)]).movedim(-1, 1))


@pytest.fixture(scope="module")
def codec(video: Tensor) -> PrincipalVideoCodec:
    return PrincipalVideoCodec.fit(video.split(2)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, items and a codec to train on."""
    folder = tmp_path_factory.mktemp("mini")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("clips", "items"):
            patch.setattr(f"mini_model.{module}.CLIPS_A_FILE", 4)
        write_clips(ClipsConfig(folder, clips=8, threads=1))
        write_items(ItemsConfig(folder, clips=4))
    fit_codec(CodecConfig(folder))
    return folder


@pytest.fixture
def based(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with items and a base model of random weights."""
    monkeypatch.setattr("mini_model.items.CLIPS_A_FILE", 4)
    for name in ("BATCHES", "ITEMS"):
        monkeypatch.setattr(f"mini_model.posed.VALIDATION_{name}", 2)
    for part in ("clips", "vae", "items"):
        (tmp_path / part).symlink_to(folder / part)
    train_base(small_base(tmp_path))
    return tmp_path


def encoded(codec: Any, video: Tensor) -> Tensor:
    return codec.encode(video).latent_dist.mode()


def decoded(codec: Any, latents: Tensor) -> Tensor:
    with torch.no_grad():
        return codec.decode(latents).sample


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_strides(codec: PrincipalVideoCodec, video: Tensor, frames: int) -> None:
    latents = encoded(codec, video[:, :, :frames])
    assert latents.shape == (4, codec.config.z_dim, (frames - 1) // 4 + 1, 12, 8)
    assert decoded(codec, latents).shape == (4, 3, frames, 96, 64)


@pytest.mark.parametrize("shape", [(16, 96, 64), (17, 90, 64), (17, 96, 60)])
def test_other_sizes_are_refused(codec: PrincipalVideoCodec, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="4k \\+ 1 frames"):
        codec.encode(torch.zeros(1, 3, *shape))


def test_first_frame_stands_alone(codec: PrincipalVideoCodec, video: Tensor) -> None:
    torch.testing.assert_close(encoded(codec, video)[:, :, :1], encoded(codec, video[:, :, :1]))


def test_decoding_does_not_look_ahead(codec: PrincipalVideoCodec, video: Tensor) -> None:
    latents = encoded(codec, video)
    torch.testing.assert_close(decoded(codec, latents[:, :, :3]), decoded(codec, latents)[:, :, :9])


def test_still_picture_looks_the_same_in_the_first_frame_and_later(
    codec: PrincipalVideoCodec, video: Tensor
) -> None:
    latents = encoded(codec, video[:, :, :1].expand(-1, -1, 5, -1, -1))
    assert (latents[:, :, 0] - latents[:, :, 1]).square().mean() < 0.02 * latents.square().mean()


def test_components_keep_the_picture(codec: PrincipalVideoCodec, video: Tensor) -> None:
    assert psnr(decoded(codec, encoded(codec, video)), video) > 24


def test_latents_are_scaled_by_one_number(codec: PrincipalVideoCodec, video: Tensor) -> None:
    mean = torch.tensor(codec.config.latents_mean).view(1, -1, 1, 1, 1)
    assert len(set(codec.config.latents_std)) == 1
    scaled = (encoded(codec, video) - mean) / codec.config.latents_std[0]
    assert scaled.mean().abs() < 1e-3
    assert abs(scaled.std() - 1) < 1e-2


def test_codec_is_saved_whole(codec: PrincipalVideoCodec, video: Tensor, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    loaded = PrincipalVideoCodec.from_pretrained(tmp_path)
    latents = encoded(codec, video)
    assert torch.equal(encoded(loaded, video), latents)
    assert torch.equal(decoded(loaded, latents), decoded(codec, latents))
    assert loaded.config.latents_mean == codec.config.latents_mean


def test_any_prompt_becomes_tokens(tmp_path: Path) -> None:
    make_tokenizer(["A woman in a red coat waves.", "A boy walks."]).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a WOMAN, walks!", "", "ein Mädchen 🙂", "walks " * 100]
    tokens, mask = tokenize(tokenizer, texts)
    assert tokens.shape == mask.shape == (4, MAX_TOKENS)
    assert mask.sum(1).tolist() == [4, 1, 4, MAX_TOKENS]
    assert tokenizer.decode(tokens[0][: mask[0].sum()]) == "a woman walks </s>"


def test_noise_levels_cover_their_range() -> None:
    sigmas = sample_sigmas(1000, 3.0, torch.Generator().manual_seed(0))
    assert 0 < sigmas.min() < 0.1
    assert 0.99 < sigmas.max() < 1
    assert abs(sigmas.median() - 0.75) < 0.02


def test_half_of_the_items_begin_with_a_frame_from_elsewhere() -> None:
    clips = torch.arange(33).view(1, 1, 33, 1, 1).expand(400, 3, 33, 2, 2)
    chosen = choose_frames(clips, 9, torch.Generator().manual_seed(0))[:, 0, :, 0, 0]
    assert (chosen[:, 2:] - chosen[:, 1:-1] == 1).all() and chosen.max() == 32
    continued = chosen[:, 1] - chosen[:, 0] == 1
    assert continued[::2].all() and continued[1::2].float().mean() < 0.1
    assert set(chosen[1::2, 0].tolist()) == set(range(33))


def test_muon_steps_the_matrices_of_blocks_alone() -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(4, 4)]), "embedding": nn.Embedding(3, 4)})
    adamw, muon = make_optimizers(model)
    assert isinstance(adamw, torch.optim.AdamW) and isinstance(muon, Muon)
    assert [weight.shape for weight in muon.param_groups[0]["params"]] == [(4, 4)]
    assert [weight.shape for weight in adamw.param_groups[0]["params"]] == [(4,), (3, 4)]
    assert len(make_optimizers(nn.Conv3d(1, 1, 1))) == 1


def test_validation_clips_are_no_training_clips(folder: Path) -> None:
    frames, captions = read_clips(folder)
    validation, _ = read_clips(folder, validation=True)
    assert frames.shape == (8, 3, 33, 96, 64)
    assert len(captions) == 8
    assert not any(torch.equal(clip, other) for clip in frames for other in validation)


def test_missing_clips_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pretrain\.py data"):
        read_clips(tmp_path)


def test_items_show_a_still_place_with_the_reference_in_it(folder: Path, based: Path) -> None:
    items = read_items(folder)
    assert len(items) == 4 * ITEMS_A_CLIP
    chosen = list(range(len(items)))
    frames, references = items.pictures("frames", chosen), items.pictures("references", chosen)
    assert frames.shape == (8, 9, 96, 64, 4) and references.shape == (8, 96, 64, 3)
    empty = (frames[:, 0, ..., 3] == 0) & (frames[:, -1, ..., 3] == 0)
    assert empty.mean() > 0.5
    assert (frames[:, 0, ..., :3] == frames[:, -1, ..., :3])[empty].all()
    assert (frames[:, 0, ..., :3] == references)[empty].mean() > 0.9  # it stands elsewhere in the rest
    assert items.texts([0, 1, 2])[0] == items.texts([0, 1, 2])[1] != items.texts([0, 1, 2])[2]


def test_a_picture_shows_people_where_the_whole_motion_is_or_elsewhere() -> None:
    whole, spans = motion(3, LONG_FRAMES), [slice(0, 9), slice(12, 21)]
    clip = whole[:33]
    drawn = [reference_poses(np.random.default_rng(seed), whole, clip, spans, 64) for seed in range(40)]
    moved = np.array([like[0, 0, 0] - whole[0, 0, 0] for like, _ in drawn])
    assert all((first == second).all() for first, second in drawn)
    assert 10 < (moved == 0).sum() < 30
    assert 6 < np.abs(moved).max() <= SHIFT * 64
    own, other = reference_poses(np.random.default_rng(0), clip, clip, spans, 64)
    assert (own == clip[:9]).all()
    assert (other == clip).all()


def test_missing_items_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pretrain\.py items"):
        read_items(tmp_path)


def test_errors_weigh_more_where_the_person_is() -> None:
    opacity = torch.zeros(1, 5, 16, 16, dtype=torch.uint8)
    opacity[0, 3, 2, 12] = 255
    weight = error_weight(opacity)
    assert weight.shape == (1, 1, 2, 2, 2)
    assert weight.argmax() == 5 and weight.max() == pytest.approx(3 * weight.min())
    assert weight.mean() == pytest.approx(1)


@pytest.mark.parametrize("adapter", ["base", "cond"])
def test_the_adapter_is_the_trained_network(based: Path, adapter: Any) -> None:
    config = PosedConfig(based, **SMALL, adapter=adapter, model=based / "base", compile=False)
    train_posed(config)
    network, base = merged(config.model, based / "adapters" / adapter), network_weights(config.model)
    changed = {name for name, weight in network.state_dict().items() if not torch.equal(weight, base[name])}
    assert changed and all(reached(name) for name in changed)
    trained = [weight for name, weight in network.named_parameters() if reached(name)]
    averages = torch.load(based / f"{adapter}_adapter.pt", weights_only=True)["ema"]
    for weight, average in zip(trained, averages, strict=True):
        torch.testing.assert_close(weight, average)


def test_bridges_learn_from_what_the_base_adapter_makes(based: Path) -> None:
    """Each end is given by a segment of its own, as in use: made by one, they agree as they never will again."""
    train_posed(PosedConfig(based, **SMALL, model=based / "base", compile=False))
    config = PosedConfig(
        based / "three",
        **SMALL,
        adapter="cond",
        model=based / "base",
        neighbours=based / "adapters" / "base",
        compile=False,
    )
    write_items(ItemsConfig(config.folder, clips=4, frames=22))
    pictures = Pictures.of(read_items(config.folder), [0, 1], [True, True])
    encode = Encoder(config)

    def examples(pictures: Pictures) -> Examples:
        return encode(pictures, torch.Generator().manual_seed(0))

    guessed = examples(pictures).pose
    alone = Encoder(replace(config, neighbours=None))(pictures.span(8, 17), torch.Generator())
    assert torch.equal(examples(pictures).latents, alone.latents)  # the middle segment's
    true = alone.pose
    assert torch.equal(true[:, :4], guessed[:, :4])  # which frames are given
    given = true[:, 0, :, 0, 0] == 1

    def changed(one: Tensor, other: Tensor) -> Tensor:
        return (one != other).any(dim=1).any(dim=(-1, -2))

    assert torch.equal(changed(true, guessed), given)
    for end, latent in ((slice(0, 8), 0), (slice(17, 22), 2)):
        poses = pictures.poses.copy()
        poses[:, end] = 255 - poses[:, end]
        moved = changed(guessed, examples(replace(pictures, poses=poses)).pose)
        assert moved.tolist() == [[where == latent for where in range(3)]] * 2
    train_posed(config)
    assert (config.folder / "adapters" / "cond").is_dir()


def test_items_of_one_segment_have_no_neighbours(based: Path) -> None:
    train_posed(PosedConfig(based, **SMALL, model=based / "base", compile=False))
    made_by = based / "adapters" / "base"
    config = PosedConfig(
        based, **SMALL, adapter="cond", model=based / "base", neighbours=made_by, compile=False
    )
    with pytest.raises(ValueError, match=r"Items of 9 frames .* --frames 22"):
        train_posed(config)


def test_a_change_in_all_directions_is_carried_whole(based: Path) -> None:
    """A change by Muon is of full rank; an adapter of a lower one lost most of it."""
    network, base = merged(based / "base", None), network_weights(based / "base")
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if reached(name):
                weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    adapter = difference(network, base)
    for module in adapter.modules:
        down, up = adapter.matrices(module)
        torch.testing.assert_close(
            base[f"{module}.weight"] + up @ down,
            network.get_parameter(f"{module}.weight").detach(),
            rtol=1e-4,
            atol=1e-4,
        )


def test_interrupted_pretraining_gives_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for copy in (straight, resumed):
        copy.mkdir()
        clips_folder(copy).symlink_to(clips_folder(folder))
        (copy / "vae").symlink_to(folder / "vae")
    train_base(small_base(straight))
    with monkeypatch.context() as patch:
        train = Loop._train
        patch.setattr(Loop, "_train", lambda loop, batch: train(loop, batch) if loop.step < 3 else cut_off())
        with pytest.raises(KeyboardInterrupt):
            train_base(small_base(resumed))
    train_base(small_base(resumed))
    for part in ("transformer", "text_encoder"):
        assert same_weights(straight / "base" / part, resumed / "base" / part)
    assert [row["step"] for row in rows(resumed)] == [2, 4]
    assert rows(resumed) == rows(straight)


def test_learning_rate_ends_with_the_minutes(folder: Path, tmp_path: Path) -> None:
    for part in ("clips", "vae"):
        (tmp_path / part).symlink_to(folder / part)
    train_base(replace(small_base(tmp_path), steps=10**6, validate_every=10**6, finish_minutes=0.05))
    last = rows(tmp_path)[-1]
    assert 0 < last["step"] < 10**6
    assert last["learning_rate"] < 0.1 * BaseConfig.learning_rate * min(1, last["step"] / WARMUP_STEPS)


def small_base(folder: Path) -> BaseConfig:
    return BaseConfig(folder, **SMALL, heads=1, layers=1, compile=False)


def cut_off() -> float:
    raise KeyboardInterrupt


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "base.jsonl").read_text().splitlines()]


def same_weights(one: Path, other: Path) -> bool:
    cls = UMT5EncoderModel if one.name == "text_encoder" else WanTransformer3DModel
    states = [cls.from_pretrained(path).state_dict() for path in (one, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])
