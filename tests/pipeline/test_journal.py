"""A record says that its key is done; packing joins records and loses none, whenever it is killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.records.journal import Files, Journal, latest
from posegen.common.storage import Folder
from testkit import ROOT

SCHEMA = pa.schema([("value", pa.int64()), ("error_stage", pa.string())])
VIDEO, KEY, OTHER = "0a77", "0a1b2c", "0f1e2d"


def record(value: int = 1, error_stage: str | None = None) -> pa.Table:
    return pa.table([[value], [error_stage]], SCHEMA)


def make(folder: Path, kind: str = "scores") -> Journal:
    return Journal(Folder(str(folder)), kind, SCHEMA, packed_rows=4)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return make(tmp_path)


def pack(journal: Journal) -> None:
    for group, files in journal.files().items():
        journal.pack(group, files)


def values(journal: Journal, group: str = VIDEO[:2]) -> dict[str, int]:
    rows = journal.rows(journal.files().get(group, Files()), ["value"])
    assert len(set(rows["key"].to_pylist())) == rows.num_rows
    return dict(zip(rows["key"].to_pylist(), rows["value"].to_pylist(), strict=True))


def test_a_key_is_done_once_its_record_is_written(journal: Journal):
    assert not journal.has(VIDEO, KEY)
    journal.write(VIDEO, KEY, record())
    assert journal.has(VIDEO, KEY) and not journal.has(VIDEO, OTHER)
    assert journal.read(VIDEO, KEY).equals(record())
    assert journal.read(VIDEO, KEY, ["value"]).column_names == ["value"]


def test_writing_twice_leaves_one_record(journal: Journal, tmp_path: Path):
    journal.write(VIDEO, KEY, record(1))
    journal.write(VIDEO, KEY, record(2))
    assert journal.read(VIDEO, KEY)["value"].to_pylist() == [2]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_record_of_another_schema_or_without_a_row_is_refused(journal: Journal):
    with pytest.raises(ValueError):
        journal.write(VIDEO, KEY, pa.table({"other": [1]}))
    with pytest.raises(ValueError, match="has no row"):
        journal.write(VIDEO, KEY, SCHEMA.empty_table())
    assert not journal.has(VIDEO, KEY)


def test_a_missing_record_is_not_found(journal: Journal):
    with pytest.raises(FileNotFoundError):
        journal.read(VIDEO, KEY)


def test_kinds_do_not_mix(journal: Journal, tmp_path: Path):
    journal.write(VIDEO, KEY, record())
    assert not make(tmp_path, "plans").has(VIDEO, KEY) and not make(tmp_path, "plans").files()


def test_packing_joins_what_is_loose_and_the_latest_record_counts(journal: Journal):
    for number in range(6):
        journal.write(VIDEO, f"{number}", record(number))
    journal.write("ff00", "far", record(9))
    pack(journal)
    assert {group: len(files.packed) for group, files in journal.files().items()} == {"0a": 2, "ff": 1}
    assert values(journal) == {f"{number}": number for number in range(6)}
    journal.write(VIDEO, "3", record(33))
    pack(journal)
    assert values(journal)["3"] == 33 and len(values(journal)) == 6
    assert values(journal, "ff") == {"far": 9}
    assert not any(files.loose for files in journal.files().values())


def test_files_stay_few_when_a_little_is_added_each_time(journal: Journal):
    for number in range(40):
        journal.write(VIDEO, f"{number}", record(number))
        pack(journal)
    assert len(values(journal)) == 40
    assert len(journal.files()["0a"].packed) <= 20


def test_records_of_some_videos_are_read_alone(journal: Journal):
    for number in range(9):
        journal.write(f"0a{number}", f"{number}", record(number))
    pack(journal)
    rows = journal.rows(journal.files()["0a"], ["value"], ("0a3", "0a5"))
    assert sorted(rows["value"].to_pylist()) == [3, 4]


def test_only_files_that_may_hold_the_videos_are_opened(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    for number in range(16):
        journal.write(f"0a{number:x}", f"{number}", record(number))
    pack(journal)
    files, opened, real = journal.files()["0a"], list[str](), Folder.open
    assert len(files.packed) == 4

    def open_and_note(folder: Folder, name: str) -> pa.NativeFile:
        opened.append(name)
        return real(folder, name)

    monkeypatch.setattr(Folder, "open", open_and_note)
    assert journal.rows(files, ["value"], ("0a5", "0a6"))["value"].to_pylist() == [5]
    assert opened == [files.packed[1]]
    assert not journal.rows(files, ["value"], ("0b", "0c")).num_rows and len(opened) == 1


def test_packed_files_of_an_earlier_version_are_read(journal: Journal, tmp_path: Path):
    """Their names end with the number of rows."""
    journal.write(VIDEO, KEY, record(7))
    pack(journal)
    (packed,) = journal.files()[VIDEO[:2]].packed
    path = tmp_path / packed
    path.rename(path.with_name("-".join(path.name.split("-")[:2]) + ".parquet"))
    (files,) = journal.files().values()
    assert journal.rows(files, ["value"], (VIDEO, VIDEO + "0"))["value"].to_pylist() == [7]
    journal.write(VIDEO, OTHER, record(8))
    pack(journal)
    assert values(journal) == {KEY: 7, OTHER: 8}


def test_a_record_of_several_rows_stays_whole(journal: Journal):
    rows = pa.concat_tables([record(1), record(2)])
    journal.write(VIDEO, KEY, rows)
    pack(journal)
    found = journal.rows(journal.files()["0a"], ["value"])
    assert found["value"].to_pylist() == [1, 2] and set(found["key"].to_pylist()) == {KEY}


def test_the_later_of_two_tables_counts():
    first, second = (
        pa.table({"key": keys, "value": values}) for keys, values in ((["a", "b"], [1, 1]), (["b"], [2]))
    )
    assert latest([first, second]).to_pylist() == [{"key": "a", "value": 1}, {"key": "b", "value": 2}]


PACK_UNTIL_KILLED = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.pipeline.test_journal import make, pack
from posegen.common.storage import Folder
left = int(sys.argv[2])

def mortal(change):
    def changed(*arguments, **more):
        global left
        if left == 0:
            os._exit(9)  # as a kill: nothing is closed or cleaned up
        left -= 1
        return change(*arguments, **more)
    return changed

Folder.write_table, Folder.delete = mortal(Folder.write_table), mortal(Folder.delete)
pack(make(Path(sys.argv[1])))
"""


def test_a_kill_at_any_place_of_packing_loses_nothing(journal: Journal, tmp_path: Path):
    for number in range(3):
        journal.write(VIDEO, f"{number}", record(number))
    pack(journal)
    for number in range(2, 6):
        journal.write(VIDEO, f"{number}", record(10 * number))
    before, whole = tmp_path / "scores", {"0": 0, "1": 1, "2": 20, "3": 30, "4": 40, "5": 50}
    code = PACK_UNTIL_KILLED.format(root=str(ROOT))
    ended = 9
    for changes in range(30):
        folder = tmp_path / f"killed after {changes}"
        shutil.copytree(before, folder / "scores")
        ended = subprocess.run(
            [sys.executable, "-c", code, str(folder), str(changes)], env=os.environ, timeout=60
        ).returncode
        survivor = make(folder)
        pack(survivor)
        assert values(survivor) == whole
        if ended == 0:
            break
    assert ended == 0 and changes > 4
