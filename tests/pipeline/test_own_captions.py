"""Captions that people have win over those of models, and are taken over as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pipeline.caption.own import is_own, read_captions, subject_of, with_own, with_trigger
from pipeline.config import CurateConfig
from pipeline.tables.join import JOINED
from posegen.common.storage import StorageError
from posegen.dataset import KEPT, REJECTED

CAPTIONS = pa.table(
    {"path": ["a.mp4", "far/b.mp4", "none.mp4"], "caption": ["A girl\n runs.", "A horse.", None]}
)


def clips(*paths: str, status: str = KEPT) -> pa.Table:
    """Kept clips of these videos, captioned from what was measured."""
    row: dict[str, Any] = {"status": status, "caption": "A person.", "caption_source": "composed"}
    rows = [{**row, "subject": "person", "clip_id": f"c{n}", "path": path} for n, path in enumerate(paths)]
    return pa.Table.from_pylist([dict.fromkeys(JOINED.names) | {"reasons": []} | row for row in rows], JOINED)


def config(folder: Path) -> CurateConfig:
    return CurateConfig(str(folder), "nowhere")


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_captions_videos_by_their_path(tmp_path: Path, form: str) -> None:
    place = tmp_path / f"captions.{form}"
    (pyarrow.csv.write_csv if form == "csv" else pq.write_table)(CAPTIONS, place)
    captions = read_captions(str(place))
    assert captions == {"a.mp4": "A girl runs.", "far/b.mp4": "A horse."}
    rows = with_own(clips("a.mp4", "far/b.mp4", "c.mp4", "a.mp4"), config(tmp_path), captions).to_pylist()
    assert [row["caption"] for row in rows] == ["A girl runs.", "A horse.", "A person.", "A girl runs."]
    assert [row["subject"] for row in rows] == ["girl", None, "person", "girl"]
    assert [row["caption_source"] for row in rows] == ["table", "table", "composed", "table"]


def test_a_text_beside_a_video_captions_it_unless_a_table_does(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "walk.txt").write_text("  A man\nwalks. ")
    (tmp_path / "empty.txt").write_text(" ")
    rows = with_own(clips("far/walk.mp4", "empty.mp4"), config(tmp_path), {})
    assert rows["caption"].to_pylist() == ["A man walks.", "A person."]
    assert rows["caption_source"].to_pylist() == ["sidecar", "composed"]
    assert is_own(rows).to_pylist() == [True, False]
    table = with_own(clips("far/walk.mp4"), config(tmp_path), {"far/walk.mp4": "He walks."})
    assert table["caption"].to_pylist() == ["He walks."]


def test_what_is_not_kept_stays_as_it_is(tmp_path: Path) -> None:
    rejected = clips("a.mp4", status=REJECTED)
    assert with_own(rejected, config(tmp_path), {"a.mp4": "A girl."}).equals(rejected)


def test_a_trigger_word_leads_every_caption(tmp_path: Path) -> None:
    rows = clips("a.mp4", "b.mp4")
    rows = rows.set_column(rows.schema.names.index("caption"), "caption", pa.array(["A man.", None]))
    assert with_trigger(rows, "zwx")["caption"].to_pylist() == ["zwx, A man.", None]
    assert with_trigger(rows, "zwx").schema.names == JOINED.names


def test_a_table_of_another_form_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("file,text\na.mp4,A man.\n")
    (tmp_path / "captions.parquet").write_bytes(b"none")
    for name in ("captions.csv", "captions.parquet"):
        with pytest.raises(
            StorageError, match=f"{name} is no table of captions .* columns path and caption$"
        ):
            read_captions(str(tmp_path / name))


def test_the_subject_is_the_first_that_is_mentioned() -> None:
    assert subject_of("Two ladies and a man") == "woman"
    assert subject_of("Many romantic places") is None
