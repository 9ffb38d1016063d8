"""The training stream: the same items and tensors for any number of workers, made from curated tables of puppets."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from posegen.common.storage import Folder
from posegen.dataset import REJECTED, pack_keypoints, unpack_keypoints
from posegen.longvideo.conditions import draw_poses, encode_frames, encode_text, pose_condition
from posegen.video import probe, read_frames
from testkit.puppet_tables import RATE, SIZE, Rows, puppet_rows, write_tables
from testkit.tiny_model import tiny_pipeline
from testkit.tiny_training import write_tiny_model
from training.data.batches import Item
from training.data.cache import Cache
from training.data.encoders import OwnEncoder
from training.data.frames import person_window
from training.data.items import Bucket
from training.data.plan import Plan, Request
from training.data.spans import Names
from training.data.stream import Batch, DataConfig, EncoderActors, TrainingStream, prepare
from training.data.tables import Place, Tables
from training.model import frozen

pytestmark = pytest.mark.slow

LYING = SIZE[::-1]


@pytest.fixture(scope="module")
def rows() -> list[Rows]:
    """Nine clips of 9 to 21 frames upright, three of 13 lying."""
    return [puppet_rows(seed, 9 + seed % 4 * 4) for seed in range(9)] + [
        puppet_rows(seed, 13, LYING) for seed in range(9, 12)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, rows: list[Rows], model: str) -> DataConfig:
    """A dataset of three buckets."""
    folder = tmp_path_factory.mktemp("dataset")
    write_tables(folder, rows)
    config = DataConfig(
        dataset=str(folder),
        model=model,
        sizes=(SIZE, LYING),
        frames=(9, 17),
        rate=RATE,
        batch_size=4,
        drop_text=0.3,
        drop_pose=0.3,
        drop_reference=0.3,
        validation_clips=2,
        seed=3,
    )
    prepare(config, tell=lambda line: None)
    return config


def prepared(folder: Path, rows: list[Rows], model: str, **settings: Any) -> DataConfig:
    write_tables(folder, rows)
    defaults: dict[str, Any] = {"sizes": (SIZE,), "frames": (9,), "rate": RATE, "batch_size": 2}
    config = DataConfig(dataset=str(folder), model=model, **defaults | settings)
    prepare(config, tell=lambda line: None)
    return config


def take(config: DataConfig, steps: int, start: int = 0, rank: int = 0, world_size: int = 1) -> list[Batch]:
    return list(itertools.islice(TrainingStream(config).batches(start, rank, world_size), steps))


def cached_span(config: DataConfig) -> dict[str, np.ndarray]:
    """What the cache holds of the first item."""
    name = Names(config).span(Plan(config).request(0, 0))
    span = Cache(config.cache_folder, lambda *asked: True).read(name)
    assert span is not None
    return span


def by_key(*batches: Batch) -> dict[tuple[str, int], dict[str, torch.Tensor]]:
    """Each item's tensors."""
    return {
        key: {name: value[place] for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
        for batch in batches
        for place, key in enumerate(batch.keys)
    }


def assert_same(one: Batch, *parts: Batch) -> None:
    expected, found = by_key(one), by_key(*parts)
    assert expected.keys() == found.keys()
    for key, tensors in expected.items():
        assert tensors.keys() == found[key].keys()
        assert all(torch.equal(value, found[key][name]) for name, value in tensors.items()), key


def frames_of(rows: Rows, frames: slice) -> np.ndarray:
    """A clip's frames as its media has them; puppet clips begin at the second one."""
    path = Path(rows[1]["clip_id"])
    path.write_bytes(rows[1]["media"])
    info = probe(path)
    return np.concatenate(list(read_frames(info, np.arange(len(info.frame_times)))))[1:][frames]


# The same for everybody


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_workers_together_see_what_one_would(config: DataConfig, workers: int) -> None:
    alone = take(config, 4, start=1)
    shares = [take(config, 4, start=1, rank=rank, world_size=workers) for rank in range(workers)]
    for step, batch in enumerate(alone):
        assert_same(batch, *(share[step] for share in shares))
    assert {len(share[0].keys) for share in shares} <= {4 // workers, 4 // workers + 1}


def test_a_stream_goes_on_anywhere(config: DataConfig) -> None:
    for step, batch in enumerate(take(config, 4)):
        assert_same(batch, *take(config, 1, start=step))
    assert TrainingStream(config).fingerprint(1) == TrainingStream(
        replace(config, encode_workers=3, window=2)
    ).fingerprint(1)
    assert TrainingStream(config).fingerprint(1) != TrainingStream(
        replace(config, drop_pose=0.2)
    ).fingerprint(1)


def test_another_epoch_and_another_seed_differ(config: DataConfig) -> None:
    steps = TrainingStream(config).steps_per_epoch
    items = by_key(*take(replace(config, drop_pose=0), 3 * steps))
    for (clip_id, epoch), tensors in items.items():
        if other := items.get((clip_id, epoch + 1)):
            assert not torch.equal(tensors["pose_latents"], other["pose_latents"])
    assert [b.keys for b in take(config, 3)] != [b.keys for b in take(replace(config, seed=4), 3)]


def test_more_workers_than_items_are_refused(config: DataConfig) -> None:
    with pytest.raises(ValueError, match="5 workers cannot share a batch of 4"):
        TrainingStream(config).batches(0, 0, 5)


# What a batch is


def test_shapes_and_types(config: DataConfig) -> None:
    shapes = set()
    for batch in take(config, 6):
        (b, z, f, h, w) = batch.latents.shape
        shapes.add((f, h, w))
        assert (b, z) == (4, 6) and batch.clip_ids == [clip_id for clip_id, _ in batch.keys]
        assert batch.reference_latents.shape == (b, z, 1, h, w)
        assert batch.pose_latents.shape == (b, 4 + z, f, h, w)
        assert batch.text.shape == (b, 32, 64)
        assert batch.image is None and batch.hand_latents is None
        tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
        assert all(value.dtype == torch.float32 and value.device.type == "cpu" for value in tensors)
    assert shapes == {(3, 6, 4), (3, 4, 6), (5, 6, 4)}


def test_validation_clips_are_as_generation_would_condition_them(
    config: DataConfig, rows: list[Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clips = {pair[0]["clip_id"]: pair for pair in rows}
    vae, tokenizer, encoder = (
        frozen.load(config.model, part) for part in ("vae", "tokenizer", "text_encoder")
    )
    stream = TrainingStream(config)
    items = by_key(*(share.batch for share in stream.validation_shares()))
    assert len(items) == 2
    trained_on = {clip_id for batch in take(config, stream.steps_per_epoch) for clip_id in batch.clip_ids}
    assert not trained_on & {clip_id for clip_id, _ in items}
    for (clip_id, _), tensors in items.items():
        clip, _ = pair = clips[clip_id]
        frames, keypoints = 4 * (tensors["latents"].shape[1] - 1) + 1, unpack_keypoints(clip)
        starts = {
            start: encode_frames(vae, frames_of(pair, slice(start, start + frames))[None])[0]
            for start in range(9)
            if start + frames <= len(keypoints)
        }
        start = min(starts, key=lambda start: float((starts[start] - tensors["latents"]).abs().max()))
        torch.testing.assert_close(tensors["latents"], starts[start], atol=2e-3, rtol=1e-3)
        size = (clip["width"], clip["height"])
        pictures = draw_poses(keypoints[start : start + frames], size)[None]
        expected = pose_condition(vae, pictures, torch.zeros(1, frames, dtype=torch.bool))[0]
        torch.testing.assert_close(tensors["pose_latents"], expected)
        text = encode_text(tokenizer, encoder, [clip["caption"]])[0]
        torch.testing.assert_close(tensors["text"], text, atol=2e-3, rtol=1e-3)
        references = encode_frames(vae, frames_of(pair, slice(None))[:, None])
        apart = (references - tensors["reference_latents"]).abs().amax(dim=(1, 2, 3, 4))
        shown = range(start, start + frames)
        assert apart.min() < 2e-3
        assert int(apart.argmin()) not in shown or len(shown) == len(keypoints)


def test_given_frames_stand_in_the_pose_and_hand_videos(
    config: DataConfig, rows: list[Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cond = replace(config, adapter="cond", given_head=(1, 5), given_tail=(0, 4), drop_pose=1.0, hands=True)
    vae, clips = frozen.load(config.model, "vae"), {pair[0]["clip_id"]: pair for pair in rows}
    lengths: dict[int, set[tuple[int, int]]] = {9: set(), 17: set()}
    for (clip_id, _), tensors in by_key(*take(cond, 12)).items():
        mask = tensors["pose_latents"][:4, :, 0, 0]
        given = torch.cat([mask[:1, 0], mask[:, 1:].T.flatten()]).bool()  # (F,)
        head, tail = int(given.int().argmin()), int(given.flip(0).int().argmin())
        assert int(given.sum()) == head + tail
        lengths[len(given)].add((head, tail))
        frames = []
        for start in range(len(unpack_keypoints(clips[clip_id][0])) - len(given) + 1):
            video = frames_of(clips[clip_id], slice(start, start + len(given)))
            if torch.allclose(encode_frames(vae, video[None])[0], tensors["latents"], atol=2e-3, rtol=1e-3):
                frames.append(np.where(given.numpy()[:, None, None, None], video, 0).astype(np.uint8))
        assert len(frames) == 1
        torch.testing.assert_close(
            tensors["pose_latents"], pose_condition(vae, frames[0][None], given[None])[0]
        )
        torch.testing.assert_close(tensors["hand_latents"], encode_frames(vae, frames[0][None])[0])
    assert lengths == {9: {(1, 0), (1, 4), (5, 0)}, 17: {(1, 0), (1, 4), (5, 0), (5, 4)}}


def test_what_is_dropped(config: DataConfig) -> None:
    dropped = replace(config, drop_text=1.0, drop_pose=1.0, drop_reference=1.0, hands=True)
    batch = take(dropped, 1)[0]
    vae, tokenizer, encoder = (
        frozen.load(config.model, part) for part in ("vae", "tokenizer", "text_encoder")
    )
    (_, _, f, h, w) = batch.latents.shape
    black = encode_frames(vae, np.zeros((1, 4 * f - 3, 8 * h, 8 * w, 3), np.uint8))[0]
    empty = encode_text(tokenizer, encoder, [""])[0]
    for tensors in by_key(batch).values():
        assert not tensors["reference_latents"].any() and not tensors["pose_latents"][:4].any()
        torch.testing.assert_close(tensors["pose_latents"][4:], black)
        torch.testing.assert_close(tensors["hand_latents"], black)
        torch.testing.assert_close(tensors["text"], empty, atol=2e-3, rtol=1e-3)
    some = by_key(*take(config, 12)).values()
    share = np.mean([not tensors["reference_latents"].any() for tensors in some])
    assert 0.1 < share < 0.5


def test_every_span_and_reference_gets_its_turn(config: DataConfig, rows: list[Rows]) -> None:
    spans: dict[str, set[bytes]] = {}
    pictures: dict[str, set[bytes]] = {}
    for (clip_id, _), tensors in by_key(*take(replace(config, drop_reference=0), 16)).items():
        spans.setdefault(clip_id, set()).add(tensors["latents"].numpy().tobytes())
        pictures.setdefault(clip_id, set()).add(tensors["reference_latents"].numpy().tobytes())
    lengths = {pair[0]["clip_id"]: pair[0]["keypoints_shape"][0] for pair in rows}
    for clip_id, seen in spans.items():  # of 9 frames, or of 17
        assert 1 < len(seen) <= config.spans if lengths[clip_id] in (13, 21) else len(seen) == 1
        assert len(pictures[clip_id]) > 1


def test_a_wan_model_with_hands_and_clip(tmp_path: Path, rows: list[Rows]) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    config = prepared(tmp_path / "dataset", rows[:3], str(tmp_path / "model"), hands=True, drop_reference=0)
    batch = take(config, 1)[0]
    vae = frozen.load(config.model, "vae")
    assert type(vae).__name__ == "AutoencoderKLWan" and batch.latents.shape[1] == vae.config.z_dim
    assert batch.hand_latents is not None and batch.hand_latents.shape == batch.latents.shape
    assert batch.image is not None and batch.image.any()
    dropped = take(replace(config, drop_reference=1.0), 1)[0]
    assert dropped.image is not None and not dropped.image.any()


# Clips of other rates and sizes, and clips that cannot be used


def test_a_clip_of_twice_the_rate_gives_every_second_frame(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fast = puppet_rows(1, 17, rate=2 * RATE)
    config = prepared(tmp_path / "dataset", [fast], model, validation_clips=0, batch_size=1, drop_pose=0)
    batch, vae = take(config, 1)[0], frozen.load(model, "vae")
    expected = encode_frames(vae, frames_of(fast, slice(None, None, 2))[None])
    torch.testing.assert_close(batch.latents, expected, atol=2e-3, rtol=1e-3)
    np.testing.assert_array_equal(cached_span(config)["keypoints"], unpack_keypoints(fast[0])[::2])


def test_a_larger_clip_is_cut_where_the_person_is_and_its_pose_with_it(tmp_path: Path, model: str) -> None:
    wide = puppet_rows(2, 9, size=(96, 96))
    config = prepared(tmp_path / "dataset", [wide], model, batch_size=1)
    take(config, 1)
    span = cached_span(config)
    assert span["latents"].shape == (6, 3, 6, 4)
    poses = unpack_keypoints(wide[0])
    window = person_window(poses, (96, 96), Bucket(32, 48, 9))
    assert (window.left, window.top) == (12, 0)  # the middle would be 8
    corner = np.array([window.left, window.top]) + 0.25  # pixel centres have whole coordinates
    np.testing.assert_allclose(span["keypoints"][..., :2], poses[..., :2] / 2 - corner, atol=1e-3)


def test_clips_that_cannot_be_used_are_named_and_the_others_stay_as_they_are(
    tmp_path: Path, rows: list[Rows], model: str
) -> None:
    good, spoilt = [rows[0], rows[4], rows[8]], list[Rows]()
    clip, media = rows[1]
    changes: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = [
        ("broken", {}, {"media": b"this is no video"}),
        ("cut", {}, {"media": media["media"][: len(media["media"]) // 2]}),
        ("lost", {}, None),
        ("fewer", {}, {"seconds": 0.5}),
        ("late", {}, {"media_start": 100.0}),
        ("torn", {"keypoints": bytes(7)}, {}),
        ("no poses", {"keypoints": None, "keypoints_shape": None}, {}),
        ("nobody", {"keypoints": np.full((13, 133, 3), np.nan, "<f4").tobytes()}, {}),
        ("short", {"keypoints": bytes(133 * 12 * 5), "keypoints_shape": [5, 133, 3]}, {}),
        ("blurred", {"blur": 0.9}, {}),
        ("not measured", {"blur": None}, {}),
        ("rejected", {"status": REJECTED}, {}),
    ]
    for name, of_clip, of_media in changes:
        named = {"clip_id": name}
        spoilt.append((clip | named | of_clip, {} if of_media is None else media | named | of_media))
    settings = {"frames": (9,), "scores": {"blur": (None, 0.5)}, "seed": 1}
    mixed = prepared(tmp_path, good + spoilt, model, **settings)
    stream = TrainingStream(mixed)
    assert stream.left_out == {
        "blur is not known": 1,
        "blur is out of range": 1,
        "it has no keypoints": 1,
        "it has no row in media/": 1,
        "it is too short": 1,
    }
    reasons = {
        "broken": "cannot be opened as video",
        "cut": "",
        "fewer": "poses of frame",
        "late": "before the clip begins",
        "torn": "not of the shape",
        "nobody": "show no person",
    }
    batches = take(mixed, 3 * stream.steps_per_epoch)
    turns = {clip_id for batch in batches for clip_id, _ in batch.keys}
    assert turns == reasons.keys() | {clip["clip_id"] for clip, _ in good}
    assert {clip_id for batch in batches for clip_id in batch.clip_ids} == {
        clip["clip_id"] for clip, _ in good
    }
    sentences = [sentence for batch in batches for sentence in batch.replaced]
    for clip_id, reason in reasons.items():
        assert any(
            sentence.startswith(f"clip {clip_id} of {tmp_path} cannot be used, another stands in: ")
            and reason in sentence
            for sentence in sentences
        )
    # Other workers, beginning elsewhere with a cache of their own, put the same clips in their place.
    elsewhere = replace(mixed, cache=str(tmp_path / "elsewhere"))
    prepare(elsewhere, tell=lambda line: None)
    for step in (5, 2):
        shares = [take(elsewhere, 1, start=step, rank=rank, world_size=2)[0] for rank in range(2)]
        assert_same(batches[step], *shares)
        assert sorted(batches[step].clip_ids) == sorted(shares[0].clip_ids + shares[1].clip_ids)


def test_a_dataset_of_which_no_clip_can_be_used_is_an_error(
    tmp_path: Path, rows: list[Rows], model: str
) -> None:
    clip, media = rows[0]
    broken = [(clip | {"clip_id": name}, media | {"clip_id": name, "media": b"none"}) for name in "abc"]
    config = prepared(tmp_path, broken, model)
    with pytest.raises(ValueError, match=r"20 clips in a row cannot be used; the last of them: clip . of"):
        take(config, 1)


def test_validation_clips_that_cannot_be_used_are_told(tmp_path: Path, rows: list[Rows], model: str) -> None:
    clip, media = rows[0]
    broken = [
        (clip | {"clip_id": name, "video_id": name}, media | {"clip_id": name, "media": b"none"})
        for name in "abcdef"
    ]
    stream = TrainingStream(replace(prepared(tmp_path, [*broken, *rows], model), validation_clips=8))
    told: list[str] = []
    shown = [
        clip_id for share in stream.validation_shares(tell=told.append) for clip_id in share.batch.clip_ids
    ]
    assert told and len(shown) + len(told) == 8 and not set(shown) & set("abcdef")
    for sentence in told:
        assert re.match(r"clip [a-f] of .* cannot be used, validation goes without it: .*video", sentence)


class RecordedRequests:
    """Makes validation items, and records of which clips."""

    def __init__(self, config: DataConfig) -> None:
        self._encoder, self.clips = OwnEncoder(Plan(config)), list[str]()

    def item(self, step: int, place: int) -> Callable[[], Item]:
        return self._encoder.item(step, place)

    def validation(self, request: Request, number: int) -> Callable[[], Item | str]:
        self.clips.append(request.clip.clip_id)
        return self._encoder.validation(request, number)


@pytest.mark.parametrize(("clips", "broken", "stand_ins"), [(8, "", 0), (6, "", 2), (12, "abc", None)])
def test_workers_make_their_own_shares_of_what_is_validated_on(
    tmp_path: Path, rows: list[Rows], model: str, clips: int, broken: str, stand_ins: int | None
) -> None:
    clip, media = rows[0]
    added = [
        (clip | {"clip_id": name, "video_id": name}, media | {"clip_id": name, "media": b"none"})
        for name in broken
    ]
    config = prepared(tmp_path, [*added, *rows], model, batch_size=4, validation_clips=clips)
    told: list[str] = []
    whole = TrainingStream(config).validation_shares(tell=told.append)
    recorders = [RecordedRequests(config) for _ in range(4)]
    told_by_all: list[str] = []
    shares = [
        TrainingStream(config, recorder).validation_shares(rank, 4, told_by_all.append)
        for rank, recorder in enumerate(recorders)
    ]
    assert sorted(map(clip_told, told_by_all)) == sorted(map(clip_told, told))
    for number, one in enumerate(whole):
        parts = [share[number] for share in shares]
        assert_same(one.batch, *(part.batch for part in parts if part.own))
        assert sum(part.own for part in parts) == one.own
        assert all(len(part.batch.keys) == 1 for part in parts)
    asked = [clip_id for recorder in recorders for clip_id in recorder.clips]
    assert len(set(asked)) == clips
    if stand_ins is not None:
        assert len(asked) == clips + stand_ins


def clip_told(sentence: str) -> str:
    """The clip that a sentence names."""
    return sentence.split()[1]


def test_the_index_is_written_once_and_anew_for_other_tables(
    tmp_path: Path, rows: list[Rows], model: str
) -> None:
    config = prepared(tmp_path, rows[:2], model)
    told: list[str] = []
    prepare(config, told.append)
    assert told == []
    write_tables(tmp_path, rows[:3])
    with pytest.raises(ValueError, match=r"There is no index of .* as it is now"):
        TrainingStream(config)
    prepare(config, told.append)
    assert len(told) == 1 and told[0].startswith(f"indexed 3 clips of {tmp_path} in")
    assert TrainingStream(config).left_out == {}


def test_nothing_is_encoded_that_no_step_of_the_window_needs(
    tmp_path: Path, rows: list[Rows], model: str
) -> None:
    config = prepared(tmp_path, rows[:9], model, batch_size=1, window=3)
    take(config, 2)
    requests = [Plan(config).request(step, 0) for step in range(2)]
    needed = {f"{name}.safetensors" for request in requests for name in Names(config).all(request)}
    assert {f"latents/{name}" for name in Folder(str(tmp_path)).names("latents", below=True)} == {
        name for name in needed if name.startswith("latents/")
    }


def test_clips_scored_again_with_other_poses_are_encoded_again(
    tmp_path: Path, rows: list[Rows], model: str
) -> None:
    config = prepared(tmp_path, rows[:2], model, drop_pose=0)
    before = by_key(*take(config, 1))
    backwards = [
        (clip | {"scored_by": "another"} | pack_keypoints(unpack_keypoints(clip)[::-1]), media)
        for clip, media in rows[:2]
    ]
    write_tables(tmp_path, backwards)
    prepare(config, tell=lambda line: None)
    after = by_key(*take(config, 1))
    assert before.keys() == after.keys()
    for key in before:
        assert torch.equal(before[key]["latents"], after[key]["latents"])
        assert not torch.equal(before[key]["pose_latents"], after[key]["pose_latents"])


def test_a_file_that_changed_under_a_run_is_an_error(config: DataConfig) -> None:
    tables = Tables(config.dataset)
    for group in (0, 99):
        with pytest.raises(LookupError, match="has changed and no longer holds another clip"):
            tables.row(Place(tables.files("clips")[0], group), "another clip", ["clip_id"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sizes": ((64, 90),)}, "multiples of 16 pixels"),
        ({"frames": (16,)}, "lengths of 4k \\+ 1"),
        ({"scores": {"sharpness": (0, 1)}}, "scores \\['sharpness'\\] are unknown"),
        ({"batch_size": 0}, "above zero"),
        ({"cache_gb": 0}, "gigabytes above zero"),
        ({"mix": {"other": 0.0}}, "numbers above zero"),
        ({"mix": {"somewhere": 1.0}}, "beside the first one"),
        ({"drop_text": 1.5}, "share from 0 to 1"),
        (
            {"adapter": "cond", "given_head": (13, 13), "given_tail": (4, 4)},
            "leave nothing to make of 17 frames",
        ),
        ({"adapter": "cond", "given_head": (2, 4), "given_tail": (4, 4)}, "head of 4a \\+ 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DataConfig(dataset="somewhere", model="something", **settings)


def test_a_folder_without_tables_and_one_without_a_model_are_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(FileNotFoundError, match="has no table clips/"):
        prepare(DataConfig(dataset=str(tmp_path), model=model))
    (tmp_path / "model_index.json").write_text('{"vae": ["os", "system"]}')
    with pytest.raises(ValueError, match="has no vae of diffusers"):
        frozen.load(str(tmp_path), "vae")


def test_a_score_that_curation_did_not_measure_is_told(tmp_path: Path, rows: list[Rows], model: str) -> None:
    with pytest.raises(ValueError, match=r"clips/.* has no score aesthetics: curate with the weights"):
        prepared(tmp_path, rows[:2], model, scores={"aesthetics": (5, None)})


def test_datasets_are_mixed_and_a_clip_of_both_counts_for_the_first(
    tmp_path: Path, rows: list[Rows], model: str
) -> None:
    write_tables(tmp_path / "more", rows[2:6])
    config = prepared(tmp_path / "first", rows[:3], model, mix={str(tmp_path / "more"): 2.0})
    stream = TrainingStream(config)
    first, more = ([clip["clip_id"] for clip, _ in part] for part in (rows[:3], rows[3:6]))
    assert stream.steps_per_epoch == round((3 + 2 * 3) / config.batch_size)
    batches = take(config, 9)  # two turns
    counts = Counter(clip_id for batch in batches for clip_id in batch.clip_ids)
    assert counts == dict.fromkeys(first, 2) | dict.fromkeys(more, 4)
    keys = [key for batch in batches for key in batch.keys]
    assert len(set(keys)) == len(keys)
    assert not any(batch.replaced for batch in batches)
    assert stream.fingerprint(1) != TrainingStream(
        replace(config, mix={str(tmp_path / "more"): 1.0})
    ).fingerprint(1)


# Elsewhere


def test_tables_in_a_bucket(bucket: str, tmp_path: Path, rows: list[Rows], model: str) -> None:
    local = prepared(tmp_path, rows[:3], model)
    remote = Folder(bucket)
    for folder in ("clips", "media"):
        for file in sorted((tmp_path / folder).iterdir()):
            remote.save(f"{folder}/{file.name}", file)
    config = replace(local, dataset=bucket)
    prepare(config, tell=lambda line: None)
    for one, other in zip(take(local, 2), take(config, 2), strict=True):
        assert_same(one, other)


def test_encoders_on_a_cluster_give_the_same_and_outlive_a_death(
    ray_cluster: str, tmp_path: Path, config: DataConfig
) -> None:
    remote = replace(config, cache=str(tmp_path), encode_workers=2, encode_cpus=0.5, window=3)
    prepare(remote, tell=lambda line: None)
    actors = EncoderActors.start(remote)
    stream = TrainingStream(remote, actors)
    shares = [stream.batches(0, rank, 2) for rank in range(2)]
    for step, expected in enumerate(take(config, 8)):
        if step == 2:
            assert len(encoders()) == 2  # for both shares together
            encoders()[0].kill()  # SIGKILL, as the system does when memory runs out
        assert_same(expected, *map(next, shares))
    for ours, wanted in zip(
        stream.validation_shares(), TrainingStream(config).validation_shares(), strict=True
    ):
        assert_same(wanted.batch, ours.batch)
    del actors, stream, shares
    deadline = time.monotonic() + 60
    while encoders() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not encoders()


def encoders() -> list[psutil.Process]:
    """The processes of this test's cluster that encode."""
    ours = psutil.Process().children(recursive=True)
    return [process for process in ours if process.name().startswith("ray::_EncoderAct")]
