"""What Ray Data runs before and after vLLM: tasks that read frames of kept clips, and one that records answers."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from pipeline.caption.captioner import failed_caption
from pipeline.caption.vllm import Row, jpegs, recorded
from pipeline.config import CurateConfig
from pipeline.journals import caption_journal
from pipeline.records.journal import Files
from pipeline.tables.media import MediaReader, newest_media
from posegen.video import VideoError


class FrameReader:
    """Reads the frames of kept clips from their own videos; records those that cannot be read as failed."""

    def __init__(self, config: CurateConfig, records: Mapping[str, Files]) -> None:
        """records: the packed files of what was cut, by group."""
        self.journal, self.media = caption_journal(config), MediaReader(config, records, newest_media(config))

    def __call__(self, clips: pa.Table) -> pa.Table:
        rows = []
        for clip, media in self.media.of(clips.to_pylist()):
            try:
                frames = jpegs(clip, media)
            except (VideoError, OSError) as error:
                self.journal.write(clip["video_id"], clip["clip_id"], failed_caption(clip, error))
            else:
                rows.append({"clip_id": clip["clip_id"], "video_id": clip["video_id"], "frames": frames})
        schema = [("clip_id", "string"), ("video_id", "string"), ("frames", pa.list_(pa.binary()))]
        return pa.Table.from_pylist(rows, pa.schema(schema))


class AnswerRecorder:
    """Records an engine's answer, or why there is none; says whether the clip failed."""

    def __init__(self, config: CurateConfig) -> None:
        self.config, self.journal = config, caption_journal(config)

    def __call__(self, row: Row) -> Row:
        record = recorded(row, self.config)
        self.journal.write(row["video_id"], row["clip_id"], record)
        return {"error_stage": record["error_stage"][0].as_py()}
