"""Long videos from a tiny random model: the same bits whichever way they are made, and every input matters."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PipelineQuantizationConfig, QuantoConfig, WanTransformer3DModel
from optimum.quanto import QLinear
from PIL import Image

from posegen.longvideo.conditions import encode_frames
from posegen.longvideo.job import SegmentStore, VideoJob
from posegen.longvideo.sampling import Cancelled, Step
from posegen.longvideo.segments import Stitcher
from posegen.mini.codec import PrincipalVideoCodec
from posegen.model.checkpoints import CheckpointError, load_adapter
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.pipeline import ADAPTERS, EncodedJob, PoseGenPipeline
from posegen.sharing import HostRecord, Position, SharedEntry, SharedRecord
from testkit import ROOT
from testkit.tiny_model import (
    HEAD,
    SEGMENT_FRAMES,
    SIZE,
    STEPS,
    TAIL,
    picture,
    save_tiny_model,
    tiny_pipeline,
    tiny_transformer,
    walking,
)

FRAMES = 29  # three segments: base, bridge, base
PROMPT = "the woman dances"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> PoseGenPipeline:
    return PoseGenPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def job(pipeline: PoseGenPipeline) -> VideoJob:
    return pipeline.job(picture(), walking(FRAMES), PROMPT)


@pytest.fixture(scope="module")
def video(pipeline: PoseGenPipeline, job: VideoJob) -> np.ndarray:
    return np.concatenate(list(pipeline.generate(job)))


def joined(job: VideoJob, segments: dict[int, np.ndarray]) -> np.ndarray:
    stitcher = Stitcher(job.plan)
    return np.stack([frame for index, frames in segments.items() for frame in stitcher.add(index, frames)])


def test_a_folder_gives_the_pipeline_that_wrote_it(folder: Path, video: np.ndarray) -> None:
    fresh = tiny_pipeline()(picture(), walking(FRAMES), PROMPT).frames
    assert np.array_equal(fresh, video)
    assert {path.name for path in (folder / "adapters").iterdir()} == {"base", "cond"}
    loaded = PoseGenPipeline.from_pretrained(folder)
    assert (loaded.config.segment_frames, loaded.config.head, loaded.config.tail) == (
        SEGMENT_FRAMES,
        HEAD,
        TAIL,
    )
    assert tuple(loaded.config.size) == SIZE and loaded.config.num_inference_steps == STEPS


def test_segments_made_apart_and_joined_are_the_same_video(
    folder: Path, job: VideoJob, video: np.ndarray, tmp_path: Path
) -> None:
    """The anchor and its record here, the other base in another process, the bridge in a pipeline of its own."""
    here = PoseGenPipeline.from_pretrained(folder)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from testkit.tiny_model import picture, walking\n"
        "from posegen.pipeline import PoseGenPipeline\n"
        "from posegen.longvideo.job import SegmentStore\n"
        "from posegen.sharing import SharedRecord\n"
        "pipeline, record = PoseGenPipeline.from_pretrained(sys.argv[2]), SharedRecord()\n"
        f"job = pipeline.job(picture(), walking({FRAMES}), {PROMPT!r})\n"
        "encoded = pipeline.encode(job)\n"
        "pipeline.record_anchor(job, encoded, record)\n"
        "frames = pipeline.generate_segment(job, encoded, 2, {}, record)\n"
        "SegmentStore(sys.argv[3], 'other').save(2, frames)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(ROOT), str(folder), str(tmp_path)], check=True)
    last = SegmentStore(tmp_path, "other").load(2)
    assert last is not None
    first = here.generate_segment(job, here.encode(job), 0, {}, SharedRecord())
    there = PoseGenPipeline.from_pretrained(folder)
    middle = there.generate_segment(job, there.encode(job), 1, {0: first, 2: last})
    assert np.array_equal(joined(job, {2: last, 1: middle, 0: first}), video)


@pytest.mark.parametrize("left", [[0], [2], [0, 1, 2]])
def test_a_resumed_video_is_the_same(
    folder: Path, job: VideoJob, video: np.ndarray, tmp_path: Path, left: list[int]
) -> None:
    pipeline = PoseGenPipeline.from_pretrained(folder)
    made: list[int] = []
    list(pipeline.generate(job, tmp_path))
    store = SegmentStore(tmp_path, job.content_id(pipeline.model_id()))
    for index in {0, 1, 2} - set(left):
        store.path(index).unlink()
    again = np.concatenate(list(pipeline.generate(job, tmp_path, lambda index, step: made.append(index))))
    assert np.array_equal(again, video)
    recorded = {0} if left == [0] else set()  # again, as its record lies in no store
    assert set(made) == {0, 1, 2} - set(left) | recorded


@pytest.mark.parametrize(
    ("frames", "planner"),
    [(1, "fitted"), (2, "fitted"), (12, "fitted"), (14, "fitted"), (14, "published"), (47, "fitted")],
)
def test_any_length_comes_out_exact(pipeline: PoseGenPipeline, frames: int, planner: Any) -> None:
    job = pipeline.job(picture(), walking(frames), num_inference_steps=1, guidance_scale=1.0, planner=planner)
    chunks = list(pipeline.generate(job))
    assert sum(map(len, chunks)) == frames
    assert all(chunk.shape[1:] == picture().shape and chunk.dtype == np.uint8 for chunk in chunks)


def test_every_input_matters(pipeline: PoseGenPipeline) -> None:
    frames = 5

    def made(image: np.ndarray, poses: np.ndarray, prompt: str, **options: Any) -> np.ndarray:
        return pipeline(image, poses, prompt, **options).frames

    hands = np.full((frames, *picture().shape), 200, np.uint8)
    poses, smaller = walking(frames), walking(frames)
    smaller[..., :2] *= 0.8
    expected = made(picture(), poses, PROMPT)
    assert np.array_equal(expected, made(picture(), poses, PROMPT))
    for other in (
        made(picture()[::-1].copy(), poses, PROMPT),
        made(picture(), smaller, PROMPT),
        made(picture(), poses, "many man waves"),
        made(picture(), poses, PROMPT, negative_prompt="a man"),
        made(picture(), poses, PROMPT, hands=hands),
        made(picture(), poses, PROMPT, seed=1),
        made(picture(), poses, PROMPT, guidance_interval=(0.9, 1.0)),
    ):
        assert other.shape == expected.shape
        assert not np.array_equal(other, expected)


def test_bridges_have_their_own_adapter(pipeline: PoseGenPipeline, job: VideoJob, folder: Path) -> None:
    encoded = pipeline.encode(job)
    ends = {
        0: np.zeros((SEGMENT_FRAMES, *picture().shape), np.uint8),
        2: np.full((SEGMENT_FRAMES, *picture().shape), 255, np.uint8),
    }
    bridge = pipeline.generate_segment(job, encoded, 1, ends)
    swapped = PoseGenPipeline.from_pretrained(folder)
    swapped.transformer = PoseGenTransformer3DModel.from_pretrained(folder, subfolder="transformer")
    load_adapter(swapped.transformer, folder / "adapters" / "cond", "base")
    load_adapter(swapped.transformer, folder / "adapters" / "base", "cond")
    assert not np.array_equal(swapped.generate_segment(job, encoded, 1, ends), bridge)


def test_a_missing_adapter_is_not_replaced_by_the_other(folder: Path, job: VideoJob) -> None:
    pipeline = PoseGenPipeline.from_pretrained(folder)
    pipeline.transformer = PoseGenTransformer3DModel.from_pretrained(folder, subfolder="transformer")
    load_adapter(pipeline.transformer, folder / "adapters" / "base", "base")
    with pytest.raises(CheckpointError, match="no adapter 'cond'"):
        list(pipeline.generate(job))


def test_a_base_segment_without_the_anchors_record_is_refused(
    pipeline: PoseGenPipeline, job: VideoJob
) -> None:
    with pytest.raises(ValueError, match="give it the anchor's record"):
        pipeline.generate_segment(job, pipeline.encode(job), 2, {})


def test_progress_goes_through_all_segments_and_steps(
    pipeline: PoseGenPipeline, job: VideoJob, video: np.ndarray
) -> None:
    told: list[tuple[int, int]] = []

    def callback(index: int, step: Step) -> None:
        assert step.steps == STEPS and step.preview.shape == (1, 16, 4, SIZE[1] // 8, SIZE[0] // 8)
        told.append((index, step.index))

    record = HostRecord()
    made = list(pipeline.generate(job, callback=callback, record=record))
    assert record.nbytes and np.array_equal(np.concatenate(made), video)
    assert told == [(index, step) for index in (0, 2, 1) for step in range(STEPS)]


def test_a_cancelled_video_goes_on_from_its_store(
    folder: Path, job: VideoJob, video: np.ndarray, tmp_path: Path
) -> None:
    pipeline = PoseGenPipeline.from_pretrained(folder)

    def cancel(index: int, step: Step) -> None:
        if index == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(pipeline.generate(job, tmp_path, cancel))
    assert len(list(tmp_path.iterdir())) == 1
    assert np.array_equal(np.concatenate(list(pipeline.generate(job, tmp_path))), video)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.9, 1.0)])
def test_a_segment_reads_the_record_in_the_order_that_is_known_before(
    pipeline: PoseGenPipeline, interval: tuple[float, float]
) -> None:
    read: list[Position] = []

    class Watched(SharedRecord):
        def get(self, position: Position) -> SharedEntry:
            read.append(position)
            return super().get(position)

    record = Watched()
    job = pipeline.job(
        picture(), walking(FRAMES), PROMPT, framing="0:2,1:3", guidance_interval=interval, guidance_scale=3.0
    )
    list(pipeline.generate(job, record=record))
    assert read == [*record.entries]


def test_recording_alone_is_told_step_by_step_and_may_be_cancelled(
    pipeline: PoseGenPipeline, job: VideoJob
) -> None:
    assert job.sharing is not None
    encoded, shared = pipeline.encode(job), job.sharing.shared.steps.stop
    told: list[tuple[int, int, int]] = []
    pipeline.record_anchor(
        job, encoded, SharedRecord(), lambda index, step: told.append((index, step.index, step.steps))
    )
    assert told == [(job.plan.anchor, step, shared) for step in range(shared)]

    def cancel(index: int, step: Step) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        pipeline.record_anchor(job, encoded, SharedRecord(), cancel)


def test_frames_are_handed_over_as_soon_as_they_are_final(pipeline: PoseGenPipeline) -> None:
    """After each base segment, with the bridge before it, all but what the next bridge will change."""
    job = pipeline.job(picture(), walking(80), num_inference_steps=1, guidance_scale=1.0)
    handed = np.cumsum([len(chunk) for chunk in pipeline.generate(job)])
    bases = [segment for segment in job.plan.segments if segment.kind == "base"]
    ends = [base.start + base.frames - job.plan.overlap(base.index) for base in bases]
    assert len(bases) > 3
    assert handed.tolist() == [min(end, 80) for end in ends]


def mini_codec() -> PrincipalVideoCodec:
    torch.manual_seed(1)
    return PrincipalVideoCodec.fit([torch.rand(8, 3, 5, 16, 16) * 2 - 1], z_dim=8)


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"prediction": "sample"}, {}),
        ({"hand_channels": None}, {}),
        (
            {"in_channels": 20, "out_channels": 8, "reference_channels": 8, "hand_channels": 8},
            {"vae": mini_codec},
        ),
    ],
    ids=["predicts clean latents", "no hands", "mini codec"],
)
def test_other_models_are_folders_too(
    config: dict[str, Any], parts: dict[str, Callable[[], Any]], tmp_path: Path
) -> None:
    pipeline = tiny_pipeline(pose_oversampling=2)
    made = {name: make() for name, make in parts.items()}
    pipeline.register_modules(transformer=tiny_transformer(**config).eval(), **made)
    expected = pipeline(picture(), walking(9), PROMPT).frames
    pipeline.save_pretrained(tmp_path)
    assert not (tmp_path / "adapters").exists()
    again = PoseGenPipeline.from_pretrained(tmp_path)
    assert type(again.vae) is type(pipeline.vae)
    assert np.array_equal(again(picture(), walking(9), PROMPT).frames, expected)


def test_clip_is_optional(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    transformer = PoseGenTransformer3DModel.from_config(
        {**tiny_transformer().config, "image_dim": None, "added_kv_proj_dim": None}
    )
    pipeline.register_modules(transformer=transformer.eval(), image_encoder=None, image_processor=None)
    pipeline.save_pretrained(tmp_path)
    again = PoseGenPipeline.from_pretrained(tmp_path)
    assert again.image_encoder is None
    assert len(again(picture(), walking(5)).frames) == 5


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_folder_is_read_in_the_precision_that_is_asked_for(folder: Path, name: str) -> None:
    pipeline = PoseGenPipeline.from_pretrained(folder, **{name: torch.bfloat16})
    assert {pipeline.transformer.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.bfloat16}


def test_a_variant_is_read_back(pipeline: PoseGenPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path, variant="fp16")
    assert list((tmp_path / "transformer").glob("*.fp16.safetensors"))
    again = PoseGenPipeline.from_pretrained(tmp_path, variant="fp16")
    assert np.array_equal(
        again(picture(), walking(5), PROMPT).frames, pipeline(picture(), walking(5), PROMPT).frames
    )


def test_a_quantised_transformer_makes_nearly_the_same_video(folder: Path, pipeline: PoseGenPipeline) -> None:
    quantisation = PipelineQuantizationConfig(
        quant_mapping={"transformer": QuantoConfig(weights_dtype="int8")}
    )
    quantised = PoseGenPipeline.from_pretrained(folder, quantization_config=quantisation)
    assert isinstance(quantised.transformer.blocks[0].attn1.to_k, QLinear)
    assert set(quantised.transformer.peft_config) == {*ADAPTERS}
    made, plain = (one(picture(), walking(FRAMES)).frames.astype(int) for one in (quantised, pipeline))
    # int8 with a scale a row rounds a weight by up to 2^-8 of the row's largest; 255 values of a pixel.
    assert 0 < np.abs(made - plain).mean() < 2
    assert quantised.model_id() != pipeline.model_id()


def test_a_quantisation_of_one_part_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="put it into diffusers' PipelineQuantizationConfig"):
        PoseGenPipeline.from_pretrained(folder, quantization_config=QuantoConfig(weights_dtype="int8"))


@pytest.mark.parametrize("name", ["device_map", "custom_pipeline", "misspelt"])
def test_what_a_folder_cannot_be_read_with_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"from_pretrained does not take {name}"):
        PoseGenPipeline.from_pretrained(folder, **{name: "balanced"})


def test_arguments_of_the_hub_reach_it(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **arguments: Any) -> str:
        asked.update(arguments, name=name)
        return str(folder)

    monkeypatch.setattr("posegen.model.folder.snapshot_download", download)
    PoseGenPipeline.from_pretrained("someone/model", token="secret", cache_dir="here", revision="v2")
    assert asked == {
        "name": "someone/model",
        "token": "secret",
        "cache_dir": "here",
        "revision": "v2",
        "allow_patterns": None,
    }


def test_a_plain_wan_folder_becomes_a_pipeline(folder: Path, tmp_path: Path) -> None:
    pipeline = PoseGenPipeline.from_pretrained(folder)
    config = tiny_transformer().config
    known = WanTransformer3DModel._get_init_keys(WanTransformer3DModel)
    wan = WanTransformer3DModel.from_config({name: config[name] for name in known if name in config})
    pipeline.save_pretrained(tmp_path)
    wan.save_pretrained(tmp_path / "transformer")
    again = PoseGenPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert isinstance(again.transformer, PoseGenTransformer3DModel)
    assert again.transformer.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "two transformers, like Wan 2.2"),
        ({"transformer": None, "unet": ["diffusers", "UNet2DModel"]}, "without a transformer"),
    ],
)
def test_a_folder_of_another_kind_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    index = json.loads((folder / "model_index.json").read_text()) | change
    index = {name: value for name, value in index.items() if value is not None}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=sentence):
        PoseGenPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["text to video", "no Wan at all"])
def test_a_transformer_of_another_kind_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "transformer" / "config.json"
    config = json.loads(file.read_text())
    if name == "no Wan at all":
        file.write_text(json.dumps(config | {"_class_name": "FluxTransformer2DModel"}))
        sentence = "holds a FluxTransformer2DModel"
    else:
        known = WanTransformer3DModel._get_init_keys(WanTransformer3DModel)
        kept = {key: value for key, value in config.items() if key in known} | {"in_channels": 16}
        shutil.rmtree(tmp_path / "transformer")
        WanTransformer3DModel.from_config(kept).save_pretrained(tmp_path / "transformer")
        sentence = "16 input channels is not an image-to-video one"
    with pytest.raises(ValueError, match=sentence):
        PoseGenPipeline.from_pretrained(tmp_path)


def test_arguments_of_other_pipelines_are_taken(pipeline: PoseGenPipeline) -> None:
    told: list[tuple[int, float, list[str]]] = []

    def callback(made: PoseGenPipeline, index: int, timestep: float, tensors: dict[str, Any]) -> None:
        assert made is pipeline and tensors["latents"].shape == tensors["preview"].shape
        told.append((index, timestep, sorted(tensors)))

    arguments: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 1.0}
    frames = pipeline(
        picture(),
        walking(5),
        **arguments,
        generator=torch.Generator().manual_seed(7),
        callback_on_step_end=callback,
    ).frames
    assert [entry[0] for entry in told] == [0, 1] and told[0][1:] == (1000, ["latents", "preview", "segment"])
    assert np.array_equal(frames, pipeline(picture(), walking(5), **arguments, seed=7).frames)
    assert not np.array_equal(frames, pipeline(picture(), walking(5), **arguments).frames)


def test_bfloat16_makes_a_video_much_like_float32(folder: Path, video: np.ndarray) -> None:
    types = {"default": torch.bfloat16, "vae": torch.float32}
    rounded = PoseGenPipeline.from_pretrained(folder, dtype=types)
    frames = rounded(picture(), walking(FRAMES), PROMPT).frames
    assert np.abs(frames.astype(int) - video).mean() < 5


def test_what_all_segments_see_is_encoded_once(
    pipeline: PoseGenPipeline, job: VideoJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    encode_once = PoseGenPipeline.encode

    def counted(self: PoseGenPipeline, job: VideoJob) -> EncodedJob:
        calls.append(1)
        return encode_once(self, job)

    monkeypatch.setattr(PoseGenPipeline, "encode", counted)
    list(pipeline.generate(job))
    assert calls == [1]
    encoded = encode_once(pipeline, job)
    assert torch.equal(encoded.reference, encode_frames(pipeline.vae, job.picture[None, None]))


def test_pictures_of_any_kind_are_taken(pipeline: PoseGenPipeline) -> None:
    grey = Image.fromarray(picture()).convert("L").resize((100, 70))
    job = pipeline.job(grey, walking(5))
    assert job.picture.shape == picture().shape and job.size == SIZE


def test_a_subject_that_the_prompt_does_not_name_is_refused(pipeline: PoseGenPipeline) -> None:
    with pytest.raises(ValueError, match="no subject word"):
        list(pipeline.generate(pipeline.job(picture(), walking(FRAMES), "many dances", foreground="subject")))


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no model_index\.json"):
        PoseGenPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="neither a folder nor a repository"):
        PoseGenPipeline.from_pretrained(tmp_path / "missing")
