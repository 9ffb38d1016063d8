"""A few clips to look at: their middle frames with the skeleton drawn over them.

Which clips are shown follows from the table alone, so the same table gives the same sheet. Only the pictures and
keypoints of the chosen rows are read, one row group of the table at a time.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from posegen.common.storage import Folder
from posegen.dataset import unpack_keypoints
from posegen.driving.drawing import draw_over

PICTURES = 48
"""Clips on one sheet."""
DRAWN_HEIGHT = 720
"""Rows of pixels at which the skeleton is drawn, as for the network, before it is made small again."""
JPEG_QUALITY = 80
SECOND_PERSON = (230, 20, 20)
"""Colour of the box around a second person."""
COLUMNS = [
    "path",
    "start",
    "stop",
    "width",
    "height",
    "reasons",
    "caption",
    "keypoints",
    "keypoints_shape",
    "preview",
    "preview_frame",
    "second_person_box",
    "crops",
]


@dataclass(frozen=True)
class Cell:
    """One clip on the sheet; `picture` is a data URI, None where there is no picture."""

    path: str
    start: float | None
    stop: float | None
    caption: str
    reasons: list[str]
    crops: list[str]
    picture: str | None


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the rows (N,), evenly spread from the first to the last."""
    if len(rows) <= count:
        return rows
    return rows[np.round(np.linspace(0, len(rows) - 1, count)).astype(np.intp)]


def spread_over_groups(groups: Sequence[np.ndarray], count: int = PICTURES) -> np.ndarray:
    """At most `count` rows, as equal a share of each group as there are rows, group after group."""
    shares = np.zeros(len(groups), np.intp)
    sizes = np.array([len(group) for group in groups], np.intp)
    while shares.sum() < count and (shares < sizes).any():
        waiting = np.flatnonzero(shares < sizes)[: count - shares.sum()]
        shares[waiting] += 1
    chosen = [spread(group, share) for group, share in zip(groups, shares.tolist(), strict=True)]
    return np.concatenate([*chosen, np.empty(0, np.intp)])


def cells(output: Folder, rows: np.ndarray) -> list[Cell]:
    """Cells for these rows, counted over all parts of `clips/`, in the order given."""
    ascending = np.unique(rows)
    made = {int(number): _cell(row) for number, row in zip(ascending, _read(output, ascending), strict=True)}
    return [made[int(row)] for row in rows]


def _read(output: Folder, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    first = 0
    for name in output.names("clips"):
        with output.open(f"clips/{name}") as stream:
            part = pq.ParquetFile(stream)
            for group in range(part.num_row_groups):
                count = part.metadata.row_group(group).num_rows
                wanted = rows[(rows >= first) & (rows < first + count)] - first
                if len(wanted):
                    yield from part.read_row_group(group, COLUMNS).take(wanted).to_pylist()
                first += count


def _cell(row: Mapping[str, Any]) -> Cell:
    shown = {name: row[name] for name in ("path", "start", "stop", "reasons")}
    return Cell(caption=row["caption"] or "", crops=row["crops"] or [], picture=_picture(row), **shown)


def _picture(row: Mapping[str, Any]) -> str | None:
    """The row's preview with the skeleton of that frame over it, as a data URI; None without a preview."""
    if row["preview"] is None:
        return None
    frame = cv2.imdecode(np.frombuffer(row["preview"], np.uint8), cv2.IMREAD_COLOR_RGB)
    if frame is None:
        return None
    if row["keypoints"] is not None and row["preview_frame"] is not None:
        pose = unpack_keypoints(row)[row["preview_frame"]]
        frame = with_skeleton(frame, pose, (row["width"], row["height"]))
    if row["second_person_box"] is not None:
        frame = with_box(frame, np.array(row["second_person_box"]))
    encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def with_skeleton(frame: np.ndarray, pose: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The small frame (h, w, 3) uint8 RGB with the pose (133, 3), in pixels of a picture of that size, drawn over it.

    It is drawn on the frame enlarged, so that lines are as thin against the person as in the network's own pictures.
    """
    height, width = frame.shape[:2]
    drawn_width = round(width * DRAWN_HEIGHT / height)
    pose = np.nan_to_num(pose) * (
        drawn_width / size[0],
        DRAWN_HEIGHT / size[1],
        1,
    )  # nobody: all confidences 0
    large = cv2.resize(frame, (drawn_width, DRAWN_HEIGHT), interpolation=cv2.INTER_CUBIC)
    return cv2.resize(draw_over(large, pose), (width, height), interpolation=cv2.INTER_AREA)


def with_box(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A copy of the frame (h, w, 3) uint8 RGB with a red frame around a second person.

    box: (4,) x0, y0, x1, y1 as shares of width and height.
    """
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = np.round(box * (width - 1, height - 1, width - 1, height - 1)).astype(int).tolist()
    return cv2.rectangle(frame.copy(), (x0, y0), (x1, y1), SECOND_PERSON, 2)
