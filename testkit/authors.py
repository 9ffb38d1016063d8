"""What the authors' whole inference made of a tiny model, held against our pipeline, one fact after the other.

The files hold a transformer's weights in the published names, simple stand-ins for the encoders, inputs of two base
segments and a bridge, and everything that the authors' code computed from them in float32. Our pipeline is run with the
same stand-ins, from pixels to pixels. Two things are ours on purpose and are allowed for: the authors cut frames and
cross-fades to whole grey levels where we round, so ours may be one level brighter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as functional
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors import safe_open
from torch import nn
from transformers import CLIPImageProcessorPil

from posegen.driving.alignment import fit_picture
from posegen.longvideo.conditions import clip_pixels
from posegen.longvideo.inputs import SegmentInputs
from posegen.longvideo.job import BackgroundSharing, VideoJob
from posegen.longvideo.sampling import Guidance, Step, schedule
from posegen.longvideo.segments import Stitcher, plan
from posegen.model.checkpoints import diffusers_name, transformer_config
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.pipeline import PoseGenPipeline
from posegen.sharing import Foreground, Position, SharedRange, SharedRecord

CONDITIONS, LATENTS = 1e-5, 1e-4
"""Largest relative errors: of what goes into the transformer, and of what comes out after all steps."""
CLIP = CLIPImageProcessorPil()


@dataclass(frozen=True)
class Fact:
    """One thing that the authors' code computed, and how far ours is from it, relative to its norm."""

    name: str
    error: float
    limit: float


@dataclass(frozen=True)
class Oracle:
    """One file: tensors by name, and what its metadata says."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]

    @classmethod
    def open(cls, path: Path) -> Oracle:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return cls(tensors, file.metadata() or {})

    def setting(self, name: str) -> Any:
        return json.loads(self.metadata[name])

    def text(self, name: str) -> str:
        """A setting that is words, whether they were written as JSON or as they are."""
        value = self.metadata[name]
        return json.loads(value) if value.startswith('"') else value

    def fact(self, name: str, ours: torch.Tensor | np.ndarray | Sequence[float], limit: float) -> Fact:
        expected = self.tensors[name].double()
        made = torch.as_tensor(ours).double().reshape(expected.shape)
        return Fact(name, float((made - expected).norm() / expected.norm().clamp_min(1e-30)), limit)

    def cut_frames(self, name: str, ours: torch.Tensor | np.ndarray) -> Fact:
        """The share of values that are neither the authors' grey level nor, rounded up, the next."""
        difference = torch.as_tensor(ours).int() - self.tensors[name].int()
        wrong = (difference != 0) & (difference != 1)
        return Fact(name, float(wrong.double().mean()), 1e-4)


def compare_pictures(path: Path) -> Iterator[Fact]:
    """What becomes of pictures before the networks see them, and of frames in an overlap."""
    oracle = Oracle.open(path)
    tensors = oracle.tensors
    picture = tensors["clip.picture"].numpy()
    yield oracle.fact("clip.network_input", clip_pixels(CLIP, picture[None], 224)[0], CONDITIONS)
    feature = _Clip(tensors["clip.matrix"])(clip_pixels(CLIP, picture[None], 224)).hidden_states[-2]
    yield oracle.fact("clip.feature", feature, CONDITIONS)
    names = sorted({name.split(".")[1] for name in tensors if name.startswith("transform.")})
    for name in names:
        sources, results = tensors[f"transform.{name}.source"], tensors[f"transform.{name}.result"]
        size = (results.shape[2], results.shape[1])
        ours = np.stack([fit_picture(source.numpy(), size) for source in sources])
        yield oracle.fact(f"transform.{name}.result", ours, 0)
    for name in sorted({name.split(".")[1] for name in tensors if name.startswith("merge.")}):
        earlier, later = (tensors[f"merge.{name}.{part}"].numpy() for part in ("earlier", "later"))
        overlap = len(earlier) + len(later) - len(tensors[f"merge.{name}.result"])
        yield oracle.cut_frames(f"merge.{name}.result", np.stack(_joined(earlier, later, overlap)))


def _joined(earlier: np.ndarray, later: np.ndarray, overlap: int) -> list[np.ndarray]:
    """Two runs of frames cross-faded over an overlap of any length, as `Stitcher` does it between segments."""
    segments = SimpleNamespace(
        segments=[SimpleNamespace(frames=len(earlier)), SimpleNamespace(frames=len(later))],
        frames=len(earlier) + len(later) - overlap,
        overlap=lambda index: 0 if index else overlap,
    )
    stitcher = Stitcher(segments)  # type: ignore[arg-type]
    return stitcher.add(0, earlier) + stitcher.add(1, later)


def compare_base(path: Path) -> Iterator[Fact]:
    """One base segment from pixels to pixels, and the schedule of 25 steps."""
    oracle = Oracle.open(path)
    steps, shift = oracle.setting("steps"), oracle.setting("sigma_shift")
    for count, name in ((steps, ""), (25, "schedule25.")):
        made = schedule(count, shift)
        yield oracle.fact(f"{name}sigmas", made.sigmas[:-1], CONDITIONS)
        yield oracle.fact(f"{name}timesteps", made.timesteps, CONDITIONS)
    rounded = schedule(25, shift, torch.bfloat16).timesteps
    yield oracle.fact("schedule25.timesteps_bf16", rounded, 0)
    yield oracle.fact("base_bf16.timesteps", schedule(steps, shift, torch.bfloat16).timesteps, 0)
    run = Run(oracle, oracle, path)
    base = run.segment(0)
    seen = base.seen
    yield oracle.fact("noise", seen["hidden_states"][:, :16], 0)
    yield oracle.fact("base.reference_latents", seen["reference_latents"], CONDITIONS)
    if (clip := seen["encoder_hidden_states_image"]) is not None:
        pixels = clip_pixels(CLIP, oracle.tensors["image"].numpy()[None], 224)
        yield oracle.fact("clip.network_input", pixels, CONDITIONS)
        yield oracle.fact("clip.feature_tokens_0_1_2_128_256", clip[0, [0, 1, 2, 128, 256]], CONDITIONS)
    yield from run.facts(oracle, "base", base)
    first = Run(oracle, oracle, path, steps=oracle.setting("cfg1_steps"), guidance=1.0)
    yield oracle.fact("cfg1.sigmas", first.schedule.sigmas[:-1], CONDITIONS)
    yield oracle.fact("cfg1.latents", first.segment(0).latents, LATENTS)


def compare_bridge(path: Path) -> Iterator[Fact]:
    """A base segment that shares the first one's background, and the bridge between the two."""
    oracle = Oracle.open(path)
    first = Oracle.open(path.with_name(path.name.replace("_bridge", "")))
    run = Run(first, oracle, path)
    run.segment(0)
    for key in sorted(name for name in oracle.tensors if name.startswith("anchor.")):
        _, branch, step, block, letter = key.split(".")
        position = Position(
            int(step.removeprefix("step")),
            int(block.removeprefix("block")),
            "guided" if branch == "positive" else "unguided",
        )
        tensor = run.record.get(position).tensors["kv".index(letter)]
        yield oracle.fact(key, tensor.flatten(2), LATENTS)
    second = run.segment(2)
    yield oracle.fact("second.masks", run.masks(), 0)
    yield from run.facts(oracle, "second", second)
    alone = Run(first, oracle, path, shared=False).segment(2)
    yield oracle.fact("second_unshared.final_latents", alone.latents[-1], LATENTS)
    neighbours = {0: first.tensors["base.frames"].numpy(), 2: oracle.tensors["second.frames"].numpy()}
    yield from run.facts(oracle, "bridge", run.segment(1, neighbours))


@dataclass
class Made:
    """A segment of ours: what its first pass was given, velocity and latents of each step, pixels and frames."""

    seen: dict[str, Any]
    velocity: torch.Tensor
    latents: torch.Tensor
    pixels: torch.Tensor
    frames: np.ndarray


class Run:
    """Our pipeline on the authors' inputs: base segments 0 (the anchor) and 2, and the bridge 1 between them."""

    def __init__(
        self,
        inputs: Oracle,
        others: Oracle,
        path: Path,
        steps: int | None = None,
        guidance: float | None = None,
        shared: bool = True,
    ) -> None:
        self.record = SharedRecord()
        self.pipeline = _pipeline(inputs, path)
        steps = steps or inputs.setting("steps")
        self.schedule = schedule(steps, inputs.setting("sigma_shift"))
        tensors = inputs.tensors | others.tensors
        given = inputs.setting("head"), inputs.setting("tail")
        self.shared = SharedRange(
            _range(inputs.setting("shared_steps")), _range(inputs.setting("shared_blocks"))
        )
        sharing = BackgroundSharing(self.shared, "subject", subject_blocks=inputs.setting("mask_blocks"))
        prompt, negative = inputs.text("prompt"), inputs.text("negative_prompt")
        frames = inputs.setting("num_frames")
        length = 3 * frames - sum(given)
        self.job = _Job(
            picture=tensors["image"].numpy(),
            keypoints=np.zeros((length, 133, 3), np.float32),
            plan=plan(length, frames, *given, planner="published"),
            prompt=prompt,
            negative_prompt=negative,
            seed=inputs.setting("seed"),
            num_inference_steps=steps,
            guidance=Guidance.between(prompt, negative, guidance or inputs.setting("cfg_scale")),
            sharing=sharing if shared else None,
            hands=np.zeros((length, 0, 0, 3), np.uint8),  # there are hands; `hand_video` has them
        )
        self.job.videos.update(_videos(tensors, *given))

    @torch.no_grad()
    def segment(self, index: int, neighbours: dict[int, np.ndarray] | None = None) -> Made:
        """Makes a segment; the anchor fills the record."""
        told: list[Step] = []
        encoded = self.pipeline.encode(self.job)
        self.pipeline.transformer.seen.clear()
        frames = self.pipeline.generate_segment(
            self.job, encoded, index, neighbours or {}, self.record, lambda _, step: told.append(step)
        )
        seen = dict(self.pipeline.transformer.seen)
        latents = torch.cat([step.latents for step in told])
        before = torch.cat([seen["hidden_states"][:, :16], latents[:-1]])
        sigmas = torch.tensor([step.sigma for step in told]).view(-1, 1, 1, 1, 1)
        velocity = (before - torch.cat([step.preview for step in told])) / sigmas
        return Made(seen, velocity, latents, self.pipeline.vae.decoded, frames)

    def facts(self, oracle: Oracle, name: str, made: Made) -> Iterator[Fact]:
        """All that a file says of a segment."""
        yield oracle.fact(f"{name}.cond_latents", made.seen["hidden_states"][:, 16:], CONDITIONS)
        if f"{name}.hand_latents" in oracle.tensors:
            yield oracle.fact(f"{name}.hand_latents", made.seen["hand_latents"], CONDITIONS)
        yield oracle.fact(f"{name}.velocity", made.velocity, LATENTS)
        yield oracle.fact(f"{name}.latents", made.latents, LATENTS)
        yield oracle.fact(f"{name}.frames_float_first_last", made.pixels[0][:, [0, -1]], LATENTS)
        yield oracle.cut_frames(f"{name}.frames", made.frames)

    def masks(self) -> torch.Tensor:
        """(steps, guided/unguided, blocks, anchor/here, tokens) of the segment that was made last."""
        here = self.pipeline.foreground.masks
        rows: list[torch.Tensor] = []
        for step in self.shared.steps:
            for branch in ("guided", "unguided"):
                for block in self.shared.blocks:
                    anchor = self.record.get(Position(step, block, branch)).foreground  # type: ignore[arg-type]
                    rows.append(torch.cat([anchor, here[len(rows)]]))
        count = len(self.shared.steps), 2, len(self.shared.blocks)
        return torch.stack(rows).unflatten(0, count)


class _Job(VideoJob):
    """A job whose pose and hand videos are given as pixels."""

    @property
    def videos(self) -> dict[tuple[str, int], np.ndarray]:
        return self.__dict__.setdefault("_videos", {})

    def pose_video(self, index: int, oversampling: int) -> np.ndarray:
        return self.videos["pose", index]

    def hand_video(self, index: int) -> np.ndarray:
        return self.videos["hand", index]


def _videos(
    tensors: dict[str, torch.Tensor], head: int, tail: int
) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
    """The driving videos of all segments; a bridge's as they were before frames were given in their places."""
    for kind in ("pose", "hand"):
        for index, segment in ((0, "base"), (2, "second")):
            if f"{segment}.{kind}" in tensors:
                yield (kind, index), tensors[f"{segment}.{kind}"].numpy()
        if f"bridge.{kind}_pixels" in tensors:
            video = tensors[f"bridge.{kind}_pixels"].numpy().copy()
            hidden = tensors[f"bridge.{kind}_hidden"].numpy()
            video[:head], video[-tail:] = hidden[:head], hidden[head:]
            yield (kind, 1), video


def _range(values: list[int]) -> range:
    return range(values[0], values[-1] + 1)


def _pipeline(oracle: Oracle, path: Path) -> _Pipeline:
    weights = Oracle.open(path.with_name("end_to_end_weights.safetensors")).tensors
    transformer = _Transformer(**transformer_config(oracle.setting("config")))
    named = {diffusers_name(name.removeprefix("weights.")): value.float() for name, value in weights.items()}
    transformer.load_state_dict(named)
    tensors, clip = oracle.tensors, oracle.setting("config")["has_image_input"]
    return _Pipeline(
        transformer.eval(),
        _Vae(oracle),
        _TextEncoder(tensors["text.positive"], tensors["text.negative"]),
        _Tokenizer(oracle),
        FlowMatchEulerDiscreteScheduler(shift=oracle.setting("sigma_shift")),
        _Clip(tensors["clip.matrix"]) if clip else None,
        CLIP if clip else None,
    )


class _Transformer(PoseGenTransformer3DModel):
    """Ours, which keeps what its first pass was given."""

    seen: dict[str, Any] = {}  # noqa: RUF012 - one at a time

    def forward(self, **inputs: Any) -> Any:  # type: ignore[override]
        for name, value in inputs.items():
            self.seen.setdefault(name, value)
        return super().forward(**inputs)


class _Pipeline(PoseGenPipeline):
    """Ours, which keeps the last segment's foreground."""

    @property
    def foreground(self) -> _Watched:
        return _Inputs.kept[-1]

    @property
    def _inputs(self) -> SegmentInputs:
        return _Inputs(**vars(super()._inputs))


class _Inputs(SegmentInputs):
    """Ours, whose foregrounds are kept."""

    kept: ClassVar[list[_Watched]] = []

    def _foreground(self, job: VideoJob, segment: Any) -> Foreground:
        self.kept.append(_Watched(super()._foreground(job, segment)))
        return self.kept[-1]


class _Watched:
    """A foreground that keeps every mask it was asked for."""

    def __init__(self, foreground: Foreground) -> None:
        self.watches, self.look, self._mask = foreground.watches, foreground.look, foreground.mask
        self.masks: list[torch.Tensor] = []

    def mask(self, blocks: int) -> torch.Tensor:
        self.masks.append(self._mask(blocks))
        return self.masks[-1]


class _Vae(nn.Module):
    """A linear stand-in for Wan's VAE."""

    dtype = torch.float32

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.encode_matrix = nn.Buffer(oracle.tensors["vae.encode_matrix"])
        self.decode_matrix = nn.Buffer(oracle.tensors["vae.decode_matrix"])
        self.weights, self.gains = oracle.setting("encode_weights"), oracle.setting("decode_gains")
        self.config = SimpleNamespace(
            z_dim=16,
            latents_mean=[0.0] * 16,
            latents_std=[1.0] * 16,
            scale_factor_spatial=8,
            scale_factor_temporal=4,
        )
        self.decoded = torch.empty(0)

    def encode(self, video: torch.Tensor) -> SimpleNamespace:
        """(1, 3, F, H, W) -> (1, 16, f, h, w)."""
        frames = functional.avg_pool2d(video[0].movedim(1, 0), 4)  # (F, 3, 2h, 2w)
        channels = functional.pixel_unshuffle(frames, 2)  # (F, 12, h, w)
        later = channels[1:].unflatten(0, (-1, 4))
        later = (later * torch.tensor(self.weights).view(1, 4, 1, 1, 1)).sum(1)
        latents = torch.einsum("zc,fchw->zfhw", self.encode_matrix, torch.cat([channels[:1], later]))
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents[None]))

    def decode(self, latents: torch.Tensor) -> SimpleNamespace:
        """(1, 16, f, h, w) -> (1, 3, F, H, W)."""
        channels = torch.einsum("cz,zfhw->fchw", self.decode_matrix, latents[0])
        later = channels[1:, None] * torch.tensor(self.gains).view(1, 4, 1, 1, 1)
        frames = functional.pixel_shuffle(torch.cat([channels[:1], later.flatten(0, 1)]), 2)
        frames = frames.repeat_interleave(4, -1).repeat_interleave(4, -2)
        self.decoded = frames.movedim(0, 1)[None].clamp(-1, 1)
        return SimpleNamespace(sample=self.decoded)


class _Clip(nn.Module):
    """A linear stand-in for CLIP's network."""

    dtype, config = torch.float32, SimpleNamespace(image_size=224)

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.matrix = nn.Buffer(matrix)

    def forward(self, pixels: torch.Tensor, output_hidden_states: bool = True) -> SimpleNamespace:
        """(1, 3, 224, 224) -> the layer before the last, (1, 257, 1280)."""
        tokens = functional.pixel_unshuffle(functional.avg_pool2d(pixels, 7), 2).flatten(2).mT  # (1, 256, 12)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1) @ self.matrix
        return SimpleNamespace(hidden_states=[tokens, torch.empty(0)])


class _Tokenizer:
    """Tells the two texts apart; words are tokens, and as many are real as the file says."""

    model_max_length = 512

    def __init__(self, oracle: Oracle) -> None:
        self.texts = [oracle.text("prompt"), oracle.text("negative_prompt")]
        self.real = oracle.setting("text_tokens")

    def __call__(self, texts: str | list[str], **_: Any) -> Any:
        if isinstance(texts, str):
            ends = np.cumsum([len(word) + 1 for word in texts.split()]).tolist()
            return {"offset_mapping": list(zip([0, *ends], [end - 1 for end in ends], strict=False))}
        numbers = [self.texts.index(text) for text in texts]
        mask = torch.stack([(torch.arange(512) < self.real[number]).long() for number in numbers])
        return SimpleNamespace(input_ids=torch.tensor(numbers), attention_mask=mask)


class _TextEncoder(nn.Module):
    def __init__(self, *texts: torch.Tensor) -> None:
        super().__init__()
        self.texts = nn.Buffer(torch.cat(texts))

    def forward(self, numbers: torch.Tensor, mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.texts[numbers])
