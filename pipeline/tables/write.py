"""Writes `clips/` and `media/`: the files whose content is not there yet, and nothing else.

Both tables follow from the records alone, so writing them again gives the same files, and other thresholds give other
tables without a model run. A file holds the clips of the videos whose ids begin alike, sorted by clip_id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import CurateConfig
from pipeline.journals import score_journal
from pipeline.records.journal import GROUP_DIGITS, Files, group_of
from pipeline.score.scorer import optional_columns
from pipeline.tables.join import HEAVY
from pipeline.tables.media import IDS, MediaReader, ids_name
from pipeline.tables.shards import digits, digits_of, overlapping, prefix_range, shard_name
from pipeline.tables.verdicts import kept
from posegen import versions
from posegen.common.storage import Folder
from posegen.dataset import CLIPS, content_id

CLIPS_PER_FILE, MEDIA_PER_FILE = 256, 16
"""Most clips of a file on average."""

Written = dict[str, dict[str, int]]
"""By table the files' names and their rows."""


@dataclass(frozen=True)
class Division:
    """By how many digits of the video's id each table is divided into files, and which files there are already."""

    clips: int
    media: int
    there: frozenset[str]

    @property
    def unit(self) -> int:
        """How many digits divide the work: whole files of both tables, and whole groups of records."""
        return min(self.clips, self.media, GROUP_DIGITS)


def divide(output: Folder, clips: int, media: int) -> Division:
    """How tables of so many rows are divided, close to how the newest version is."""
    newest = versions.load(output)
    before = newest.tables if newest else {}
    there = [f"{table}/{name}" for table in versions.TABLES for name in output.names(table)]
    return Division(
        digits(clips, CLIPS_PER_FILE, digits_of(before.get("clips", ()))),
        digits(media, MEDIA_PER_FILE, digits_of(before.get("media", ()))),
        frozenset(there),
    )


def write_files(
    config: CurateConfig,
    schema: pa.Schema,
    division: Division,
    scores: Mapping[str, Files],
    records: Mapping[str, Files],
    media_files: Sequence[str],
    *groups: pa.Table,
) -> Written:
    """Writes the files of both tables that hold the final rows (`JOINED`) of these groups.

    schema: of `clips/`. scores, records: the groups' files of scores, and of clips cut out. media_files: of the newest
    `media/`. Returns all files of the rows, whether they were written now or before.
    """
    clips = pa.concat_tables(groups)
    output, media = Folder(config.output), MediaReader(config, records, media_files)
    written: Written = {"clips": {}, "media": {}}
    for prefix, rows in _divided(clips, division.clips):
        light = rows.drop_columns(["record", "video", "key"])
        name = shard_name("clips", prefix, _digest(light, config.score_version))
        if name not in division.there:
            heavy = _heavy(config, schema, prefix, rows, scores)
            columns = {column: light[column] for column in light.column_names} | heavy
            table = pa.table([columns[column] for column in schema.names], schema)
            output.write_table(name, table, row_group_size=64)
        written["clips"][name] = rows.num_rows
    for prefix, rows in _divided(kept(clips), division.media):
        ids = rows["clip_id"].to_pylist()
        name = shard_name("media", prefix, content_id(*ids))
        if name not in division.there:
            output.write_table(name, media.shard(prefix, ids), row_group_size=4)
        written["media"][name] = rows.num_rows
    list_ids(Folder(config.output, "work"), kept(clips), written["media"])
    return written


def list_ids(work: Folder, rows: pa.Table, files: Iterable[str]) -> None:
    """Writes which of these kept rows are in `media/`, by group, in place of what earlier versions held."""
    groups = pc.utf8_slice_codeunits(rows["video"], 0, GROUP_DIGITS)
    there = work.names(IDS)
    for group in pc.unique(groups).to_pylist():
        name = ids_name(group, overlapping(sorted(files), group))
        for other in there:
            if other.startswith(group) and f"{IDS}/{other}" != name:
                work.delete(f"{IDS}/{other}")
        if name.removeprefix(f"{IDS}/") not in there:
            work.write_table(name, rows.filter(pc.equal(groups, group)).select(["clip_id"]))


def _divided(clips: pa.Table, count: int) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each file, sorted by clip_id, with what their videos' ids begin with."""
    prefixes = pc.utf8_slice_codeunits(clips["video"], 0, count) if count else None
    if prefixes is None:
        if clips.num_rows:
            yield "", clips.sort_by("clip_id")
        return
    order = pc.sort_indices(
        pa.table({"prefix": prefixes, "clip_id": clips["clip_id"]}),
        [("prefix", "ascending"), ("clip_id", "ascending")],
    )
    ordered, sizes = clips.take(order), pc.value_counts(prefixes.take(order))
    start = 0
    for found in sizes.to_pylist():
        yield found["values"], ordered.slice(start, found["counts"])
        start += found["counts"]


def table_schema(config: CurateConfig) -> pa.Schema:
    """The schema of `clips/`: `CLIPS` with the columns that this configuration measures beside it."""
    if config.embedder is None:
        return CLIPS
    from pipeline.score.embedder import width_of  # imports torch and transformers

    return pa.schema([*CLIPS, *optional_columns(config, width_of(config.embedder))])


def _heavy(
    config: CurateConfig, schema: pa.Schema, prefix: str, rows: pa.Table, scores: Mapping[str, Files]
) -> dict[str, pa.Array]:
    """The heavy columns of these rows, from the records."""
    journal, names = score_journal(config), [name for name in HEAVY if name in schema.names]
    groups = sorted({group_of(video) for video in rows["video"].to_pylist()} & scores.keys())
    tables = [journal.rows(scores[group], ["clip_id", *names], prefix_range(prefix)) for group in groups]
    if not tables:
        return {name: pa.nulls(rows.num_rows, schema.field(name).type) for name in names}
    found = pa.concat_tables(tables).combine_chunks()
    found = found.take(pc.index_in(rows["record"], value_set=found["clip_id"]))
    return {name: found[name].cast(schema.field(name).type) for name in names}


def _digest(light: pa.Table, heavy: str) -> str:
    """A hash of a file's content; heavy: names what the heavy columns follow from."""
    stream = pa.BufferOutputStream()
    pq.write_table(light, stream)
    return hashlib.sha256(heavy.encode() + stream.getvalue()).hexdigest()
