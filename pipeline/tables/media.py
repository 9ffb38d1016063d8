"""Where the video of a kept clip lies before and after it is written to `media/`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import CurateConfig
from pipeline.journals import cut_journal
from pipeline.records.journal import Files
from pipeline.tables.join import ERROR
from pipeline.tables.shards import overlapping, prefix_range
from posegen import versions
from posegen.common.storage import Folder
from posegen.dataset import MEDIA, content_id

IDS = "in-media"
"""Folder, below the work folder, of lists of what is in `media/`: a small file a group instead of the table's many."""


def ids_name(group: str, files: Iterable[str]) -> str:
    """The name of the list of a group's clips in these files of `media/`."""
    return f"{IDS}/{group}-{content_id(*sorted(files))[:12]}.parquet"


def newest_media(config: CurateConfig) -> list[str]:
    """The files of the newest `media/`, sorted; none where no version has been written."""
    version = versions.load(Folder(config.output))
    return sorted(version.tables.get("media", {})) if version else []


class MediaReader:
    """Reads clips' own videos, rows of `MEDIA`, from the records of what was cut and from the newest `media/`."""

    def __init__(
        self, config: CurateConfig, records: Mapping[str, Files], files: Sequence[str] | None = None
    ) -> None:
        """records: the packed files of what was cut, by group. files: `newest_media`, where they are known."""
        self.cuts, self.output, self.records = cut_journal(config), Folder(config.output), records
        self.work = Folder(config.output, "work")
        self.files = newest_media(config) if files is None else files

    def missing(self, group: str, kept: pa.Table) -> pa.Table:
        """Those of a group's kept clips that have no video: `clip_id` and, where one is known, the error."""
        there = self._ids(group)
        cut = self.cuts.rows(self.records.get(group, Files()), ["clip_id", *ERROR])
        failed = pc.is_valid(cut["error_stage"])
        there.append(cut.filter(pc.invert(failed))["clip_id"])
        ids = kept["clip_id"].combine_chunks()
        without = ids.filter(pc.invert(pc.is_in(ids, value_set=pa.chunked_array(there, pa.string()))))
        errors = cut.filter(failed).combine_chunks()
        index = pc.index_in(without, value_set=errors["clip_id"])
        return pa.table({"clip_id": without} | {name: errors[name].take(index) for name in ERROR})

    def shard(self, prefix: str, clip_ids: list[str]) -> pa.Table:
        """The videos of these clips of a shard, by clip_id."""
        tables = [self._cut(prefix), *(self._table(name) for name in overlapping(self.files, prefix))]
        found = pa.concat_tables(tables).combine_chunks()
        return found.take(pc.index_in(pa.array(clip_ids, pa.string()), value_set=found["clip_id"]))

    def of(self, clips: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
        """Each clip with its video."""
        for clip in clips:
            video, clip_id = clip["video_id"], clip["clip_id"]
            tables = [
                self._cut(video),
                *(self._table(name, clip_id) for name in overlapping(self.files, video)),
            ]
            for table in tables:
                rows = table.filter(pc.equal(table["clip_id"], clip_id))
                if rows.num_rows:
                    yield clip, rows.slice(0, 1).to_pylist()[0]
                    break

    def _cut(self, prefix: str) -> pa.Table:
        """What was cut of the videos whose ids begin so, or of the groups that do."""
        found = [MEDIA.empty_table()]
        for group, files in self.records.items():
            if group.startswith(prefix) or prefix.startswith(group):
                rows = self.cuts.rows(files, MEDIA.names, prefix_range(prefix))
                found.append(rows.filter(pc.is_valid(rows["media"])).select(MEDIA.names).cast(MEDIA))
        return pa.concat_tables(found)

    def _ids(self, group: str) -> list[pa.ChunkedArray]:
        """The ids of a group's clips in `media/`: from their list, or where that is gone from the table itself."""
        names = overlapping(self.files, group)
        try:
            return [self.work.read_table(ids_name(group, names), ["clip_id"])["clip_id"]] if names else []
        except FileNotFoundError:
            return [self.output.read_table(name, ["clip_id"])["clip_id"] for name in names]

    def _table(self, name: str, clip_id: str | None = None) -> pa.Table:
        """A file of `media/`, or only the rows beside one clip."""
        if clip_id is None:
            return self.output.read_table(name)
        with self.output.open(name) as stream:
            file = pq.ParquetFile(stream)
            groups = []
            for index in range(file.num_row_groups):
                ids = file.metadata.row_group(index).column(0).statistics
                if ids.min <= clip_id <= ids.max:
                    groups.append(index)
            return file.read_row_groups(groups, MEDIA.names)
