"""A record says that its key is done, until it is to be tried again because it failed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.records.journal import Journal
from posegen.common.storage import Folder

SCHEMA = pa.schema([("value", pa.int64()), ("error_stage", pa.string())])
KEY, OTHER = "0a1b2c", "0f1e2d"


def record(value: int = 1, error_stage: str | None = None) -> pa.Table:
    return pa.table([[value], [error_stage]], SCHEMA)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(Folder(str(tmp_path)), "scores", SCHEMA)


def test_a_key_is_open_until_its_record_is_written(journal: Journal):
    assert journal.is_open(KEY) and not journal.has(KEY)
    journal.write(KEY, record())
    assert journal.has(KEY) and not journal.is_open(KEY) and journal.is_open(OTHER)
    assert journal.read(KEY).equals(record())
    assert journal.read(KEY, ["value"]).column_names == ["value"]


def test_writing_twice_leaves_one_record(journal: Journal, tmp_path: Path):
    journal.write(KEY, record(1))
    journal.write(KEY, record(2))
    assert journal.read(KEY)["value"].to_pylist() == [2]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_failed_key_is_open_only_when_it_is_retried_and_asking_deletes_nothing(journal: Journal):
    journal.write(KEY, record(error_stage="read"))
    journal.write(OTHER, record())
    assert not journal.is_open(KEY)
    assert journal.is_open(KEY, retry_failed=True) and journal.has(KEY)
    assert not journal.is_open(OTHER, retry_failed=True) and journal.has(OTHER)


def test_a_record_without_rows_is_done(journal: Journal):
    journal.write(KEY, SCHEMA.empty_table())
    assert not journal.is_open(KEY, retry_failed=True)


def test_a_record_of_another_schema_is_refused(journal: Journal):
    with pytest.raises(ValueError):
        journal.write(KEY, pa.table({"other": [1]}))
    assert journal.is_open(KEY)


def test_a_missing_record_is_not_found(journal: Journal):
    with pytest.raises(FileNotFoundError):
        journal.read(KEY)


def test_kinds_do_not_mix(journal: Journal):
    journal.write(KEY, record())
    assert Journal(journal.folder, "plans", SCHEMA).is_open(KEY)
