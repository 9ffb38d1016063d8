"""posegen generate: a picture and a driving video -> a video.

What is not given is the model folder's own setting. The options' docstrings are the help.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro

from posegen.commands.output import check_output
from posegen.commands.progress import PreviewFile, SegmentProgress, say

if TYPE_CHECKING:
    from posegen.driving.poses import PoseEstimator
    from posegen.estimate import Estimate
    from posegen.loading import Placement
    from posegen.longvideo.job import VideoJob
    from posegen.longvideo.sampling import Step
    from posegen.pipeline import Callback, PoseGenPipeline
    from posegen.source import ModelSource

FAST_STEPS = 4
BUNDLED = Path(__file__).parents[1] / "mini" / "model"
PROMPT_HELP = (
    'such as "a woman dances in a park"; --foreground subject finds woman, man, girl, boy and the like'
)


@dataclass(frozen=True)
class Generate:
    """Make a video of the person in a picture, who moves as the person in a driving video does, of any length."""

    image: Path
    """Picture of the person."""
    video: Path
    """Driving video, of any size and rate, or motion capture in a .bvh file."""
    output: Path = Path("out.mp4")
    """The video to write."""
    model: str = str(BUNDLED)
    """Folder of a model, or a repository of the Hugging Face hub; by default the bundled mini model, which knows drawn
    people only, not photographs."""
    transformer: Path | None = None
    """Single file of a Wan 2.1 image-to-video transformer in place of the folder's, whose adapters go on top: .gguf, or
    .safetensors in bf16, fp16, scaled fp8 or int8."""
    lora: tuple[str, ...] = ()
    """LoRA files to go on top, each FILE or FILE:STRENGTH."""
    fast: Path | None = None
    """The 4-step distillation LoRA of Wan 2.1 image-to-video: 4 steps without guidance, unless others are asked for."""
    prompt: str = ""
    """What is to be seen, in a sentence."""
    captioner: str | None = None
    """Folder or hub name of a Qwen2.5-VL model, which describes the picture where there is no prompt."""
    negative_prompt: str | None = None
    """What is not to be seen; by default the model's."""
    seed: int = 42
    """The same seed gives the same video."""
    num_inference_steps: Annotated[int | None, tyro.conf.arg(name="steps")] = None
    """Denoising steps; by default the model's."""
    guidance_scale: float | None = None
    """How strongly the prompt is followed, 1 for half of the work; by default the model's."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest noise level, 0..1, at which it is; elsewhere a step is half of the work."""
    size: tuple[int, int] | None = None
    """Width and height of the video in pixels; by default the model's."""
    seconds: float | None = None
    """How long a .bvh file's motion goes on, again and again where it is shorter; by default it is seen once."""
    joints: Path | None = None
    """JSON file that says which joints of a .bvh file are which, for skeletons of unknown names: {"LArm1":
    "left_shoulder", ...}."""
    rate: float | None = None
    """Frames/s that the video is written at; by default the model's, at which the movement is sampled in any case. For
    another one frames are shown again or left out: the movement keeps its speed, and the sound stays in step."""
    planner: Literal["fitted", "published"] = "fitted"
    """Segments as short as the video's length allows, or always the model's longest."""
    align: Literal["reference", "proportions", "none"] = "reference"
    """Lay the driving person onto the picture's, in scale and position, and with the limb lengths of the picture's, or
    leave them where they are."""
    fit: Literal["crop", "pad"] = "crop"
    """How the picture is put into the size."""
    framing: str = "auto"
    """How much of the background the segments share, by what is seen of the person: close-up, half-body, full-body,
    distant, or off; auto looks at the poses. Or at which steps and in which blocks: 0:2,34:40 are steps 0 and 1 in
    blocks 34 to 39."""
    foreground: Literal["pose", "subject", "mask", "none"] = "pose"
    """Where the person is told from: the pose, the prompt's word for them, --mask, or nowhere."""
    keep_person: bool = True
    """Whether shared backgrounds may also attend to the first segment's person, as in the publication."""
    mask: Path | None = None
    """Video of the person in white, in step with the driving video."""
    hands: Path | None = None
    """Video of the hands' surface normals on black, in step with the driving video."""
    poses: Literal["blazepose", "dwpose", "sapiens"] = "blazepose"
    """Pose estimator."""
    pose_weights: str | None = None
    """File, folder, URI or hub name of the estimator's weights (dwpose, sapiens)."""
    preview: Path | None = None
    """JPEG that shows the segment in the making, four of its frames side by side, anew after each step."""
    store: Path | None = None
    """Folder that keeps finished segments: the same command goes on where it was interrupted."""
    device: str | None = None
    """Device of torch; by default cuda where there is one."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """What the transformer computes in; by default bfloat16 on a GPU, float32 on a CPU."""
    form: Literal["key_value", "input"] = "key_value"
    """What is kept of the first segment for the others' backgrounds; input takes half of the memory, and some time."""
    devices: int = 1
    """How many GPUs of this machine denoise together (with --device cpu: processes), each with the whole model, or with
    --offload blocks with one block at a time."""
    memory: float | None = None
    """GB of the GPU's memory that may be used; by default what the GPU has. Of the next three options the fastest is
    chosen that fits. With --dry-run that GPU need not be here."""
    record: Literal["host", "device"] = "host"
    """Memory in which what is kept of the first segment lies, the host's or the GPU's."""
    tiling: bool = False
    """Encode and decode pictures in tiles: less memory, slower."""
    offload: Literal["none", "parts", "blocks"] = "none"
    """Keep on the GPU only the part of the model that computes, or of the transformer only two blocks: slower."""
    attention: Literal["torch", "cudnn", "flash", "flash3", "sage"] = "torch"
    """Kernels of attention: torch's own choice, or one of these on an NVIDIA GPU; sage is less exact."""
    compile: bool = False
    """Compile the transformer's blocks: the first pass takes a minute longer, all others less time."""
    overlap: bool = False
    """Decode a segment while the next one is denoised: faster, and takes the memory of both."""
    fp8_products: bool = False
    """Multiply in fp8 where the --transformer file has fp8 weights: less exact; for Ada, Hopper and later GPUs."""
    dry_run: bool = False
    """Print the segments, the memory and the work, and make nothing."""


def generate(options: Generate) -> None:
    """Runs the command; raises ValueError or WeightsError, each a sentence, where it cannot be done."""
    # Imported here, so that --help is there at once.
    from posegen.longvideo.preview import Preview
    from posegen.model.folder import model_folder, model_summary
    from posegen.video import save_video
    from posegen.video.pictures import read_picture
    from posegen.video.sound import add_sound

    check_options(options)
    if not options.dry_run:
        check_output(options.output)
        if options.preview is not None:
            check_output(options.preview, "--preview", (".jpg", ".jpeg"))
    source = model_source(options)
    folder = model_folder(options.model, weights=not options.dry_run)
    if not options.prompt and options.captioner is not None and not options.dry_run:
        options = replace(options, prompt=described(options))
        say(f"prompt: {options.prompt}")
    expected = estimate(folder, options)
    if options.dry_run:
        print(expected)
        if options.memory is not None:
            way = fitted(expected, options.memory)
            print(f"\nwith --memory {options.memory:g}: {way.options or 'all on the device'}")
        return
    placement = fitted(expected, options.memory)
    image = read_picture(options.image)
    if summary := model_summary(folder):
        say(f"model: {summary}")
    pipeline = placement.load(replace(source, folder=folder))
    job = make_job(pipeline, image, options, placement.device.startswith("cuda"))
    if not options.prompt:
        say(f"no prompt: a sentence about the person helps, {PROMPT_HELP}")
    told: list[Callback] = [SegmentProgress(job.plan)]
    if options.preview is not None:
        told.append(PreviewFile(options.preview, Preview(pipeline.vae, job.picture)))
        say(f"preview: {options.preview}")

    def tell(index: int, step: Step) -> None:
        for callback in told:
            callback(index, step)

    frames = UntilInterrupted(pipeline.generate(job, options.store, tell, placement.empty_record()))
    rate = pipeline.config.rate if options.rate is None else options.rate
    save_video(at_rate(frames, pipeline.config.rate, rate), options.output, rate)
    if not is_motion(options):
        add_sound(options.output, options.video, frames.count / pipeline.config.rate)
    print(f"{options.output}: {frames.count} frames of {job.size[0]}x{job.size[1]}")
    if frames.interrupted:
        raise KeyboardInterrupt


def check_options(options: Generate) -> None:
    """Raises ValueError for options that do not go together, before anything is loaded."""
    from posegen.video.rates import check_rate

    if options.model == str(BUNDLED) and not BUNDLED.is_dir():
        raise ValueError(
            "This installation has no bundled model; give a folder or a hub repository with --model."
        )
    if options.foreground == "mask" and options.mask is None:
        raise ValueError("--foreground mask needs the video of --mask; give it, or take the pose.")
    if options.poses == "blazepose" and options.pose_weights is not None:
        raise ValueError(
            "blazepose brings its own weights; leave --pose-weights out or choose other --poses."
        )
    if options.rate is not None:
        check_rate(options.rate)
    if not is_motion(options) and (options.seconds is not None or options.joints is not None):
        raise ValueError("--seconds and --joints are for a .bvh file; leave them out for a driving video.")
    if options.num_inference_steps is not None and options.num_inference_steps < 1:
        raise ValueError(f"--steps {options.num_inference_steps} are too few; ask for 1 or more.")


def at_rate(chunks: Iterable[np.ndarray], rate: float, wanted: float) -> Iterator[np.ndarray]:
    """Chunks of frames at `rate` as they are written at `wanted` frames/s, one at a time for the memory's sake."""
    from posegen.video.rates import RateChange

    change = RateChange(rate, wanted)
    for chunk in chunks:
        for index in change.shown(len(chunk)):
            yield chunk[index : index + 1]


def described(options: Generate) -> str:
    """What the captioner says of the picture; it is gone again before the model comes. ValueError, a sentence."""
    import torch

    from posegen.captions import PICTURE_QUESTION
    from posegen.captions.qwen import CaptionerError, QwenCaptioner
    from posegen.video.pictures import read_picture

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        captioner = QwenCaptioner(str(options.captioner), device, question=PICTURE_QUESTION)
    except CaptionerError as error:
        raise ValueError(f"--captioner {options.captioner}: {error}") from error
    return captioner({"picture": read_picture(options.image)[None]})["picture"]


class UntilInterrupted:
    """Chunks of frames up to Ctrl-C, if some are there by then: what is finished is worth keeping."""

    def __init__(self, chunks: Iterable[np.ndarray]) -> None:
        self._chunks = chunks
        self.count, self.interrupted = 0, False

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            for chunk in self._chunks:
                yield chunk
                self.count += len(chunk)
        except KeyboardInterrupt:
            if not self.count:
                raise
            self.interrupted = True


def estimate(folder: Path, options: Generate) -> Estimate:
    """What the command would take; nothing is loaded."""
    from posegen.estimate import Estimate, pipeline_settings
    from posegen.loading import Placement
    from posegen.longvideo.sampling import Guidance
    from posegen.longvideo.segments import plan

    settings = pipeline_settings(folder)
    steps, scale = steps_and_guidance(options)
    scale = settings["guidance_scale"] if scale is None else scale
    negative = settings["negative_prompt"] if options.negative_prompt is None else options.negative_prompt
    where = (
        options.devices,
        options.record,
        options.tiling,
        options.offload,
        options.attention,
        options.compile,
        options.overlap,
    )
    if options.dry_run and options.memory is not None and options.device is None:
        placement = Placement("cuda", options.dtype or "bfloat16", *where)  # of a card that need not be here
    else:
        placement = Placement.here(options.device, options.dtype, *where)
    return Estimate(
        folder,
        plan(
            frame_count(options, settings["rate"]),
            settings["segment_frames"],
            settings["head"],
            settings["tail"],
            planner=options.planner,
        ),
        options.size or tuple(settings["size"]),
        steps or settings["num_inference_steps"],
        Guidance.between(options.prompt, negative, scale, options.guidance_interval),
        options.framing,
        placement,
        options.form,
        options.transformer,
    )


def frame_count(options: Generate, rate: float) -> int:
    """How many frames the video has at the model's rate; nothing is decoded."""
    from posegen.driving import mocap
    from posegen.driving.driving_video import frame_indices
    from posegen.video import probe

    if is_motion(options):
        return mocap.frame_count(options.video, rate, options.seconds)
    return len(frame_indices(probe(options.video), rate))


def is_motion(options: Generate) -> bool:
    """Whether the driver is motion capture."""
    return options.video.suffix.lower() == ".bvh"


def fitted(estimate: Estimate, memory: float | None) -> Placement:
    """The fastest placement that fits into so many GB, by default into the GPU; ValueError where none does."""
    placement = estimate.placement
    memory = placement.device_memory() if memory is None else memory * 1e9
    if memory is None:
        return placement
    return placement.fitted(memory, lambda way: estimate.memory(way)["peak"])


def model_source(options: Generate) -> ModelSource:
    """Which model the options ask for; ValueError for files that are not there."""
    from posegen.source import ModelSource

    loras = [*map(parse_lora, options.lora), *([(options.fast, 1.0)] if options.fast else [])]
    for path in (options.transformer, *(path for path, _ in loras)):
        if path is not None and not path.exists():
            raise ValueError(f"{path}: no such file; check the path.")
    return ModelSource(options.model, options.transformer, tuple(loras), options.fp8_products)


def parse_lora(text: str) -> tuple[Path, float]:
    """File and strength of FILE or FILE:STRENGTH."""
    name, colon, strength = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), 1.0
    try:
        return Path(name), float(strength)
    except ValueError:
        raise ValueError(
            f"--lora {text}: give FILE or FILE:STRENGTH, such as style.safetensors:0.8."
        ) from None


def steps_and_guidance(options: Generate) -> tuple[int | None, float | None]:
    """What was asked for, or what a distilled model wants; None for the model's own."""
    steps, scale = options.num_inference_steps, options.guidance_scale
    if options.fast is not None:
        steps = FAST_STEPS if steps is None else steps
        scale = 1.0 if scale is None else scale
    return steps, scale


def read_joints(path: Path | None) -> dict[str, str] | None:
    """Our names of joints by a file's; ValueError for what is no such JSON."""
    if path is None:
        return None
    try:
        names = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"--joints {path} cannot be read as JSON ({error}); check it.") from error
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f'--joints {path}: give an object such as {{"LArm1": "left_shoulder"}}.')
    return names


def make_estimator(options: Generate, cuda: bool) -> PoseEstimator:
    """What sees the poses of the driving video and of the picture; networks other than BlazePose's on a GPU if `cuda`.

    Raises posegen.driving.poses.runtime.CudaError where onnxruntime cannot use it.
    """
    from posegen.driving.poses import load_estimator
    from posegen.driving.poses.runtime import on_cpu, on_cuda

    return load_estimator(options.poses, options.pose_weights, on_cuda if cuda else on_cpu)


def make_job(pipeline: PoseGenPipeline, image: np.ndarray, options: Generate, cuda: bool) -> VideoJob:
    """Reads the videos, and says what was made of the driving video."""
    from posegen.driving.driving_video import VideoFrames, read_driving
    from posegen.driving.mocap import read_motion

    rate, size = pipeline.config.rate, options.size or tuple(pipeline.config.size)
    pipeline.check_size(size)  # before the long work on the poses
    estimator = make_estimator(options, cuda)
    if is_motion(options):
        driving = read_motion(options.video, rate, options.seconds, read_joints(options.joints))
    else:
        driving = read_driving(options.video, rate, estimator)
    say(f"poses: {len(driving.keypoints)} frames at {rate:g} frames/s")
    for note in driving.notes(rate):
        say(note)
    steps, scale = steps_and_guidance(options)
    return pipeline.job(
        image,
        driving,
        options.prompt,
        options.negative_prompt,
        seed=options.seed,
        num_inference_steps=steps,
        guidance_scale=scale,
        guidance_interval=options.guidance_interval,
        size=size,
        fit=options.fit,
        align=options.align,
        estimator=estimator,
        planner=options.planner,
        framing=options.framing,
        foreground=options.foreground,
        keep_person=options.keep_person,
        form=options.form,
        hands=None if options.hands is None else VideoFrames(options.hands, rate, size),
        mask=None if options.mask is None else VideoFrames(options.mask, rate, size),
    )
