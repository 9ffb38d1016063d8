"""The rows of all videos while the job runs: a table for each group, in Ray's object store, not in the driver.

Each step is a light task for each group, so the driver holds names and counts however many clips there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from pipeline.caption.own import is_own, with_own, with_trigger
from pipeline.config import CurateConfig
from pipeline.crop.cropper import FAILED_CROPS, worth_cropping
from pipeline.feeds import failed_plans, tasks, unplanned, unscored
from pipeline.journals import (
    CAPTIONED,
    caption_journal,
    crop_journal,
    cut_journal,
    plan_journal,
    score_journal,
)
from pipeline.records.journal import Files, Journal, group_of
from pipeline.semantic import find_semantic_duplicates
from pipeline.tables.join import join_group, joined_schema
from pipeline.tables.media import MediaReader, newest_media
from pipeline.tables.verdicts import (
    LOOKS,
    duplicates,
    fail_open,
    judge,
    kept,
    reject_duplicates,
    reject_same,
    unread,
    with_captions,
    with_errors,
)
from pipeline.tables.write import divide, table_schema, write_files
from pipeline.tasks import Ref, light_task, sizes
from pipeline.verdict import Thresholds
from posegen import versions
from posegen.common.storage import Folder
from posegen.dataset import KEPT


class Groups:
    """The rows (`JOINED`) of the listed videos by group, from `join` on.

    listed: a table `LISTED_KEYS`.
    """

    def __init__(self, config: CurateConfig, listed: pa.Table) -> None:
        self.config, self.listed = config, listed
        self.keys: Ref = ray.put(listed["key"].combine_chunks())
        self.plans, self.scores = dict[str, Files](), dict[str, Files]()
        self.crops, self.cuts, self.captions = dict[str, Files](), dict[str, Files](), dict[str, Files]()
        self.rows: dict[str, Ref] = {}
        self.media: Ref = ray.put(newest_media(config))

    def join(self) -> None:
        """Packs what has been recorded since the last time, and reads the groups that this concerns."""
        self.plans, changed = pack(plan_journal(self.config))
        self.scores, more = pack(score_journal(self.config))
        changed |= more
        if self.config.people == "crop":
            self.crops, more = pack(crop_journal(self.config))
            changed |= more
        for group in self.plans:
            if group in changed or group not in self.rows:
                files = [kind.get(group, Files()) for kind in (self.plans, self.crops, self.scores)]
                self.rows[group] = light_task(join_group).remote(self.config, self.keys, *files)

    def unscored(self, retry_failed: bool, most_clips: int | None) -> list[Ref]:
        """Tasks (`TASKS`) for all that has no plan or no scores, in tables of one row or more.

        retry_failed: also for what failed. most_clips: of a task for a video that has a plan.
        """
        seen = self._get(_seen)
        again = [failed for _, failed in seen] if retry_failed else []
        new = unplanned(self.listed, [keys for keys, _ in seen], again)
        found = [light_task(unscored).remote(rows, retry_failed, most_clips) for rows in self.rows.values()]
        return _filled(found) + [ray.put(new.slice(at, 1000)) for at in range(0, new.num_rows, 1000)]

    def claims(self) -> dict[str, str]:
        """The keys of the files whose plans stand, by video_id: a copy that is found later is not scored again."""
        return {video_id: key for owned in self._get(_owned) for video_id, key in owned}

    def fail(self, faults: Mapping[str, str]) -> None:
        """Fails what is still to do, as the storage did not let it be done: path -> how it said so.

        Nothing is recorded of it, so the next run tries it again.
        """
        self._each(fail_open, faults)
        planned = set[str]().union(*(keys.to_pylist() for keys, _ in self._get(_seen)))
        for row in self.listed.to_pylist():
            if row["key"] not in planned:
                group, failed = group_of(row["key"]), unread(row, faults, joined_schema(self.config))
                others = [self.rows[group]] if group in self.rows else []
                self.rows[group] = light_task(_together).remote(failed, *others)

    def uncropped(self, thresholds: Thresholds, retry_failed: bool, most_clips: int | None) -> list[Ref]:
        """Tasks for the clips that these rules reject for their several people, and whose people were not looked for.

        retry_failed: also for those where that failed. most_clips: of a task.
        """
        found = [
            light_task(_uncropped).remote(rows, thresholds, retry_failed, most_clips)
            for rows in self.rows.values()
        ]
        return _filled(found)

    def judge(self, thresholds: Thresholds) -> None:
        """Applies the rules, and rejects what looks like another kept clip, or shows the same by its embedding."""
        self._each(judge, thresholds)
        if looks := self._get(_looks):
            first = ray.put(duplicates(pa.concat_tables(looks), thresholds))
            self._each(reject_duplicates, first)
        if thresholds.semantic_duplicate_cosine is not None:
            cosine = thresholds.semantic_duplicate_cosine
            if same := find_semantic_duplicates(self.config, cosine, self.scores, self.rows):
                self._each(reject_same, *same)

    def uncut(self) -> list[Ref]:
        """Tasks for the kept clips whose own video is neither recorded nor in `media/`."""
        self.cuts, _ = pack(cut_journal(self.config))
        missing = self._missing()
        return _filled([light_task(_uncut).remote(self.rows[group], missing[group]) for group in missing])

    def with_media(self) -> None:
        """Fails the kept clips that could not be cut out."""
        self.cuts, _ = pack(cut_journal(self.config))
        for group, missing in self._missing().items():
            self.rows[group] = light_task(with_errors).remote(self.rows[group], missing)

    def with_own_captions(self, captions: Mapping[str, str]) -> None:
        """Takes over captions that people gave their videos: in a table, by path, or beside them."""
        self._each(with_own, self.config, ray.put(captions))

    def with_trigger(self, word: str) -> None:
        """Puts a word in front of every caption."""
        self._each(with_trigger, word)

    def uncaptioned(self) -> list[Ref]:
        """The kept clips without a caption by the configured model, in tables of one row or more."""
        self.captions, _ = pack(caption_journal(self.config))
        retry = self.config.retry_failed
        return _filled(
            [
                light_task(_uncaptioned).remote(self.config, self.captions.get(group, Files()), retry, rows)
                for group, rows in self.rows.items()
            ]
        )

    def with_captions(self) -> None:
        """Takes over the model's captions, and fails the clips that it could not caption."""
        self.captions, _ = pack(caption_journal(self.config))
        for group, files in self.captions.items():
            if group in self.rows:
                self.rows[group] = light_task(_captioned).remote(self.config, files, self.rows[group])

    def write(self) -> Counter[str]:
        """Writes both tables and makes them the newest version; returns how many clips have each status."""
        counts = Counter[str]()
        for statuses in self._get(_statuses):
            counts.update(statuses)
        division = divide(Folder(self.config.output), counts.total(), counts[KEPT])
        units: dict[str, list[str]] = {}
        for group in sorted(self.rows):
            units.setdefault(group[: division.unit], []).append(group)
        schema, shared = table_schema(self.config), ray.put(division)
        tables: dict[str, dict[str, int]] = {"clips": {}, "media": {}}
        tasks = [
            light_task(write_files).remote(
                self.config,
                schema,
                shared,
                {group: self.scores[group] for group in unit if group in self.scores},
                {group: self.cuts[group] for group in unit if group in self.cuts},
                self.media,
                *(self.rows[group] for group in unit),
            )
            for unit in units.values()
        ]
        for written in ray.get(tasks):
            for table, names in written.items():
                tables[table] |= names
        versions.publish(Folder(self.config.output), tables)
        # What was cut is in media/ now, or not kept.
        Folder(self.config.output, "work").delete_folder(cut_journal(self.config).kind)
        return counts

    def _each(self, step: Callable[..., pa.Table], *arguments: Any) -> None:
        """Puts what a step makes of each group's rows in their place."""
        self.rows = {group: light_task(step).remote(rows, *arguments) for group, rows in self.rows.items()}

    def _get(self, question: Callable[[pa.Table], Any]) -> list[Any]:
        """What a question about a group's rows is answered with, for each group."""
        answers: list[Any] = ray.get([light_task(question).remote(rows) for rows in self.rows.values()])
        return answers

    def _missing(self) -> dict[str, Ref]:
        return {
            group: light_task(_without_media).remote(
                self.config, group, self.cuts.get(group, Files()), self.media, rows
            )
            for group, rows in self.rows.items()
        }


def pack(journal: Journal) -> tuple[dict[str, Files], set[str]]:
    """Packs a journal's loose records; returns its files by group, and the groups that were changed."""
    files = journal.files()
    changed = [group for group in files if files[group].loose]
    packed = ray.get([light_task(_pack).remote(journal, group, files[group]) for group in changed])
    return files | dict(zip(changed, packed, strict=True)), set(changed)


def count(tables: list[Ref]) -> int:
    """How many rows these tables have."""
    return sum(sizes(tables))


def _pack(journal: Journal, group: str, files: Files) -> Files:
    return journal.pack(group, files)


def _filled(tables: list[Ref]) -> list[Ref]:
    return [table for table, size in zip(tables, sizes(tables), strict=True) if size]


def _seen(rows: pa.Table) -> tuple[pa.Array, pa.Array]:
    """The keys of the files that have a plan, and of those whose plan failed."""
    return pc.unique(rows["key"]), pc.unique(failed_plans(rows))


def _owned(rows: pa.Table) -> list[tuple[str, str]]:
    """Videos that have a plan, each with the key of one of its files."""
    planned = rows.filter(pc.invert(pc.is_in(rows["key"], failed_plans(rows).combine_chunks())))
    return [*zip(*(planned[name].to_pylist() for name in ("video_id", "key")), strict=True)]


def _looks(rows: pa.Table) -> pa.Table:
    return kept(rows).select(LOOKS)


def _together(*tables: pa.Table) -> pa.Table:
    return pa.concat_tables(tables)


def _statuses(rows: pa.Table) -> dict[str, int]:
    return {found["values"]: found["counts"] for found in pc.value_counts(rows["status"]).to_pylist()}


def _without_media(
    config: CurateConfig, group: str, files: Files, media: list[str], rows: pa.Table
) -> pa.Table:
    return MediaReader(config, {group: files}, media).missing(group, kept(rows))


def _uncropped(
    rows: pa.Table, thresholds: Thresholds, retry_failed: bool, most_clips: int | None
) -> pa.Table:
    left = []
    for row in judge(rows, thresholds).select(["clip_id", "reasons", "cropped_from", "crops"]).to_pylist():
        again = retry_failed and any(said.startswith(FAILED_CROPS) for said in row["crops"] or [])
        if row["cropped_from"] is None and (row["crops"] is None or again) and worth_cropping(row["reasons"]):
            left.append(row["clip_id"])
    return tasks(rows.filter(pc.is_in(rows["clip_id"], pa.array(left, pa.string()))), most_clips)


def _uncut(rows: pa.Table, missing: pa.Table) -> pa.Table:
    return tasks(rows.filter(pc.is_in(rows["clip_id"], missing["clip_id"].combine_chunks())), None)


def _uncaptioned(config: CurateConfig, files: Files, retry_failed: bool, rows: pa.Table) -> pa.Table:
    there = caption_journal(config).rows(files, ["clip_id", "error_stage"])
    if retry_failed:
        there = there.filter(pc.is_null(there["error_stage"]))
    asked = kept(rows).filter(pc.invert(is_own(kept(rows))))
    clips = asked.select(["clip_id", "video_id", "path", "start", "stop", "rate"])
    return clips.filter(pc.invert(pc.is_in(clips["clip_id"], there["clip_id"].combine_chunks())))


def _captioned(config: CurateConfig, files: Files, rows: pa.Table) -> pa.Table:
    captions = caption_journal(config).rows(files, CAPTIONED.names).select(CAPTIONED.names)
    own = rows.filter(is_own(rows))["clip_id"].combine_chunks()
    return with_captions(rows, captions.filter(pc.invert(pc.is_in(captions["clip_id"], own))))
