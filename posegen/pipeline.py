"""PoseGenPipeline: a picture and driving poses -> a video of any length, in one process.

It is a diffusers pipeline whose folder also holds the two adapters, so the mini model and the 14B one differ by the
folder only. What is the same for all segments is encoded once. One function makes one segment, here and in a server's
replica. Segments are made in an order in which frames become final all along, each is let go of as soon as no other
needs it, and neighbours see its very frames: memory does not grow with the video's length.
"""

from __future__ import annotations

import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput
from PIL.Image import Image

from posegen.driving.alignment import Fit, fit_picture
from posegen.driving.driving_video import Align, Driving, place_on_picture
from posegen.driving.framing import framing_of
from posegen.driving.poses import PoseEstimator
from posegen.longvideo.conditions import Conditions, decode_latents
from posegen.longvideo.decoding import Decoder, Made, one_behind
from posegen.longvideo.inputs import SegmentInputs
from posegen.longvideo.job import (
    BackgroundSharing,
    EncodedJob,
    ForegroundSource,
    Frames,
    SegmentStore,
    VideoJob,
    model_id,
)
from posegen.longvideo.sampling import (
    Guidance,
    Step,
    denoise,
    flow_shift,
    initial_noise,
    schedule,
    shared_positions,
)
from posegen.longvideo.segments import Segment, Stitcher, plan
from posegen.model.checkpoints import load_adapter, model_weights, save_adapter
from posegen.model.folder import (
    FILE_ARGUMENTS,
    model_folder,
    require_one_image_transformer,
    transformer_arguments,
)
from posegen.model.merging import AdapterMerger, segment_adapters
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.sharing import (
    AnchorReader,
    Form,
    ReadAhead,
    SegmentSharing,
    SharedRange,
    SharedRecord,
    SharedStore,
    copies_to,
)

HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
ADAPTERS = ("base", "cond")  # for base segments and for bridges

Callback = Callable[[int, Step], object]
"""Told the segment's index and the step, after each step; may raise `posegen.longvideo.sampling.Cancelled`."""

CallbackOnStepEnd = Callable[["PoseGenPipeline", int, float, dict[str, Any]], object]
"""diffusers' own form: the pipeline, the step's index and timestep, and tensors by name."""


class PoseGenPipeline(DiffusionPipeline):
    """Makes long videos of the person in a picture.

    Settings, kept in the folder's model_index.json: the longest segment and a bridge's given frames, the video's rate
    in frames/s and (width, height), the steps, guidance and negative prompt used unless others are asked for, how many
    times as large poses are drawn before they are shrunk to the video's size, and what timesteps are rounded to.
    """

    transformer: Any
    vae: Any
    group: Any = None
    """A `posegen.distributed.group.Group`: the workers that denoise together with this process."""
    loras: Mapping[str, str] = MappingProxyType({})
    """LoRAs that a job may ask for by name, and the transformer's adapters that they are; no other job has them."""
    decodes_beside = False
    """Whether `generate` decodes a segment while the next one is denoised, which takes memory for both at once."""
    model_cpu_offload_seq = "text_encoder->image_encoder->transformer->vae"
    _optional_components: list[str] = ["image_encoder", "image_processor"]  # noqa: RUF012 - diffusers' own

    def __init__(
        self,
        transformer: PoseGenTransformer3DModel,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        image_encoder: Any = None,
        image_processor: Any = None,
        segment_frames: int = 81,
        head: int = 21,
        tail: int = 20,
        rate: float = 30.0,
        size: tuple[int, int] | list[int] = (720, 1280),
        num_inference_steps: int = 25,
        guidance_scale: float = 5.0,
        negative_prompt: str = "",
        pose_oversampling: int = 1,
        timestep_dtype: str = "float32",
    ) -> None:
        super().__init__()
        self._merger = AdapterMerger()
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            image_encoder=image_encoder,
            image_processor=image_processor,
        )
        self.register_to_config(
            segment_frames=segment_frames,
            head=head,
            tail=tail,
            rate=rate,
            size=tuple(size),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            pose_oversampling=pose_oversampling,
            timestep_dtype=timestep_dtype,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> PoseGenPipeline:
        """The pipeline of a folder (or of a repository of the Hugging Face hub), with its adapters.

        A plain Wan 2.1 image-to-video folder will do too; its transformer lacks what the adapters bring. Further
        arguments are diffusers': those of the hub (`HUB_ARGUMENTS`), those that say how files become tensors
        (`FILE_ARGUMENTS`, among them a `PipelineQuantizationConfig`), components and settings by name. Raises
        ValueError for others, rather than ignore them.
        """
        parameters = inspect.signature(cls.__init__).parameters
        if unknown := set(kwargs) - {*HUB_ARGUMENTS, *FILE_ARGUMENTS, *parameters}:
            raise ValueError(
                f"PoseGenPipeline.from_pretrained does not take {', '.join(sorted(unknown))}: load that part by itself "
                "and give it by its name, such as transformer=."
            )
        hub = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        folder = model_folder(pretrained_model_name_or_path, **hub)
        require_one_image_transformer(cls.load_config(folder), folder)
        for value in cls.load_config(folder).values():
            if isinstance(value, list) and str(value[0]).startswith("posegen."):
                importlib.import_module(value[0])  # diffusers takes no class of a module that is not imported
        if "torch_dtype" in kwargs:
            kwargs["dtype"] = kwargs.pop("torch_dtype")
        # The transformer's class loads its own folders and plain Wan's; diffusers would take what the folder names.
        transformer = kwargs.pop("transformer", None) or PoseGenTransformer3DModel.from_pretrained(
            folder, subfolder="transformer", **transformer_arguments(kwargs)
        )
        pipeline = super().from_pretrained(folder, transformer=None, **kwargs)
        pipeline.register_modules(transformer=transformer)
        for name in ADAPTERS:
            if (folder / "adapters" / name).is_dir():
                load_adapter(pipeline.transformer, folder / "adapters" / name, name)
        return pipeline

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the pipeline to a folder, its adapters apart from the transformer they are on."""
        transformer = self.transformer
        with torch.device("meta"):
            self.transformer = type(transformer).from_config(transformer.config)
        self.transformer.load_state_dict(model_weights(transformer), assign=True)
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.transformer = transformer
        for name in getattr(transformer, "peft_config", {}):
            save_adapter(transformer, name, Path(save_directory) / "adapters" / name)

    def job(
        self,
        image: Image | np.ndarray,
        driving: np.ndarray | Driving | str | Path,
        prompt: str = "",
        negative_prompt: str | None = None,
        *,
        seed: int = 42,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        size: tuple[int, int] | None = None,
        fit: Fit = "crop",
        align: Align = "reference",
        estimator: PoseEstimator | None = None,
        planner: Literal["fitted", "published"] = "fitted",
        anchor: int = 0,
        framing: str | SharedRange = "auto",
        foreground: ForegroundSource = "pose",
        keep_person: bool = True,
        form: Form = "key_value",
        hands: Frames | None = None,
        mask: Frames | None = None,
        loras: Mapping[str, float] = MappingProxyType({}),
    ) -> VideoJob:
        """All that a video depends on, checked; raises ValueError in a sentence.

        Args:
            image: the person, a PIL image or (H, W, 3) uint8 RGB, fitted to `size`.
            driving: poses (T, 133, 3) at the pipeline's rate in pixels of `size`, or a video (or its `Driving`), whose
                person is then placed: `align`, `fit` and `estimator` are those of `driving_video.place_on_picture`.
            negative_prompt, num_inference_steps, guidance_scale, size: None for the pipeline's own.
            guidance_interval: lowest and highest noise level, 0..1, at which guidance is on.
            planner, anchor: see `posegen.longvideo.segments.plan`.
            framing: how much of the background is shared: a key of `posegen.sharing.FRAMINGS`, "auto", "off", or a
                range of steps and blocks, see `SharedRange.of`.
            foreground: where the person is told from: the pose, the subject word of the prompt, `mask`, or nowhere.
            keep_person: whether backgrounds may attend to the anchor's person.
            form: what is kept of the anchor: "input" takes half of the memory, and a little time.
            hands: the hands' surface normals on black, T frames of `size`. mask: T frames, white where the person is.
            loras: names of `self.loras`, and how strong each is, 1 as its file says.
        """
        config = self.config
        size = tuple(size or config.size)
        self.check_size(size)
        if unknown := sorted(loras.keys() - self.loras.keys()):
            raise ValueError(
                f"There is no LoRA {unknown[0]!r}; this pipeline was loaded with {[*self.loras]}."
            )
        image = np.asarray(image.convert("RGB") if isinstance(image, Image) else image)
        if not isinstance(driving, np.ndarray):
            driving = place_on_picture(driving, image, size, config.rate, estimator, align, fit)
        steps = config.num_inference_steps if num_inference_steps is None else num_inference_steps
        sharing = None
        if framing != "off":
            name = framing_of(driving, size) if framing == "auto" else framing
            shared = SharedRange.of(name, steps, self.transformer.config.num_layers)
            sharing = BackgroundSharing(shared, foreground, keep_person, form)
        scale = config.guidance_scale if guidance_scale is None else guidance_scale
        negative_prompt = config.negative_prompt if negative_prompt is None else negative_prompt
        return VideoJob(
            picture=fit_picture(image, size, fit),
            keypoints=np.asarray(driving, np.float32),
            plan=plan(len(driving), config.segment_frames, config.head, config.tail, anchor, planner),
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            num_inference_steps=steps,
            guidance=Guidance.between(prompt, negative_prompt, scale, guidance_interval),
            sharing=sharing,
            hands=hands,
            mask=mask,
            loras=tuple(sorted(loras.items())),
        )

    def check_size(self, size: tuple[int, int]) -> None:
        """Raises ValueError for a (width, height) that does not divide into patches, or these among the processes."""
        unit = self.vae.config.scale_factor_spatial * self.transformer.config.patch_size[-1]
        if min(size) < unit or size[0] % unit or size[1] % unit:
            raise ValueError(
                f"A video of {size[0]}x{size[1]} cannot be made: choose multiples of {unit} pixels."
            )
        if self.group:
            self.group.check_tokens(size[0] // unit * (size[1] // unit))

    def model_id(self) -> str:
        """Tells this pipeline from those that make other frames of the same job."""
        return model_id(self.components, dict(self.config))

    @torch.no_grad()
    def encode(self, job: VideoJob) -> EncodedJob:
        """What all segments of a job see alike."""
        return self._inputs.encode(job)

    @property
    def _inputs(self) -> SegmentInputs:
        """What makes a segment's inputs of these components."""
        names = ("vae", "tokenizer", "text_encoder", "image_encoder", "image_processor")
        parts = {name: getattr(self, name) for name in names}
        return SegmentInputs(self.transformer.config, self.config.pose_oversampling, **parts)

    @torch.no_grad()
    def generate_segment(
        self,
        job: VideoJob,
        encoded: EncodedJob,
        index: int,
        neighbours: Mapping[int, np.ndarray],
        record: SharedStore | None = None,
        callback: Callback | None = None,
    ) -> np.ndarray:
        """One segment's frames (F, H, W, 3) uint8.

        neighbours: for a bridge, the frames of the two segments that it depends on, by index. record: what the anchor
        keeps for the other base segments and those read, needed by base segments where the job shares.
        """
        latents = self._latents(job, encoded, index, neighbours, record, callback)
        return decode_latents(self.vae, latents)[0].numpy()

    @torch.no_grad()
    def _latents(
        self,
        job: VideoJob,
        encoded: EncodedJob,
        index: int,
        neighbours: Mapping[int, np.ndarray],
        record: SharedStore | None,
        callback: Callback | None,
    ) -> torch.Tensor:
        """One segment's latents (1, z, f, h, w); arguments as of `generate_segment`."""
        segment = job.plan.segments[index]
        conditions = self._inputs.conditions(job, encoded, segment, neighbours)
        return self._denoise(job, segment, conditions, self._inputs.sharing(job, segment, record), callback)

    @torch.no_grad()
    def record_anchor(
        self, job: VideoJob, encoded: EncodedJob, record: SharedStore, callback: Callback | None = None
    ) -> None:
        """Only the anchor's shared steps, each told, for when its frames are there and its record is not."""
        segment = job.plan.segments[job.plan.anchor]
        if sharing := self._inputs.sharing(job, segment, record):
            conditions = self._inputs.conditions(job, encoded, segment, {})
            self._denoise(job, segment, conditions, sharing, callback, sharing.shared.steps.stop)

    def generate(
        self,
        job: VideoJob,
        store: str | Path | None = None,
        callback: Callback | None = None,
        record: SharedRecord | None = None,
    ) -> Iterator[np.ndarray]:
        """The video's frames as they become final, in order, (n, H, W, 3) uint8 at a time.

        store: a folder that keeps finished segments; those already there are taken from it, so an interrupted video
        goes on where it stopped. callback: told each step, also when only recording. record: an empty one to use.
        """
        stored = SegmentStore(store, job.content_id(self.model_id())) if store is not None else None
        stitcher = Stitcher(job.plan)
        try:
            made = self._segments(job, stored, callback, record or SharedRecord())
            for index, frames in one_behind(made, self.decodes_beside):
                if finished := stitcher.add(index, frames):
                    yield np.stack(finished)
        finally:
            self.maybe_free_model_hooks()

    def _segments(
        self, job: VideoJob, stored: SegmentStore | None, callback: Callback | None, record: SharedRecord
    ) -> Iterator[Made]:
        """Each segment's index and frames in the plan's order, taken from the store or made."""
        encoded = self.encode(job)
        bridges = [segment.index for segment in job.plan.segments if segment.kind == "bridge"]
        waiting = Counter(base for bridge in bridges for base in job.plan.dependencies(bridge))
        bases: dict[int, Future[np.ndarray]] = {}  # those that a bridge still waits for
        recorded = False
        with Decoder(self.vae, self.decodes_beside) as decoder:
            for index in job.plan.order():
                needed = job.plan.dependencies(index) if index in bridges else ()
                frames: Future[np.ndarray] = Future()
                if (kept := stored.load(index) if stored else None) is not None:
                    frames.set_result(kept)
                else:
                    if job.plan.segments[index].kind == "base":
                        # The anchor came from the store, and what it keeps is not there.
                        if index != job.plan.anchor and not recorded:
                            self.record_anchor(job, encoded, record, callback)
                        recorded = True
                    neighbours = {base: bases[base].result() for base in needed}
                    latents = self._latents(job, encoded, index, neighbours, record, callback)
                    frames = decoder.decode(latents, partial(stored.save, index) if stored else None)
                yield index, frames
                if index in waiting:
                    bases[index] = frames
                for base in needed:
                    waiting[base] -= 1
                    if not waiting[base]:
                        del bases[base]

    def __call__(
        self,
        image: Image | np.ndarray,
        driving: np.ndarray | Driving | str | Path,
        prompt: str = "",
        *,
        generator: torch.Generator | None = None,
        callback_on_step_end: CallbackOnStepEnd | None = None,
        store: str | Path | None = None,
        **options: Any,
    ) -> WanPipelineOutput:
        """The whole video at once, `.frames` (T, H, W, 3) uint8; see `job` for options, `generate` for less memory.

        generator: gives the seed, in place of `seed`, as all segments begin from one noise. callback_on_step_end: as
        in other pipelines of diffusers, with `latents`, the clean latents' `preview` and the `segment` to read; what it
        returns is not used.
        """
        if generator is not None:
            options["seed"] = generator.initial_seed()
        job = self.job(image, driving, prompt, **options)

        def callback(segment: int, step: Step) -> None:
            if callback_on_step_end is not None:
                told = {"latents": step.latents, "preview": step.preview, "segment": segment}
                callback_on_step_end(self, step.index, 1000 * step.sigma, told)

        return WanPipelineOutput(frames=np.concatenate(list(self.generate(job, store, callback))))

    def _denoise(
        self,
        job: VideoJob,
        segment: Segment,
        conditions: Conditions,
        sharing: SegmentSharing | None,
        callback: Callback | None = None,
        steps: int | None = None,
    ) -> torch.Tensor:
        """The segment's latents after all steps of the job, or after the first few."""
        noise = initial_noise(job.seed, (1, self.vae.config.z_dim, *conditions.pose.shape[2:]))
        tell = None if callback is None else lambda step: callback(segment.index, step)
        strengths = {self.loras[name]: strength for name, strength in job.loras}
        run = partial(self.group.denoise, strengths=strengths) if self.group else denoise
        dtype = getattr(torch, self.config.timestep_dtype)
        levels = schedule(job.num_inference_steps, flow_shift(self.scheduler.config), dtype)
        levels = levels.first(steps or job.num_inference_steps)
        device = conditions.pose.device
        with ExitStack() as stack:
            own = ADAPTERS[segment.kind == "bridge"]
            names = segment_adapters(self.transformer, own, ADAPTERS, self.loras.values(), strengths)
            # A group's processes map one copy of the weights, so none writes to them.
            merged_on = None if self.group else device
            stack.enter_context(self._merger.active(self.transformer, names, strengths, merged_on))
            if isinstance(sharing, AnchorReader):
                order = shared_positions(sharing.shared, levels, job.guidance)
                store = stack.enter_context(ReadAhead(sharing.store, order, copies_to(device)))
                sharing = replace(sharing, store=store)
            return run(self.transformer, conditions, noise, levels, job.guidance, sharing, tell)
