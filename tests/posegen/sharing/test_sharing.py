"""The shared background is the authors' formula with one attention for each query, whatever holds the record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.sharing import (
    FRAMINGS,
    AnchorReader,
    AnchorRecorder,
    Branch,
    Foreground,
    Form,
    GivenForeground,
    Position,
    SegmentSharing,
    SharedEntry,
    SharedRange,
    SharedRecord,
    SharingError,
    SubjectForeground,
    foreground_tokens,
)
from posegen.sharing.foreground import otsu_threshold
from testkit.reference_model import (
    DIM,
    GRID,
    REFERENCE_TOKENS,
    VIDEO_TOKENS,
    Attention,
    Inputs,
    Reference,
    masked_attention,
    relative_error,
    small_inputs,
    small_transformer,
)

TOKENS = VIDEO_TOKENS + REFERENCE_TOKENS
BLOCKS = range(1, 3)
SHARED = SharedRange(range(2), BLOCKS)
SUBJECT = [2, 4]
ANCHOR_PERSON = torch.arange(VIDEO_TOKENS) % 4 == 0
PERSON = torch.arange(VIDEO_TOKENS) % 3 == 0

KeyValue = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def model() -> PoseGenTransformer3DModel:
    return small_transformer()


@torch.no_grad()
def output(
    model: PoseGenTransformer3DModel,
    inputs: Inputs,
    sharing: SegmentSharing,
    branch: Branch = "guided",
    step: int = 0,
) -> torch.Tensor:
    return model(**inputs, sharing=sharing.at(step, branch)).sample


def given_masks(*masks: torch.Tensor) -> GivenForeground:
    return GivenForeground(torch.stack(masks))


def subject() -> SubjectForeground:
    return SubjectForeground(SUBJECT, GRID, blocks=2)


def anchor_record(
    model: PoseGenTransformer3DModel, inputs: Inputs, foreground: Foreground, form: Form = "key_value"
) -> SharedRecord:
    record = SharedRecord()
    output(model, inputs, AnchorRecorder(SHARED, foreground, record, form))
    return record


def keeping(kept: dict[int, KeyValue]) -> Attention:
    """Plain attention that keeps each block's keys and values."""

    def attention(block: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        kept[block] = key, value
        return masked_attention(query, key, value)

    return attention


def authors(
    anchor: dict[int, KeyValue], foreground: torch.Tensor, left_out: torch.Tensor | None = None
) -> Attention:
    """Two passes over all queries; foreground (video tokens,) takes the one over its own keys and values.

    The second pass has the authors' mask: no foreground query sees a foreground key. Of `left_out` (video tokens,) no
    query of it sees the keys.
    """

    def attention(block: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        own = masked_attention(query, key, value)
        if block not in BLOCKS:
            return own
        person = torch.cat([foreground, torch.zeros(REFERENCE_TOKENS, dtype=torch.bool)])
        allowed = ~(person[:, None] & person)
        if left_out is not None:
            allowed &= ~torch.cat([left_out, torch.zeros(REFERENCE_TOKENS, dtype=torch.bool)])
        return torch.where(person[:, None, None], own, masked_attention(query, *anchor[block], allowed))

    return attention


def anchor_keys(model: PoseGenTransformer3DModel, inputs: Inputs, item: int = 0) -> dict[int, KeyValue]:
    kept: dict[int, KeyValue] = {}
    Reference(model)(inputs, item, keeping(kept))
    return kept


@pytest.mark.parametrize("form", ["key_value", "input"])
def test_a_segment_reads_what_the_authors_two_passes_give(model: PoseGenTransformer3DModel, form: Form):
    anchor, segment = small_inputs(model), small_inputs(model, seed=1)
    record = anchor_record(model, anchor, given_masks(ANCHOR_PERSON), form)
    made = output(model, segment, AnchorReader(SHARED, given_masks(PERSON), record))
    expected = Reference(model)(
        segment, attention=authors(anchor_keys(model, anchor), PERSON | ANCHOR_PERSON)
    )
    assert relative_error(made[0], expected) < 2e-6


def test_the_record_holds_the_anchors_keys_and_values(model: PoseGenTransformer3DModel):
    anchor = small_inputs(model)
    record = anchor_record(model, anchor, given_masks(ANCHOR_PERSON))
    for block, expected in anchor_keys(model, anchor).items():
        if block in BLOCKS:
            entry = record.get(Position(0, block, "guided"))
            assert torch.equal(entry.foreground[0], ANCHOR_PERSON)
            for tensor, wanted in zip(entry.tensors, expected, strict=True):
                assert relative_error(tensor[0], wanted) < 2e-6


@pytest.mark.parametrize("foreground", ["given", "subject"])
def test_both_forms_of_the_record_give_the_same_bits(model: PoseGenTransformer3DModel, foreground: str):
    anchor, segment = small_inputs(model, batch=2), small_inputs(model, batch=2, seed=1)

    def person() -> Foreground:
        return subject() if foreground == "subject" else given_masks(PERSON)

    made = []
    for form in ("key_value", "input"):
        record = anchor_record(model, anchor, person(), form)
        made.append(output(model, segment, AnchorReader(SHARED, person(), record)))
    assert torch.equal(*made)


@pytest.mark.parametrize("anchors", [1, 2], ids=["one anchor for all", "an anchor for each"])
def test_a_batch_is_its_items_one_by_one(model: PoseGenTransformer3DModel, anchors: int):
    anchor, segment = small_inputs(model, batch=anchors), small_inputs(model, batch=2, seed=1)
    masks = torch.stack([ANCHOR_PERSON, ANCHOR_PERSON.flip(0)])
    record = anchor_record(model, anchor, GivenForeground(masks[:anchors]))
    made = output(model, segment, AnchorReader(SHARED, given_masks(PERSON, ~PERSON), record))
    for item, person in enumerate((PERSON, ~PERSON)):
        source = item % anchors
        attention = authors(anchor_keys(model, anchor, source), person | masks[source])
        assert relative_error(made[item], Reference(model)(segment, item, attention)) < 2e-6


def test_the_anchors_person_can_be_left_out_of_the_keys(model: PoseGenTransformer3DModel):
    anchor, segment = small_inputs(model), small_inputs(model, seed=1)
    record = anchor_record(model, anchor, given_masks(ANCHOR_PERSON))
    made = output(model, segment, AnchorReader(SHARED, given_masks(PERSON), record, keep_person=False))
    attention = authors(anchor_keys(model, anchor), PERSON | ANCHOR_PERSON, left_out=ANCHOR_PERSON)
    assert relative_error(made[0], Reference(model)(segment, attention=attention)) < 2e-6
    kept = output(model, segment, AnchorReader(SHARED, given_masks(PERSON), record))
    assert relative_error(made, kept) > 1e-3


@pytest.mark.parametrize("everybody", [False, True], ids=["nobody is seen", "all is the person"])
def test_one_side_alone(model: PoseGenTransformer3DModel, everybody: bool):
    anchor, segment = small_inputs(model), small_inputs(model, seed=1)
    mask = torch.full((VIDEO_TOKENS,), everybody)
    record = anchor_record(model, anchor, given_masks(~mask & mask))
    made = output(model, segment, AnchorReader(SHARED, given_masks(mask), record))
    expected = Reference(model)(segment, attention=authors(anchor_keys(model, anchor), mask))
    assert relative_error(made[0], expected) < 2e-6


def test_recording_changes_nothing(model: PoseGenTransformer3DModel):
    inputs = small_inputs(model)
    recorder = AnchorRecorder(SHARED, subject(), SharedRecord())
    with torch.no_grad():
        assert torch.equal(output(model, inputs, recorder), model(**inputs).sample)


def test_steps_after_the_range_do_not_share():
    for made in (
        AnchorRecorder(SHARED, given_masks(PERSON), SharedRecord()),
        AnchorReader(SHARED, given_masks(PERSON), SharedRecord()),
    ):
        assert made.at(1, "unguided") is not None
        assert made.at(2, "guided") is None


def subject_map(reference: Reference, blocks: int) -> np.ndarray:
    """(frames, rows x columns) mean of the first blocks' maps, each scaled to 0..1 per frame."""
    maps = []
    for query, key in reference.cross[:blocks]:
        scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
        frames = scores.mean(0)[:, SUBJECT].sum(-1).view(GRID[0], -1)
        low, high = frames.amin(1, keepdim=True), frames.amax(1, keepdim=True)
        maps.append((frames - low) / (high - low + 1e-6))
    return torch.stack(maps).mean(0).numpy()


def test_the_subject_is_where_its_words_attention_is_strong(model: PoseGenTransformer3DModel):
    anchor, segment = small_inputs(model), small_inputs(model, seed=1)
    record = anchor_record(model, anchor, subject())
    reference = Reference(model)
    reference(anchor)
    for blocks, block in ((2, 1), (2, 2)):  # the anchor's map counts the block itself in
        mask = record.get(Position(0, block, "guided")).foreground[0].view(GRID[0], -1)
        for frame, values in enumerate(subject_map(reference, blocks)):
            threshold = otsu_threshold(torch.from_numpy(values).float())
            assert torch.equal(mask[frame], torch.from_numpy(values) > threshold)
    assert 0 < record.get(Position(0, 1, "guided")).foreground.float().mean() < 1
    foreground = subject()
    guided = output(model, segment, AnchorReader(SHARED, foreground, record))
    assert torch.isfinite(guided).all()
    reference(segment)
    for blocks in (1, 2):  # a reader's map counts the blocks before
        mask = foreground.mask(blocks)[0].view(GRID[0], -1)
        for frame, values in enumerate(subject_map(reference, blocks)):
            threshold = otsu_threshold(torch.from_numpy(values).float())
            assert torch.equal(mask[frame], torch.from_numpy(values) > threshold)


def test_the_unguided_branch_takes_the_guided_branchs_subject(model: PoseGenTransformer3DModel):
    foreground, record = subject(), SharedRecord()
    recorder = AnchorRecorder(SHARED, foreground, record)
    output(model, small_inputs(model), recorder)
    output(model, small_inputs(model, seed=1), recorder, "unguided")
    for block in BLOCKS:
        masks = [record.get(Position(0, block, branch)).foreground for branch in ("guided", "unguided")]
        assert torch.equal(*masks)


def test_the_subject_is_found_anew_in_each_step(model: PoseGenTransformer3DModel):
    foreground = subject()
    recorder = AnchorRecorder(SHARED, foreground, SharedRecord())
    output(model, small_inputs(model), recorder)
    output(model, small_inputs(model, seed=1), recorder, step=1)
    again = subject()
    output(model, small_inputs(model, seed=1), AnchorRecorder(SHARED, again, SharedRecord()), step=1)
    assert torch.equal(foreground.mask(2), again.mask(2))


def test_a_prompt_without_a_subject_is_refused():
    with pytest.raises(SharingError, match="no subject word"):
        SubjectForeground([], GRID)


def test_a_subject_that_was_not_yet_seen_is_said(model: PoseGenTransformer3DModel):
    reader = AnchorReader(SharedRange(range(1), range(3)), subject(), SharedRecord())
    inputs = small_inputs(model)
    output(model, inputs, AnchorRecorder(SharedRange(range(1), range(3)), given_masks(PERSON), reader.store))
    with pytest.raises(SharingError, match="share later blocks"):
        output(model, inputs, reader)


def variance_between(values: list[int], above: list[bool]) -> float:
    """How far the means of the two classes are apart, weighted by their sizes; what Otsu's threshold maximises."""
    high = [value for value, is_above in zip(values, above, strict=True) if is_above]
    low = [value for value, is_above in zip(values, above, strict=True) if not is_above]
    return len(high) * len(low) * (sum(high) / len(high) - sum(low) / len(low)) ** 2


@given(st.lists(st.integers(0, 255), min_size=2, max_size=60).filter(lambda values: len({*values}) > 1))
def test_otsus_threshold_parts_as_well_as_opencvs(values: list[int]):
    _, mask = cv2.threshold(np.array([values], np.uint8), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    maps = torch.tensor(values, dtype=torch.float32) / 256  # the lower ends of the bins
    ours = (maps > otsu_threshold(maps)).tolist()
    assert variance_between(values, ours) == pytest.approx(variance_between(values, mask[0].astype(bool)))


@pytest.mark.parametrize("framing", FRAMINGS)
def test_framings_are_the_recommended_ranges(framing: str):
    shared = SharedRange.of(framing, steps=25, blocks=40)
    steps, first_block = FRAMINGS[framing]
    assert shared == SharedRange(range(steps), range(first_block, 40))
    small = SharedRange.of(framing, steps=4, blocks=6)
    assert small.steps == range(1) and 4 <= small.blocks.start < small.blocks.stop == 6
    assert [*SharedRange.of(framing, steps=1, blocks=1).positions(["guided"])] == [(0, 0, "guided")]


def test_any_range_of_steps_and_blocks_may_be_shared():
    asked = SharedRange.of("1:3,2:4", steps=4, blocks=5)
    assert asked == SharedRange(range(1, 3), range(2, 4)) == SharedRange.of(asked, steps=4, blocks=5)
    assert [*asked.positions(["guided"])] == [(s, b, "guided") for s in (1, 2) for b in (2, 3)]
    reader = AnchorReader(asked, given_masks(PERSON), SharedRecord())
    assert [step for step in range(4) if reader.at(step, "guided")] == [1, 2]
    assert asked.nbytes(10, 8, branches=1) == 2 * 2 * 2 * 10 * 8 * 2


@pytest.mark.parametrize(
    ("framing", "sentence"),
    [
        ("0:5,2:4", "steps 0:5 and blocks 2:4 cannot be shared: there are 4 steps and 5 blocks"),
        ("0:1,2:6", "blocks 2:6 cannot be shared"),
        ("2:2,2:4", "no steps lie in 2:2"),
        ("0:1,4:3", "no blocks lie in 4:3"),
        (
            "0-1,2-4",
            "framing '0-1,2-4' is not known; use one of close-up, .* or steps and blocks as 0:2,34:40",
        ),
    ],
)
def test_a_range_that_cannot_be_shared_is_refused(framing: str, sentence: str):
    with pytest.raises(SharingError, match=sentence):
        SharedRange.of(framing, steps=4, blocks=5)


def test_an_unknown_framing_is_refused():
    with pytest.raises(SharingError, match="'portrait' is not known; use one of close-up, half-body"):
        SharedRange.of("portrait", 25, 40)


def test_positions_are_the_places_of_the_range():
    places = [*SHARED.positions()]
    assert len(places) == len({*places}) == 2 * 2 * len(BLOCKS)
    everywhere = (
        Position(step, block, branch)
        for step in range(4)
        for block in range(4)
        for branch in ("guided", "unguided")
    )
    assert {*places} == {place for place in everywhere if place in SHARED}


@pytest.mark.parametrize("form", ["key_value", "input"])
@pytest.mark.parametrize("branches", [1, 2])
def test_bytes_of_the_record(model: PoseGenTransformer3DModel, form: Form, branches: int):
    record = SharedRecord()
    recorder = AnchorRecorder(SHARED, given_masks(PERSON), record, form)
    names: tuple[Branch, ...] = ("guided", "unguided")
    for step in range(3):
        for branch in names[:branches]:
            with torch.no_grad():
                model(**small_inputs(model), sharing=recorder.at(step, branch))
    assert [*record.entries] == [*SHARED.positions(names[:branches])]
    tensors = sum(tensor.nbytes for entry in record.entries.values() for tensor in entry.tensors)
    assert SHARED.nbytes(TOKENS, DIM, itemsize=4, form=form, branches=branches) == tensors
    assert record.nbytes == tensors + len(record.entries) * VIDEO_TOKENS


def test_a_missing_entry_is_said(model: PoseGenTransformer3DModel):
    reader = AnchorReader(SHARED, given_masks(PERSON), SharedRecord())
    with pytest.raises(
        SharingError, match="nothing at step 1, block 1 of the unguided branch; make the anchor"
    ):
        output(model, small_inputs(model), reader, "unguided", step=1)


def test_a_segment_of_another_size_is_refused(model: PoseGenTransformer3DModel):
    record = anchor_record(model, small_inputs(model), given_masks(PERSON))
    inputs = small_inputs(model)
    longer = {
        name: torch.cat([value, value], dim=2) if name in ("hidden_states", "hand_latents") else value
        for name, value in inputs.items()
    }
    reader = AnchorReader(SHARED, given_masks(PERSON.repeat(2)), record)
    with pytest.raises(SharingError, match=r"make both segments of one size and length"):
        output(model, longer, reader)
    two = anchor_record(model, small_inputs(model, batch=2), given_masks(PERSON))
    with pytest.raises(
        SharingError, match=r"is of shape \(2, 48, 4, 12\), this segment needs \(1, 48, 4, 12\)"
    ):
        output(model, inputs, AnchorReader(SHARED, given_masks(PERSON), two))


@dataclass
class Wire:
    """A store of bytes, as one that sends entries to another machine."""

    sent: dict[tuple, list[Any]] = field(default_factory=dict)

    def put(self, position: Position, entry: SharedEntry) -> None:
        self.sent[tuple(position)] = [tensor.numpy().copy() for tensor in (*entry.tensors, entry.foreground)]

    def get(self, position: Position) -> SharedEntry:
        *tensors, foreground = map(torch.from_numpy, self.sent[tuple(position)])
        return SharedEntry(tuple(tensors), foreground)


@pytest.mark.parametrize("form", ["key_value", "input"])
def test_any_store_will_do(model: PoseGenTransformer3DModel, form: Form):
    anchor, segment, wire = small_inputs(model), small_inputs(model, seed=1), Wire()
    output(model, anchor, AnchorRecorder(SHARED, given_masks(ANCHOR_PERSON), wire, form))
    made = output(model, segment, AnchorReader(SHARED, given_masks(PERSON), wire))
    record = anchor_record(model, anchor, given_masks(ANCHOR_PERSON), form)
    assert torch.equal(made, output(model, segment, AnchorReader(SHARED, given_masks(PERSON), record)))


def test_tokens_of_a_pixel_mask():
    masks = np.zeros((9, 32, 48), bool)  # latent frames 0, 1-4 and 5-8; 2 x 3 tokens
    masks[0, 0, 0] = masks[4, 31, 47] = masks[5, 16, 15] = True
    tokens = foreground_tokens(masks).view(3, 2, 3)
    assert tokens.dtype == torch.bool
    assert tokens.nonzero().tolist() == [[0, 0, 0], [1, 1, 2], [2, 1, 0]]


@pytest.mark.parametrize("shape", [(8, 32, 48), (9, 40, 48)])
def test_masks_that_do_not_make_whole_tokens_are_refused(shape: tuple[int, int, int]):
    with pytest.raises(SharingError, match="do not make whole tokens; give 4 k"):
        foreground_tokens(np.zeros(shape, bool))
