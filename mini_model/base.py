"""The mini model's base: Wan's image-to-video transformer at a small size, without pose or reference.

The network predicts the clean latents and is weighed as if it predicted the velocity, which a small
one learns far better; it is given the first frame, and now and then no frame or no text, for guidance. The text
encoder is trained along with it. In half of the items the given frame is from elsewhere in the clip, so that it learns
to carry a person into another pose. The folder it writes is laid out as Wan's own models are; its transformer's
configuration says `prediction: sample`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from torch import Generator, Tensor, nn
from transformers import PreTrainedTokenizerFast

from mini_model.clips import read_clips, to_unit
from mini_model.codec import vae_folder
from mini_model.loop import Loop, LoopConfig, own, processes
from mini_model.precision import autocast
from posegen.mini.codec import TIME, PrincipalVideoCodec
from posegen.mini.text import make_text_encoder, make_tokenizer
from training.step.objective import LEAST_SIGMA

TEXT_DROPPED = FRAME_DROPPED = 0.1
SIGMA_SPREAD = 1.3
"""Of the logits of the noise levels. Wider than the usual 1, as the components' strengths span two orders."""
VALIDATION_SIGMAS = (0.5, 0.8, 0.9, 0.97)
VALIDATION_BATCHES = 4
HEAD_CHANNELS = 32


@dataclass(frozen=True)
class BaseConfig(LoopConfig):
    """Train the image-to-video transformer."""

    steps: int = 3500
    batch: int = 4
    learning_rate: float = 2e-3
    validate_every: int = 250
    frames: int = 9
    """Of a training item, 4k + 1."""
    items: int = 6
    """Cut from each clip."""
    heads: int = 4
    """Of attention, 32 channels each."""
    layers: int = 6
    """Transformer blocks."""
    shift: float = 6.0
    """Of the noise levels, in training and sampling. The codec's strongest component, an 8x8 square's brightness, has
    7 times the deviation of the average one, so what is where is settled at noise levels above 0.85."""
    compile: bool = True
    """Use torch.compile, which needs a C++ compiler: a third faster on a CPU."""


@dataclass(frozen=True)
class Clips:
    """latents: (N, z, f, h, w), normalised; tokens, mask: (N, text_tokens) of the captions."""

    latents: Tensor
    tokens: Tensor
    mask: Tensor

    def __getitem__(self, clips: Tensor | slice) -> Clips:
        return Clips(self.latents[clips], self.tokens[clips], self.mask[clips])


@dataclass(frozen=True)
class Batch:
    """Of B clips: sigmas (B,) in 0..1, text_given and frame_given (B,) bool."""

    clips: Clips
    sigmas: Tensor
    text_given: Tensor
    frame_given: Tensor


def train_base(config: BaseConfig) -> None:
    """Encodes all clips, trains, writes base/."""
    vae = PrincipalVideoCodec.from_pretrained(vae_folder(config.folder)).to(config.device)
    tokenizer = make_tokenizer(read_clips(config.folder)[1])
    clips = encode_clips(config, vae, tokenizer)
    validation = encode_clips(config, vae, tokenizer, validation=True)
    torch.manual_seed(config.seed)
    base = Base(vae, tokenizer, config).to(config.device)

    def read(generator: Generator) -> Batch:
        batch = config.batch * processes()
        chosen = own(torch.randint(len(clips.latents), (batch,), generator=generator))
        sigmas = own(sample_sigmas(batch, config.shift, generator))
        text_given, frame_given = (
            own(torch.rand(batch, generator=generator) >= share) for share in (TEXT_DROPPED, FRAME_DROPPED)
        )
        return Batch(clips[chosen], *(part.to(config.device) for part in (sigmas, text_given, frame_given)))

    def measure() -> dict[str, float]:
        return {
            f"validation_{sigma}": base.validation_loss(validation, sigma, config)
            for sigma in VALIDATION_SIGMAS
        }

    Loop("base", base, read, base.loss, config).run(measure, lambda: write_base(base, vae, tokenizer, config))


class Base(nn.Module):
    """The trained modules and their loss."""

    def __init__(
        self, vae: PrincipalVideoCodec, tokenizer: PreTrainedTokenizerFast, config: BaseConfig
    ) -> None:
        super().__init__()
        self.text_encoder = make_text_encoder(tokenizer)
        self.transformer = make_transformer(vae.config.z_dim, self.text_encoder.config.d_model, config)
        self.no_tokens, self.no_mask = (part.to(config.device) for part in tokenize(tokenizer, [""]))
        self.grey = normalise(vae, torch.zeros(1, vae.config.z_dim, 1, 1, 1, device=config.device))
        if config.compile:
            self.transformer.compile_repeated_blocks()

    def loss(self, batch: Batch, generator: Generator) -> Tensor:
        """Mean squared error of the velocity."""
        clips, latents, sigma = batch.clips, batch.clips.latents, batch.sigmas.view(-1, 1, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        noisy = (1 - sigma) * latents + sigma * noise
        tokens = torch.where(batch.text_given[:, None], clips.tokens, self.no_tokens)
        mask = torch.where(batch.text_given[:, None], clips.mask, self.no_mask)
        with autocast(latents.device):
            clean = self.transformer(
                torch.cat([noisy, self.condition(latents, batch.frame_given)], dim=1),
                timestep=1000 * batch.sigmas,
                encoder_hidden_states=self.encode(tokens, mask),
                return_dict=False,
            )[0].float()
        return ((clean - latents) / sigma.clamp(min=LEAST_SIGMA)).square().mean()

    def condition(self, latents: Tensor, frame_given: Tensor) -> Tensor:
        """Frame mask and latents (B, 4 + z, f, h, w) of a video of the first frame and grey ones behind it.

        The codec is linear: grey has the same latents in any frame.
        """
        given = frame_given.view(-1, 1, 1, 1, 1).float()
        known = self.grey.expand_as(latents).clone()
        known[:, :, :1] += given * (latents[:, :, :1] - known[:, :, :1])
        mask = latents.new_zeros(len(latents), TIME, *latents.shape[2:])
        mask[:, :, :1] = given
        return torch.cat([mask, known], dim=1)

    def encode(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Hidden states (B, text_tokens, text_dim), zeros behind the last token."""
        return self.text_encoder(tokens, mask).last_hidden_state * mask.unsqueeze(-1)

    def validation_loss(self, clips: Clips, sigma: float, config: BaseConfig) -> float:
        """The loss at one noise level, with the same noise every time."""
        generator = torch.Generator(config.device).manual_seed(0)
        given = torch.ones(config.batch, dtype=torch.bool, device=config.device)
        losses = [
            self.loss(Batch(clips[first : first + config.batch], sigma * given, given, given), generator)
            for first in range(0, VALIDATION_BATCHES * config.batch, config.batch)
        ]
        return torch.stack(losses).mean().item()


def make_transformer(channels: int, text_dim: int, config: BaseConfig) -> WanTransformer3DModel:
    """Wan's image-to-video transformer without an image encoder; about 1.8 M weights by default."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=config.heads,
        attention_head_dim=HEAD_CHANNELS,
        in_channels=channels + TIME + channels,
        out_channels=channels,
        text_dim=text_dim,
        ffn_dim=4 * HEAD_CHANNELS * config.heads,
        num_layers=config.layers,
    )
    transformer.register_to_config(prediction="sample", shift_reference=False)
    return transformer


def sample_sigmas(count: int, shift: float, generator: Generator) -> Tensor:
    """Noise levels (count,) in 0..1, logit-normal then shifted; one from each of `count` equal shares."""
    share = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    sigmas = (SIGMA_SPREAD * torch.special.ndtri(share)).sigmoid()
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def encode_clips(
    config: BaseConfig, vae: PrincipalVideoCodec, tokenizer: PreTrainedTokenizerFast, validation: bool = False
) -> Clips:
    frames, captions = read_clips(config.folder, validation)
    generator = torch.Generator().manual_seed(config.seed)
    latents = [
        vae.encode(
            to_unit(choose_frames(part, config.frames, generator).to(config.device)), return_dict=False
        )[0].mode()
        for _ in range(config.items)
        for part in frames.split(50)
    ]
    parts = normalise(vae, torch.cat(latents)), *tokenize(tokenizer, captions * config.items)
    return Clips(*(part.to(config.device) for part in parts))


def choose_frames(clips: Tensor, frames: int, generator: Generator) -> Tensor:
    """Of clips (N, 3, T, H, W): a first frame and what follows (N, 3, frames, H, W), anywhere in each clip.

    In every second item the first frame is not the one before the others but any of the clip: then the transformer has
    to find the parts of a person again in another pose, which continuing a frame teaches too slowly.
    """
    count, length = len(clips), clips.shape[2]
    starts = torch.randint(1, length - frames + 2, (count, 1), generator=generator)
    following = starts + torch.arange(frames - 1)
    anywhere = torch.randint(length, (count, 1), generator=generator)
    far = (torch.arange(count) % 2 == 1).unsqueeze(1)
    chosen = torch.cat([torch.where(far, anywhere, starts - 1), following], dim=1)
    return torch.stack([clip[:, times] for clip, times in zip(clips, chosen, strict=True)])


def normalise(vae: PrincipalVideoCodec, latents: Tensor) -> Tensor:
    """Of latents (B, z, f, h, w), by the codec's mean and deviation for each channel."""
    mean, std = (
        latents.new_tensor(values).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (latents - mean) / std


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Tokens and mask (B, model_max_length)."""
    batch = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    return batch["input_ids"], batch["attention_mask"]


def write_base(
    base: Base, vae: PrincipalVideoCodec, tokenizer: PreTrainedTokenizerFast, config: BaseConfig
) -> None:
    """Writes base/, which diffusers' WanImageToVideoPipeline is laid out like."""
    folder = config.folder / "base"
    base.transformer.save_pretrained(folder / "transformer")
    base.text_encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    vae.save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=config.shift).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "WanImageToVideoPipeline",
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "vae": ["posegen.mini.codec", "PrincipalVideoCodec"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "image_encoder": [None, None],
        "image_processor": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
