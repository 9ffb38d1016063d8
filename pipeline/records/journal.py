"""What is already done: a record for each finished key, first in a file of its own, later packed with its neighbours.

Records lie in groups, by the first two digits of the id of the video that they are about, so whatever belongs to one
video is read together. A worker writes a key's record whole or not at all, under a name that follows from the key
alone: a process that is killed leaves only finished records, and work that is done twice leaves one. Between two rounds
of work `pack` joins these loose files into few large ones. It writes before it deletes, and of two records of a key the
later counts, so that a kill at any place loses nothing. A packed file is sorted by video, and its name says how many
rows it has and of which videos, from the first to the last: what is read of few videos opens few files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from posegen.common.storage import Folder

GROUP_DIGITS = 2
ROW_GROUPS = 8
"""Into how many parts a full packed file is divided, of which only those are read that hold what is asked for."""


def group_of(video: str) -> str:
    """The group of what is recorded about a video: one of 256, by its id."""
    return video[:GROUP_DIGITS]


@dataclass
class Files:
    """Names of a group's files: `loose` ones of a key each, `packed` ones from the earliest to the latest."""

    loose: list[str] = field(default_factory=list)
    packed: list[str] = field(default_factory=list)


class Journal:
    """Records of one kind below a folder, by the id of a video and a key, both hexadecimal; pickles into workers."""

    def __init__(self, folder: Folder, kind: str, schema: pa.Schema, packed_rows: int):
        """packed_rows: of a packed file, which is held in memory as a whole; one of under half as many is small."""
        self.folder, self.kind, self.schema, self.packed_rows = folder, kind, schema, packed_rows
        self.packed_schema = pa.schema([("video", pa.string()), ("key", pa.string()), *schema])

    def name(self, video: str, key: str) -> str:
        """Where a key's record lies as long as it is loose, below the folder."""
        return f"{self.kind}/loose/{group_of(video)}/{video}-{key}.parquet"

    def has(self, video: str, key: str) -> bool:
        """Whether the key's record has been written since the last `pack`."""
        return self.folder.exists(self.name(video, key))

    def write(self, video: str, key: str, table: pa.Table) -> None:
        """Stores a key's record, one or more rows, in place of an earlier one.

        Columns of the journal's schema that it leaves out are null, such as scores of one that failed.
        """
        if not table.num_rows:
            raise ValueError(f"the record {key} of {self.kind} has no row; give it at least one")
        whole = pa.concat_tables([self.schema.empty_table(), table], promote_options="default")
        self.folder.write_table(self.name(video, key), whole.cast(self.schema))

    def read(self, video: str, key: str, columns: list[str] | None = None) -> pa.Table:
        """A key's loose record; raises FileNotFoundError where there is none."""
        return self.folder.read_table(self.name(video, key), columns)

    def files(self) -> dict[str, Files]:
        """The files of each group that has any."""
        found: dict[str, Files] = {}
        for name in self.folder.names(self.kind, below=True):
            place, group, _ = name.split("/")
            files = found.setdefault(group, Files())
            (files.loose if place == "loose" else files.packed).append(f"{self.kind}/{name}")
        return found

    def pack(self, group: str, files: Files) -> Files:
        """Joins the group's loose records into packed files; returns the files there are then.

        The latest packed files are joined with them as long as they are small.
        """
        small: list[str] = []
        while files.packed and _rows_of(files.packed[-1]) < self.packed_rows // 2:
            small.insert(0, files.packed.pop())
        if not files.loose:
            return Files(packed=[*files.packed, *small])
        number = max((_number_of(name) for name in [*files.packed, *small]), default=-1) + 1
        tables = [self.folder.read_table(name) for name in small]
        loose = sorted(files.loose)
        for start in range(0, len(loose), self.packed_rows):
            batch = loose[start : start + self.packed_rows]
            rows = latest([*tables, pa.concat_tables(map(self._with_keys, batch))])
            files.packed.append(self.write_packed(group, number, rows))
            tables, number = [], number + 1
        for name in [*small, *loose]:
            self.folder.delete(name)
        return Files(packed=files.packed)

    def write_packed(self, group: str, number: int, rows: pa.Table) -> str:
        """Writes rows of the `packed_schema` as a group's packed file of this number; returns its name."""
        rows = rows.sort_by("video")
        first, last = rows["video"][0], rows["video"][-1]
        name = f"{self.kind}/packed/{group}/{number:08}-{rows.num_rows:05}-{first}-{last}.parquet"
        self.folder.write_table(name, rows, max(1, self.packed_rows // ROW_GROUPS))
        return name

    def rows(self, files: Files, columns: list[str], videos: tuple[str, str] | None = None) -> pa.Table:
        """These columns, "video" and "key" of a group's packed records, each key once.

        videos: only of videos from the first id to before the second.
        """
        names = [*columns, *({"video", "key"} - set(columns))]
        there = [name for name in files.packed if videos is None or _holds(name, videos)]
        tables = [self._packed(name, names, videos) for name in there]
        return latest(tables) if tables else self.packed_schema.empty_table().select(names)

    def _packed(self, name: str, columns: list[str], videos: tuple[str, str] | None) -> pa.Table:
        with self.folder.open(name) as stream:
            file = pq.ParquetFile(stream)
            if videos is None:
                return file.read(columns)
            groups = []
            for index in range(file.num_row_groups):
                range_of = file.metadata.row_group(index).column(0).statistics  # of `video`
                if range_of.max >= videos[0] and range_of.min < videos[1]:
                    groups.append(index)
            found = file.read_row_groups(groups, columns)
        within = pc.and_(pc.greater_equal(found["video"], videos[0]), pc.less(found["video"], videos[1]))
        return found.filter(within)

    def _with_keys(self, loose: str) -> pa.Table:
        table = self.folder.read_table(loose)
        video, key = loose.split("/")[-1].removesuffix(".parquet").split("-")
        ids = [pa.repeat(pa.scalar(id_), table.num_rows) for id_ in (video, key)]
        return pa.table([*ids, *table.columns], self.packed_schema)


def _rows_of(packed: str) -> int:
    return int(_parts(packed)[1])


def _number_of(packed: str) -> int:
    return int(_parts(packed)[0])


def _holds(packed: str, videos: tuple[str, str]) -> bool:
    """Whether it may have rows of these videos; one of an earlier version of this program doesn't name its own."""
    _, _, *ends = _parts(packed)
    return not ends or (ends[1] >= videos[0] and ends[0] < videos[1])


def _parts(packed: str) -> list[str]:
    """Of a packed file's name: its number, its rows, and mostly the first and the last of its videos."""
    return packed.split("/")[-1].removesuffix(".parquet").split("-")


def latest(tables: list[pa.Table]) -> pa.Table:
    """The rows of tables in the order they were written; of a key in more than one only those of the last."""
    kept: list[pa.Table] = []
    later: list[pa.ChunkedArray] = []
    for table in reversed(tables):
        for keys in later:
            table = table.filter(pc.invert(pc.is_in(table["key"], value_set=keys)))
        if table.num_rows:
            later.append(table["key"])
        kept.insert(0, table)
    return pa.concat_tables(kept)


def is_failed(record: pa.Table) -> bool:
    """Whether a record says that its work failed."""
    return bool(record.num_rows) and record["error_stage"][0].is_valid
