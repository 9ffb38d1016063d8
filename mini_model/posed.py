"""Trains the mini model's whole network on PoseGen's own task: a reference picture and poses -> the latents of a clip.

The matrices and embeddings that an adapter reaches are trained in full, by Muon, and the adapter is their difference
to the base afterwards, at full rank: LoRA on a network this small costs more for each step and learns less by it, and
what Muon learns lies in all directions of a matrix, so at half the rank most of it is lost. At noise levels below 1 the
network sees its own guesses in the place of the truth, as it does in sampling, down to levels at which a guess is seen
clearly: only so do further steps correct what the first one got wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn

from mini_model.items import ARRAYS, Items, read_items
from mini_model.loop import Loop, LoopConfig, own, processes
from mini_model.precision import autocast
from posegen.longvideo.conditions import decode_latents, encode_frames, encode_text, pose_condition
from posegen.mini.codec import SPACE, TIME
from posegen.model.checkpoints import Adapter, read_adapter, write_adapter
from posegen.model.checkpoints.lora import is_embedding
from posegen.model.transformer import PoseGenTransformer3DModel
from training.model import frozen
from training.model.adapter import TARGETS, AdapterConfig, lora_config

TEXT_DROPPED = 0.1
PERSON_WEIGHT = 3.0
"""How many times as much an error counts where the person is."""
LEAST_SIGMA, MOST_SIGMA = 0.15, 0.9
"""Noise levels of the steps after the first one."""
THIRD_STEPS = 0.3
"""Of the steps that begin with a guess: the share in which two steps were taken before."""
VALIDATION_BATCHES, VALIDATION_ITEMS = 4, 16
VALIDATION_SIGMAS = (1.0, 0.75, 0.5, 0.25)


@dataclass(frozen=True)
class PosedConfig(LoopConfig):
    """Train the whole network on PoseGen's task."""

    steps: int = 480
    batch: int = 8
    learning_rate: float = 1e-3
    validate_every: int = 60
    adapter: Literal["base", "cond"] = "base"
    """Which adapter is made: cond has frames given at both ends."""
    head: int = 1
    tail: int = 4
    """Frames that cond is given at the beginning, 4k + 1, and at the end, 4k."""
    model: Path = Path("build/mini/base")
    """Folder of the base model."""
    start: Path | None = None
    """Folder of an adapter to begin with."""
    neighbours: Path | None = None
    """Folder of the base adapter, whose guesses cond is given, as it is in use; by default it is given the truth. Items
    are then of three segments that overlap, the middle one being cond's: each end is given by a guess of its own."""
    rollouts: float = 0.5
    """Share of the steps at noise levels below 1."""
    compile: bool = True
    """Compile the blocks, which needs a C++ compiler: nearly twice as fast."""


@dataclass(frozen=True)
class Examples:
    """latents (B, z, f, h, w), pose (B, 4 + z, f, h, w), reference (B, z, 1, h, w), text (B, tokens, text_dim),
    weight (B, 1, f, h, w) of the errors, whose mean is 1."""

    latents: Tensor
    pose: Tensor
    reference: Tensor
    text: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Pictures:
    """What examples are made of: frames (B, F, H, W, 4), poses (B, F, H, W, 3), references (B, H, W, 3), all uint8, and
    the texts."""

    frames: np.ndarray
    poses: np.ndarray
    references: np.ndarray
    texts: list[str]

    @classmethod
    def of(cls, items: Items, chosen: list[int], text_given: Sequence[bool]) -> Pictures:
        """Those of some items, the text left out where it isn't given."""
        frames, poses, references = (items.pictures(name, chosen) for name in ARRAYS)
        texts = [text if there else "" for text, there in zip(items.texts(chosen), text_given, strict=True)]
        return cls(frames, poses, references, texts)

    def span(self, start: int, stop: int) -> Pictures:
        """The same with some of the frames."""
        frames, poses = (np.ascontiguousarray(video[:, start:stop]) for video in (self.frames, self.poses))
        return replace(self, frames=frames, poses=poses)


@dataclass(frozen=True)
class Step:
    """What a training step is made of: pictures and its noise levels."""

    pictures: Pictures
    levels: list[float]


class Encoder:
    """Makes examples of pictures by the parts of the model's folder."""

    def __init__(self, config: PosedConfig) -> None:
        self.config = config
        folder, device = config.model, config.device
        self.tokenizer = frozen.load(str(folder), "tokenizer")
        self.text_encoder = frozen.load(str(folder), "text_encoder").to(device)
        # A copy, not the mapped file, which a stage may write anew.
        self.vae = deepcopy(frozen.load(str(folder), "vae")).to(device)
        self.neighbours = merged(folder, config.neighbours).to(device) if config.neighbours else None
        if self.neighbours is not None and config.compile:
            self.neighbours.compile_repeated_blocks()

    @torch.no_grad()
    def __call__(self, pictures: Pictures, generator: Generator) -> Examples:
        """generator: of the noise that neighbours are guessed from."""
        segment, head, tail = pictures, self.config.head, self.config.tail
        if self.config.adapter == "base":
            return self._examples(segment, np.zeros(segment.frames.shape[:2], bool))
        before, after = segment.frames[:, :head, ..., :3], segment.frames[:, -tail:, ..., :3]
        if self.neighbours is not None:
            first, segment, last = self._three(pictures)
            before, after = self._guessed(self.neighbours, (first, last), generator)
        known = np.zeros(segment.frames.shape[:2], bool)
        known[:, :head] = known[:, -tail:] = True
        video = np.concatenate([before[:, -head:], segment.poses[:, head:-tail], after[:, :tail]], axis=1)
        return self._examples(replace(segment, poses=video), known)

    def _three(self, pictures: Pictures) -> tuple[Pictures, Pictures, Pictures]:
        """A segment of cond and those beside it, which overlap with it by the given frames."""
        head, tail, frames = self.config.head, self.config.tail, pictures.frames.shape[1]
        length, rest = divmod(frames + head + tail, 3)
        if rest or length % TIME != 1:
            raise ValueError(
                f"Items of {frames} frames are not three segments that overlap by {head} and {tail}; draw some of 3 x "
                f"(4 k + 1) - {head + tail} frames for --neighbours, such as 22: pretrain.py items --frames 22"
            )
        starts = 0, length - head, 2 * length - head - tail
        first, own, last = (pictures.span(start, start + length) for start in starts)
        return first, own, last

    def _examples(self, pictures: Pictures, known: np.ndarray) -> Examples:
        """known: (B, F) bool, the frames that are given in the place of their poses."""
        return Examples(
            encode_frames(self.vae, np.ascontiguousarray(pictures.frames[..., :3])),
            pose_condition(self.vae, pictures.poses, torch.from_numpy(known)),
            encode_frames(self.vae, pictures.references[:, None]),
            encode_text(self.tokenizer, self.text_encoder, pictures.texts),
            error_weight(torch.from_numpy(pictures.frames[..., 3]).to(self.vae.device)),
        )

    def _guessed(
        self, network: Any, segments: Sequence[Pictures], generator: Generator
    ) -> Iterator[np.ndarray]:
        """The frames (B, F, H, W, 3) uint8 that a network makes of each in one step, from the same noise as in use."""
        noise = None
        for segment in segments:
            examples = self._examples(segment, np.zeros(segment.frames.shape[:2], bool))
            if noise is None:
                noise = torch.randn(examples.latents.shape, generator=generator, device=self.config.device)
            yield decode_latents(self.vae, predict(network, noise, 1.0, examples)).numpy()


def error_weight(opacity: Tensor) -> Tensor:
    """Weights (B, 1, f, h, w) by where the person is, from (B, F, H, W) uint8; their mean over an item is 1."""
    there = opacity.float() / 255
    there = torch.cat([there[:, :1].expand(-1, TIME - 1, -1, -1), there], dim=1)  # (B, 4 f, H, W)
    share = nn.functional.avg_pool3d(there[:, None], (TIME, SPACE, SPACE))
    weight = 1 + (PERSON_WEIGHT - 1) * (share > 0)
    return weight / weight.mean((1, 2, 3, 4), keepdim=True)


def predict(network: Any, noisy: Tensor, sigma: float, examples: Examples) -> Tensor:
    """The clean latents (B, z, f, h, w) that the network guesses at one noise level."""
    with autocast(noisy.device):
        return network(
            hidden_states=torch.cat([noisy, examples.pose], dim=1),
            timestep=torch.full((len(noisy),), 1000 * sigma, device=noisy.device),
            encoder_hidden_states=examples.text,
            reference_latents=examples.reference,
            return_dict=False,
        )[0].float()


def guesses(network: Any, examples: Examples, noise: Tensor, sigmas: Sequence[float]) -> Iterator[Tensor]:
    """The guess at each of the noise levels, the first of them 1, each seeing the one before it."""
    noisy = noise
    for sigma, lower in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        guess = predict(network, noisy, sigma, examples)
        yield guess
        noisy = euler_step(noisy, guess, sigma, lower)


def euler_step(noisy: Tensor, guess: Tensor, sigma: float, lower: float) -> Tensor:
    """From one noise level to a lower one, on the straight line to the clean latents that were guessed."""
    return guess + lower / sigma * (noisy - guess)


def sample_levels(rollouts: float, generator: Generator) -> list[float]:
    """Noise levels of a training step, the first of them 1; the last is trained, those before it are only taken."""
    further, third, *levels = torch.rand(4, generator=generator).tolist()
    count = 0 if further >= rollouts else 1 if third >= THIRD_STEPS else 2
    lower = sorted(
        (LEAST_SIGMA + (MOST_SIGMA - LEAST_SIGMA) * level for level in levels[:count]), reverse=True
    )
    return [1.0, *lower]


def weighted_error(guess: Tensor, examples: Examples) -> Tensor:
    return (examples.weight * (guess - examples.latents).square()).mean()


def train_posed(config: PosedConfig) -> None:
    """Trains and writes the adapter to adapters/."""
    network = merged(config.model, config.start).to(config.device)
    base = network_weights(config.model)
    for name, weight in network.named_parameters():
        weight.requires_grad_(reached(name))
    if config.compile:
        network.compile_repeated_blocks()
    training, validation = (read_items(config.folder, validation=held) for held in (False, True))
    encode = Encoder(config)

    def read(generator: Generator) -> Step:
        batch = config.batch * processes()
        chosen = own(torch.randint(len(training), (batch,), generator=generator)).tolist()
        text_given = own(torch.rand(batch, generator=generator) >= TEXT_DROPPED).tolist()
        return Step(Pictures.of(training, chosen, text_given), sample_levels(config.rollouts, generator))

    def loss(step: Step, generator: Generator) -> Tensor:
        examples, levels = encode(step.pictures, generator), step.levels
        noisy = torch.randn(examples.latents.shape, generator=generator, device=config.device)
        with torch.no_grad():
            for sigma, lower in pairwise(levels):
                noisy = euler_step(noisy, predict(network, noisy, sigma, examples), sigma, lower)
        return weighted_error(predict(network, noisy, levels[-1], examples), examples)

    def measure() -> dict[str, float]:
        errors = torch.zeros(len(VALIDATION_SIGMAS), device=config.device)
        for batch in torch.arange(VALIDATION_BATCHES * VALIDATION_ITEMS).split(VALIDATION_ITEMS):
            generator = torch.Generator(config.device).manual_seed(int(batch[0]))
            examples = encode(Pictures.of(validation, batch.tolist(), [True] * len(batch)), generator)
            noise = torch.randn(examples.latents.shape, generator=generator, device=config.device)
            made = guesses(network, examples, noise, VALIDATION_SIGMAS)
            errors += torch.stack([weighted_error(guess, examples) for guess in made]) / VALIDATION_BATCHES
        return {f"validation_{step}": error for step, error in enumerate(errors.tolist(), 1)}

    def publish() -> None:
        write_adapter(difference(network, base), config.folder / "adapters" / config.adapter)

    Loop(stage_name(config.adapter), network, read, loss, config).run(measure, publish)


def stage_name(adapter: str) -> str:
    """Of an adapter's training, and so of its checkpoint and log."""
    return f"{adapter}_adapter"


def network_weights(model: Path) -> dict[str, Tensor]:
    """The weights of the base with the embeddings that PoseGen adds."""
    transformer = PoseGenTransformer3DModel.from_pretrained(model, subfolder="transformer").float()
    return transformer.state_dict()


def merged(model: Path, adapter: Path | None) -> PoseGenTransformer3DModel:
    """The network of a folder with an adapter in its weights."""
    network = PoseGenTransformer3DModel.from_pretrained(model, subfolder="transformer").float()
    if adapter is not None:
        read = read_adapter(adapter)
        weights = network.state_dict()
        read.check({name: tensor.shape for name, tensor in weights.items()}, adapter)
        for module in read.modules:
            down, up = read.matrices(module)
            weights[f"{module}.weight"] += up.float() @ down.float()
        for name, tensor in read.embeddings.items():
            weights[name].copy_(tensor)
    return network


def reached(name: str) -> bool:
    """Whether an adapter can change this weight; hands stay as they are, as the drawn data has none."""
    return (is_embedding(name) and not name.startswith("hand_")) or name.removesuffix(".weight").endswith(
        TARGETS
    )


@torch.no_grad()
def difference(network: nn.Module, base: dict[str, Tensor]) -> Adapter:
    """The adapter that makes the network of the base, exactly: its rank is that of the largest matrix."""
    tensors, rank = {}, 1
    for name, weight in network.state_dict().items():
        weight = weight.cpu()
        if is_embedding(name):
            tensors[name] = weight.clone()
        elif reached(name):
            left, values, right = torch.linalg.svd(weight - base[name], full_matrices=False)
            module, rank = name.removesuffix(".weight"), max(rank, len(values))
            tensors[f"{module}.lora_A.weight"] = values.sqrt()[:, None] * right
            tensors[f"{module}.lora_B.weight"] = left * values.sqrt()
    config = lora_config(AdapterConfig(rank=rank, alpha=rank))
    return Adapter(config, tensors)
