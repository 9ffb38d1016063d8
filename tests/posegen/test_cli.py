"""The command line, on a tiny random model and a real video of a drawn person."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from diffusers import WanTransformer3DModel
from PIL import Image

from mini_model.puppets import Puppet, Scene, reference, render
from posegen import cli
from posegen.commands import generate, progress
from posegen.costs import parameters
from posegen.driving.poses.runtime import CudaError
from posegen.estimate import Estimate, segment_table
from posegen.loading import Placement
from posegen.longvideo.conditions import SUBJECT_WORDS
from posegen.longvideo.sampling import Guidance, Step
from posegen.longvideo.segments import plan
from posegen.model.checkpoints import load_published
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.pipeline import PoseGenPipeline
from posegen.video import probe, read_frames, save_video
from posegen.video.sound import RATE as SAMPLES
from posegen.video.sound import add_sound
from testkit import onnx_models
from testkit.bvh_files import moves, write_bvh
from testkit.published_folders import TINY, tiny_converted
from testkit.single_files import original_tensors, tiny_wan, write
from testkit.sounds import heard, sounding
from testkit.tiny_model import SIZE, save_tiny_model, walking, whole

FRAMES, RATE = 14, 20  # 0.7 s, so 21 frames at the tiny model's rate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A picture and a driving video of a puppet, of other sizes and another rate than the model's."""
    folder = tmp_path_factory.mktemp("inputs")
    puppet, scene = Puppet.sample(3), Scene.sample(3)
    poses = whole(walking(FRAMES, (256, 320)) * np.array([1, 0.9, 1], np.float32))
    save_video(render(puppet, scene, poses, (256, 320)).frames, folder / "video.mp4", RATE)
    Image.fromarray(reference(puppet, scene, 0, (192, 256))).save(folder / "picture.png")
    return {"image": folder / "picture.png", "video": folder / "video.mp4"}


def run(**options: Any) -> None:
    arguments = [part for name, value in options.items() for part in (f"--{name}", *str(value).split())]
    cli.main(["generate", *arguments])


def fails(capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    with pytest.raises(SystemExit) as ended:
        run(**options)
    assert ended.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("posegen: ")
    return line


def test_a_video_becomes_a_video(
    model: Path, inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mp4"
    run(model=model, **inputs, output=output, store=tmp_path / "segments", seed=3, steps=1)
    info = probe(output)
    assert (len(info.frame_times), info.width, info.height) == (21, *SIZE)
    assert info.rate == pytest.approx(30)
    told = capsys.readouterr()
    assert "poses: 21 frames at 30 frames/s" in told.err
    assert "21 frames of 32x48" in told.out
    first = np.concatenate(list(read_frames(info, range(21))))
    assert len(list((tmp_path / "segments").iterdir())) == 3
    run(model=model, **inputs, output=output, store=tmp_path / "segments", seed=3, steps=1)
    assert np.array_equal(np.concatenate(list(read_frames(probe(output), range(21)))), first)


def test_another_rate_keeps_the_speed_and_the_sound(
    model: Path, inputs: dict[str, Path], tmp_path: Path
) -> None:
    driving = tmp_path / "driving.mp4"
    shutil.copy(inputs["video"], driving)
    assert add_sound(driving, sounding(tmp_path / "tone.mp4", 1.0), FRAMES / RATE)
    given = {"model": model, "image": inputs["image"], "video": driving, "steps": 1}
    run(**given, output=tmp_path / "own.mp4")
    run(**given, output=tmp_path / "slow.mp4", rate=10)
    own, slow = (probe(tmp_path / name) for name in ("own.mp4", "slow.mp4"))
    assert (slow.rate, len(slow.frame_times)) == (10, 7)
    assert slow.duration == pytest.approx(own.duration)
    assert len(heard(tmp_path / "slow.mp4")) == len(heard(tmp_path / "own.mp4"))


def test_a_missing_prompt_is_said_by_a_captioner(
    model: Path, inputs: dict[str, Path], tmp_path: Path, tiny_qwen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"model": model, **inputs, "output": tmp_path / "out.mp4", "steps": 1, "guidance-scale": 2}
    run(**given)
    assert "no prompt: a sentence about the person helps" in capsys.readouterr().err
    run(**given, captioner=tiny_qwen)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("prompt: "))
    assert SUBJECT_WORDS.search(line)
    assert "no Qwen2.5-VL model could be loaded" in fails(capsys, **given, captioner=tmp_path)


def test_motion_capture_drives_a_video(
    model: Path, inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    motion = write_bvh(tmp_path / "motion.bvh", moves(70, {"LeftArm": (0, np.linspace(0, 80, 70))}))
    given = {
        "model": model,
        "image": inputs["image"],
        "video": motion,
        "steps": 1,
        "output": tmp_path / "out.mp4",
    }
    run(**given, seconds=0.5)
    assert len(probe(tmp_path / "out.mp4").frame_times) == 15
    told = capsys.readouterr()
    assert "poses: 15 frames at 30 frames/s" in told.err
    cli.main(["generate", *(f"--{name}={value}" for name, value in given.items()), "--dry-run"])
    assert "70 frames of 32x48" in capsys.readouterr().out
    assert "are for a .bvh file" in fails(capsys, **given | {"video": inputs["video"]}, seconds=2)
    joints = tmp_path / "joints.json"
    for text, sentence in (
        ("{", "cannot be read as JSON"),
        ("[]", "give an object"),
        ('{"Tail": "head"}', "no joint Tail"),
    ):
        joints.write_text(text)
        assert sentence in fails(capsys, **given, joints=joints)
    motion.write_text("HIERARCHY\nBONE\n")
    assert "line 2: 'BONE' is not understood" in fails(capsys, **given)


def test_a_preview_is_there_while_a_segment_is_made(
    model: Path,
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A whole JPEG after each step, another each time."""
    seen = []

    class Watching(progress.PreviewFile):
        def __call__(self, index: int, step: Step) -> None:
            super().__call__(index, step)
            (only,) = (tmp_path / "watch").iterdir()
            seen.append(only.read_bytes())
            Image.open(only).load()

    monkeypatch.setattr(generate, "PreviewFile", Watching)
    preview = tmp_path / "watch" / "preview.jpg"
    run(model=model, **inputs, output=tmp_path / "out.mp4", preview=preview, steps=2)
    assert len(seen) == len(set(seen)) == 6  # 3 segments
    assert f"preview: {preview}" in capsys.readouterr().err
    assert "ends in .jpg or .jpeg" in fails(capsys, model=model, **inputs, preview=tmp_path / "preview.gif")


def test_frames_of_another_rate_are_those_of_their_moments() -> None:
    numbered = np.arange(21).reshape(3, 7)
    written = list(generate.at_rate(iter(numbered), 30, 10))
    assert np.concatenate(written).tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert {len(chunk) for chunk in written} == {1}


def test_a_dry_run_tells_segments_work_and_memory(
    model: Path, inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mp4"
    cli.main(
        [
            "generate",
            *("--model", str(model), "--image", str(inputs["image"]), "--video", str(inputs["video"])),
            *("--output", str(output), "--dry-run", "--steps", "4", "--guidance-interval", "0.9", "1"),
            *("--prompt", "a woman dances"),
        ]
    )
    told = capsys.readouterr().out
    assert not output.exists()
    assert segment_table(plan(21, 13, 5, 4)) in told
    assert "video   21 frames of 32x48" in told
    # Of the noise levels 1, 0.94, 0.83 and 0.63 two lie in the interval.
    assert "steps   4 a segment, 2 of them with guidance: 18 passes" in told
    assert "floating-point operations" in told and "GB at most: weights" in told


CPU = Placement("cpu", "float32", record="device")


def test_the_record_is_counted_where_it_is_kept(model: Path) -> None:
    settings = (model, plan(30, 13, 5, 4), SIZE, 25, Guidance(5.0))
    host = replace(CPU, record="host")
    here = Estimate(*settings, "distant", CPU)
    record = (
        4 * 1 * 2 * 2 * (4 * 6 + 6) * 24 * 4
    )  # steps, blocks, branches, key and value, tokens, dim, bytes
    assert here.record == record
    assert Estimate(*settings, "distant", CPU, "input").record == record // 2
    assert here.memory()["record"] == record
    assert here.memory(host)["record"] == record // 4  # two positions of eight
    assert (here.host(CPU), here.host(host)) == (0, record)
    assert Estimate(*settings, "off", CPU).record == 0
    assert Estimate(*settings, "auto", CPU).record == record  # the largest
    assert Estimate(*settings, "1:3,0:2", CPU).record == record  # 2 steps and 2 blocks


def test_processes_on_gpus_load_one_copy_of_the_weights(model: Path) -> None:
    gpu = Placement("cuda", "float32")
    made = Estimate(model, plan(30, 13, 5, 4), SIZE, 25, Guidance(5.0), "off", gpu)
    weights = 4 * parameters(made.config)
    assert [made.host(replace(gpu, processes=processes)) for processes in (2, 4)] == [weights, weights]
    assert made.host(replace(CPU, processes=4)) == 0  # the device is the host


def test_a_dry_run_tells_what_a_card_needs(
    model: Path, inputs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without that card."""
    arguments = [part for name, value in inputs.items() for part in (f"--{name}", str(value))]
    cli.main(["generate", "--model", str(model), *arguments, "--dry-run", "--memory", "24"])
    told = capsys.readouterr().out
    assert "with --memory 24: all on the device" in told
    table = told[told.index("fits into") :].splitlines()[1:5]
    assert [row.split("GB", 3)[-1].strip() for row in table] == [
        "",
        "--tiling",
        "--tiling --offload parts",
        "--tiling --offload blocks",
    ]


def test_the_fastest_placement_that_fits_is_taken(model: Path) -> None:
    card = Placement("cuda", "bfloat16", record="device")
    made = Estimate(model, plan(30, 13, 5, 4), SIZE, 25, Guidance(5.0), "distant", card)
    ways = card.smaller()
    assert [(way.record, way.tiling, way.offload) for way in ways] == [
        ("device", False, "none"),
        ("host", False, "none"),
        ("host", True, "none"),
        ("host", True, "parts"),
        ("host", True, "blocks"),
    ]
    peaks = [made.memory(way)["peak"] for way in ways]
    assert peaks[0] > peaks[1] >= peaks[2] > peaks[3] >= peaks[4]
    blocks = parameters(made.config) - parameters(made.config | {"num_layers": 0})
    originals = made.host(ways[0])
    assert originals == 2 * blocks  # in bfloat16, while adapters are merged
    assert made.host(replace(ways[0], processes=2)) == 2 * parameters(made.config)  # that copy alone
    assert made.host(ways[4]) > made.host(ways[2]) == originals + made.record
    on_cpu = made.memory(replace(card, device="cpu"))["weights"]
    assert on_cpu == made.memory(card)["weights"] + originals

    def peak(way: Placement) -> int:
        return made.memory(way)["peak"]

    assert card.fitted(1.11 * peaks[0], peak) == ways[0]
    assert card.fitted(1.1 * peaks[1], peak) == ways[1]
    assert card.fitted(1.11 * peaks[3], peak) in ways[3:4]
    with pytest.raises(ValueError, match="This video takes at least"):
        card.fitted(peaks[4], peak)
    group = replace(card, processes=2).smaller()
    assert [way.offload for way in group] == ["none", "none", "none", "blocks"]


def test_the_table_of_segments() -> None:
    assert segment_table(plan(30, 13, 5, 4)).splitlines() == [
        "segment  kind    frames         needs",
        "      0  base         0 ..    12  -",
        "      2  base        17 ..    29  0",
        "      1  bridge       8 ..    20  0, 2",
    ]


def test_errors_are_a_sentence(
    model: Path, inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"model": model, **inputs, "output": tmp_path / "out.mp4"}
    (tmp_path / "text.png").write_text("no picture")
    assert "no such file" in fails(capsys, **given | {"image": tmp_path / "missing.png"})
    assert "cannot be read as a picture" in fails(capsys, **given | {"image": tmp_path / "text.png"})
    assert "cannot be opened as video" in fails(capsys, **given | {"video": tmp_path / "text.png"})
    assert "has no model_index.json" in fails(capsys, **given | {"model": tmp_path})
    assert "needs the video of --mask" in fails(capsys, **given, foreground="mask")
    assert "blazepose brings its own weights" in fails(capsys, **given, **{"pose-weights": "x.onnx"})
    assert "choose 1 to 240" in fails(capsys, **given, rate=0)
    assert "--steps 0 are too few" in fails(capsys, **given, steps=0)
    assert "choose multiples of 16 pixels" in fails(capsys, **given, size="40 48")
    assert not (tmp_path / "out.mp4").exists()


def test_without_a_bundled_model_one_is_asked_for(
    inputs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generate, "BUNDLED", tmp_path / "missing")
    assert "no bundled model" in fails(capsys, model=tmp_path / "missing", **inputs)


def test_help_explains_each_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate", "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for option in ("--image", "--video", "--output", "--model", "--steps", "--align", "--store", "--dry-run"):
        assert option in told


def test_progress_tells_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    told = progress.SegmentProgress(plan(30, 13, 5, 4))
    for index in (0, 2, 1):
        for number in range(10):
            told(index, Step(number, 10, 0.5, None, None))  # type: ignore[arg-type]
            now += 6.0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 29
    assert lines[0] == "segment 1/3, step 2/10, 6 s a step, 0:02:48 to go"
    assert lines[-1] == "segment 3/3, step 10/10, 6 s a step, 0:00:00 to go"


def test_the_output_is_looked_at_before_any_work(
    model: Path, inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    for name, sentence in (
        ("out.gif", "file that ends in .mp4"),
        ("folder.mp4", "file that ends in .mp4"),
        ("file/out.mp4", "cannot be written"),
    ):
        assert sentence in fails(capsys, model=tmp_path / "none", **inputs, output=tmp_path / name)


@pytest.mark.parametrize("device", ["cuda:7", "nonsense", "meta"])
def test_a_device_that_is_not_there_is_refused(
    device: str, model: Path, inputs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"There is no device '{device}' here: choose one of cpu" in fails(
        capsys, model=model, **inputs, device=device
    )


def test_an_interrupt_leaves_what_is_finished(
    model: Path,
    inputs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C while the second segment is made; the driving video has sound, and the part has as much of it."""
    driving, output = tmp_path / "driving.mp4", tmp_path / "new" / "out.mp4"
    shutil.copy(inputs["video"], driving)
    assert add_sound(driving, sounding(tmp_path / "tone.mp4", 1.0), FRAMES / RATE)

    class Interrupting(progress.SegmentProgress):
        def __call__(self, index: int, step: Step) -> None:
            if index == 2:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(generate, "SegmentProgress", Interrupting)
    with pytest.raises(SystemExit) as ended:
        run(model=model, image=inputs["image"], video=driving, output=output, steps=1)
    assert ended.value.code == 130
    told = capsys.readouterr()
    assert "interrupted; with --store the same command goes on" in told.err and "8 frames" in told.out
    assert len(probe(output).frame_times) == 8
    assert abs(len(heard(output)) - SAMPLES * 8 / 30) <= 1024
    assert [path.name for path in output.parent.iterdir()] == ["out.mp4"]


def test_an_interrupt_before_anything_is_finished_leaves_nothing(
    model: Path, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting(progress.SegmentProgress):
        def __call__(self, index: int, step: Step) -> None:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(generate, "SegmentProgress", Interrupting)
    with pytest.raises(SystemExit) as ended:
        run(model=model, **inputs, output=tmp_path / "out.mp4", steps=1)
    assert ended.value.code == 130
    assert not list(tmp_path.iterdir())


def test_segments_from_the_store_tell_no_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The anchor is only recorded, the second base is there: what is left is not thought to come as fast."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    told = progress.SegmentProgress(plan(30, 13, 5, 4))
    for index, steps in ((0, 2), (1, 10)):
        for number in range(steps):
            told(index, Step(number, steps, 0.5, None, None))  # type: ignore[arg-type]
            now += 6.0
    assert capsys.readouterr().err.splitlines()[1] == "segment 3/3, step 2/10, 6 s a step, 0:00:48 to go"


def test_the_distilled_lora_asks_for_few_steps_without_guidance() -> None:
    given: dict[str, Any] = {"image": Path("a.png"), "video": Path("a.mp4")}
    fast = generate.Generate(**given, fast=Path("distilled.safetensors"))
    assert generate.steps_and_guidance(generate.Generate(**given)) == (None, None)
    assert generate.steps_and_guidance(fast) == (4, 1.0)
    assert generate.steps_and_guidance(replace(fast, num_inference_steps=8, guidance_scale=2.0)) == (8, 2.0)


@pytest.mark.parametrize("poses", ["dwpose", "sapiens"])
def test_other_estimators_are_loaded_where_they_compute(
    poses: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_models.yolox(tmp_path / "yolox_l.onnx")
    onnx_models.simcc(tmp_path / "dw-ll_ucoco_384.onnx", [onnx_models.GREEN] * 133)
    onnx_models.heatmaps(tmp_path / "sapiens_pose.onnx", [onnx_models.GREEN] * 133)
    options = generate.Generate(Path("a.png"), Path("a.mp4"), poses=poses, pose_weights=str(tmp_path))
    assert type(generate.make_estimator(options, cuda=False)).__name__.lower() == poses
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(CudaError, match="install onnxruntime-gpu"):
        generate.make_estimator(options, cuda=True)


def test_lora_options_are_files_with_a_strength(tmp_path: Path) -> None:
    odd = tmp_path / "a:b"
    odd.touch()
    assert generate.parse_lora("style.safetensors") == (Path("style.safetensors"), 1.0)
    assert generate.parse_lora("style.safetensors:0.8") == (Path("style.safetensors"), 0.8)
    assert generate.parse_lora(str(odd)) == (odd, 1.0)
    with pytest.raises(ValueError, match="give FILE or FILE:STRENGTH"):
        generate.parse_lora("style.safetensors:much")


def test_files_that_are_not_there_are_named(
    model: Path, inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("lora", "transformer", "fast"):
        missing = tmp_path / f"{option}.safetensors"
        assert f"{missing}: no such file" in fails(capsys, model=model, **inputs, **{option: missing})


def test_a_single_file_becomes_a_model_to_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wan = tiny_wan(text_dim=16, image_dim=16)
    file = write(tmp_path / "wan.safetensors", original_tensors(wan))
    save_tiny_model(tmp_path / "wan")
    options = ["convert", "--wan", str(tmp_path / "wan"), "--output", str(tmp_path / "model")]
    cli.main([*options, "--transformer", str(file)])
    assert "ready for training/train.py" in capsys.readouterr().out
    made = PoseGenPipeline.from_pretrained(tmp_path / "model")
    assert torch.equal(made.transformer.proj_out.weight, wan.proj_out.weight)
    assert not getattr(made.transformer, "peft_config", {})
    with pytest.raises(SystemExit) as ended:
        cli.main([*options, "--base", str(tmp_path)])
    assert ended.value.code == 2 and "Give both published folders" in capsys.readouterr().err


def test_published_folders_become_a_model_and_an_adapter_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_converted(tmp_path, TINY)
    save_tiny_model(tmp_path / "wan")
    config = PoseGenTransformer3DModel.load_config(tmp_path / "converted" / "transformer")
    shutil.rmtree(tmp_path / "wan" / "transformer")
    WanTransformer3DModel.from_config(config).save_pretrained(tmp_path / "wan" / "transformer")
    folders = [str(tmp_path / name) for name in ("base", "cond", "wan", "model")]
    options = ("--base", "--cond", "--wan", "--output")
    cli.main(["convert", *(part for pair in zip(options, folders, strict=True) for part in pair)])
    assert "ready for posegen generate" in capsys.readouterr().out
    assert {"adapters", "transformer", "vae", "model_index.json"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }
    file = tmp_path / "lora.safetensors"
    cli.main(["export", "--adapter", str(tmp_path / "model/adapters/base"), "--output", str(file)])
    assert file.is_file() and (tmp_path / "lora_embeddings.safetensors").is_file()
    again = ["export", "--adapter", str(tmp_path / "model/adapters/base"), "--format", "published"]
    again += ["--output", str(tmp_path / "again"), "--transformer", str(tmp_path / "model/transformer")]
    cli.main(again)
    assert load_published(tmp_path / "again").config == load_published(tmp_path / "base").config
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", "--adapter", str(tmp_path), "--output", str(file)])
    assert ended.value.code == 2


def test_hands_are_seen_in_every_frame(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Networks that take colours for normals and every pixel for a hand."""
    normals = onnx_models.colour_maps(tmp_path / "sapiens_normal.onnx", np.eye(3) * 3, np.zeros(3))
    parts, background = np.zeros((28, 3)), np.zeros(28)
    background[5] = 1  # Left_Hand
    segmentation = onnx_models.colour_maps(tmp_path / "sapiens_seg.onnx", parts, background)
    output = tmp_path / "hands.mp4"
    arguments = {"video": inputs["video"], "normals": normals, "segmentation": segmentation, "output": output}
    cli.main(["hands", *(part for name, value in arguments.items() for part in (f"--{name}", str(value)))])
    info, driving = probe(output), probe(inputs["video"])
    assert (info.width, info.height) == (driving.width, driving.height)
    assert np.allclose(info.frame_times, driving.frame_times)
    assert np.concatenate(list(read_frames(info, range(FRAMES)))).any(axis=(1, 2, 3)).all()
    told = capsys.readouterr()
    assert f"{FRAMES} frames of 256x320" in told.out and "hands" in told.err
