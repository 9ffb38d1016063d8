"""The dataset's tables: what curation writes, and training and evaluation read.

Two tables keyed by `clip_id`, each a folder of Parquet files with the one schema declared here:

- `clips/`  a row for every clip ever planned, kept or not: where it is, its status and why, scores, caption, keypoints;
- `media/`  for kept clips the video itself, cut out without a second encoding wherever that is exact.

A schema is enforced at write: a missing or unknown column, or a value that cannot be of its type, raises
`DatasetError`. Scores are float32 and null where they could not be measured. Ids are content hashes, so they name the
same clip on every machine and in every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

KEPT, REJECTED, FAILED = "kept", "rejected", "failed"

# Every score, with its unit and range. Thresholds, report and schema all take the list from here.
SCORES: dict[str, str] = {
    "seconds": "length of the clip in seconds",
    "frames": "frames of the clip at the target rate",
    "source_rate": "frames a second of the source",
    "source_side": "shorter side of the source's pictures in pixels",
    "source_bit_rate": "bits a second of the source file, sound included, in thousands",
    "new_frames": "share of frames with a picture of their own; under 1 above the source's rate, 0..1",
    "distinct_rate": "different pictures a second, whatever the file states",
    "repeated_frames": "share of frames that equal the frame before, 0..1",
    "still_seconds": "longest time for which the picture stands still, in seconds",
    "one_person": "share of frames with exactly one person, always the same, 0..1",
    "second_person": "least share of looks that show a second person, with 95 % confidence, 0..1",
    "human_evidence": "how far other models than the body model agree that this is a human being, 0..1",
    "face_oddity": "how far the face's proportions are from real ones, in standard deviations among people",
    "head_visible": "share of frames with a person in which the head is in the picture, 0..1",
    "person_height": "median height of the person's visible part over the picture's height, 0..1",
    "face_size": "median height of the face over the picture's height, 0..1",
    "visible_joints": "mean share of the 17 body joints that are in the picture and seen, 0..1",
    "hand_confidence": "mean confidence of the hand points, of hands whose wrist is seen, 0..1",
    "pose_jitter": "median frame-to-frame shake of the joints that is no motion, person heights",
    "truncation": "mean share of the 17 body joints outside the picture, 0..1",
    "tilt": "median angle of the body from upright, in degrees: 90 filmed sideways, 180 upside down",
    "blur": "loss of detail inside the person's box, 0 (sharp) .. 1 (blurred)",
    "brightness": "mean luma, 0..1",
    "subject_motion": "mean speed of the joints, person heights a second",
    "camera_motion": "mean speed of the background, picture diagonals a second",
    "text_area": "share of the picture covered by text, 0..1",
    "unsafe": "highest score of explicit content that holds, by a detector of the user's own, 0..1",
}

OPTIONAL_SCORES: dict[str, str] = {
    "aesthetics": "how much people like the pictures, by a head on their embeddings; LAION's: 1 (least) .. 10",
}
"""Scores of which the table has a column only where the weights that measure them were given."""

ABOUT_PERSON = (
    *("one_person", "second_person", "human_evidence", "face_oddity", "head_visible", "person_height"),
    *(
        "face_size",
        "visible_joints",
        "hand_confidence",
        "pose_jitter",
        "truncation",
        "blur",
        "subject_motion",
    ),
)
"""Scores that need a person; where there is none, one sentence says so in place of their rules."""

CLIPS = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string()),
        pa.field("path", pa.string(), nullable=False),
        pa.field("start", pa.float64()),
        pa.field("stop", pa.float64()),
        pa.field("rate", pa.float64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        # Degrees clockwise by which the source's pictures were turned; `width` and `height` are those after it.
        pa.field("turned", pa.int32()),
        pa.field("hdr", pa.string()),  # pq or hlg, where the source was mapped to the standard dynamic range
        pa.field("source_notes", pa.list_(pa.string())),  # what the file lacks or had repaired, and when
        pa.field("status", pa.string(), nullable=False),
        pa.field("reasons", pa.list_(pa.string()), nullable=False),
        pa.field("error_stage", pa.string()),
        pa.field("error_type", pa.string()),
        pa.field("error_message", pa.string()),
        *(pa.field(name, pa.float32()) for name in SCORES),
        pa.field("perceptual_hashes", pa.list_(pa.string())),
        pa.field("duplicate_of", pa.string()),
        pa.field("framing", pa.string()),
        pa.field("motion", pa.string()),
        pa.field("subject", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("caption_source", pa.string()),
        pa.field("keypoints", pa.binary()),
        pa.field("keypoints_shape", pa.list_(pa.int32())),
        pa.field("preview", pa.binary()),
        pa.field("preview_frame", pa.int32()),
        # Where the preview shows a second person: x0, y0, x1, y1 as shares of the picture's width and height.
        pa.field("second_person_box", pa.list_(pa.float32())),
        # Of a clip that was cropped out of another: that clip's id, and where in the source's pictures the crop's top
        # left pixel is in each frame. `width` and `height` are the crop's.
        pa.field("cropped_from", pa.string()),
        pa.field("crop_x", pa.list_(pa.int32())),
        pa.field("crop_y", pa.list_(pa.int32())),
        pa.field("crops", pa.list_(pa.string())),  # of a clip of several people: what became of each
        pa.field("scored_by", pa.string()),
        pa.field("thresholds_hash", pa.string()),
        # A list and no map, which not every reader of Parquet knows.
        pa.field("cpu_seconds", pa.list_(pa.struct([("step", pa.string()), ("seconds", pa.float64())]))),
    ]
)

MEDIA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("media", pa.binary(), nullable=False),
        pa.field("media_start", pa.float64(), nullable=False),  # second of the media at which the clip begins
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("rate", pa.float64(), nullable=False),
    ]
)


def embedding_field(width: int = -1) -> pa.Field:
    """The column of a clip's embedding, of unit length: so many numbers, or any number as in records (-1).

    The table has it only where a model that embeds was given.
    """
    return pa.field("embedding", pa.list_(pa.float16(), width))


class DatasetError(ValueError):
    """A row does not fit its table's schema."""


def content_id(*parts: object) -> str:
    """A 24-digit hexadecimal id (96 bits) of the parts' text; the same parts give the same id everywhere."""
    joined = "\x1f".join(str(part) for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()[:24]


def table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of exactly this schema; a column that a row leaves out is null.

    Raises `DatasetError` where a row has a column the schema lacks, a null that it forbids or a value that cannot be of
    its type.
    """
    names = set(schema.names)
    for row in rows:
        if unknown := row.keys() - names:
            raise DatasetError(f"columns {sorted(unknown)} are not in the table's schema; declare them there")
        for field in schema:
            if not field.nullable and row.get(field.name) is None:
                raise DatasetError(
                    f"column {field.name!r} is empty in row {row.get('clip_id')!r}; it must have a value"
                )
    try:
        return pa.table(
            {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in schema},
            schema,
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DatasetError(f"a row does not fit the table's schema: {error}") from error


def pack_keypoints(keypoints: np.ndarray) -> dict[str, Any]:
    """The two columns that hold a clip's keypoints, (T, 133, 3) float: x and y in pixels, confidence 0..1."""
    packed = np.ascontiguousarray(keypoints, dtype="<f4")
    return {"keypoints": packed.tobytes(), "keypoints_shape": list(packed.shape)}


def unpack_keypoints(row: Mapping[str, Any]) -> np.ndarray:
    """The (T, 133, 3) float32 keypoints of a row of `clips/`; a frame without a person is all NaN."""
    return np.frombuffer(row["keypoints"], dtype="<f4").reshape(row["keypoints_shape"])
