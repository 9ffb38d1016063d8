"""A version names whole files, the newest one's lie in the tables' folders, and earlier ones can be read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from posegen import versions
from posegen.common.storage import Folder


@pytest.fixture(params=["disk", "bucket"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    uri = str(tmp_path / "data") if request.param == "disk" else request.getfixturevalue("bucket")
    return Folder(uri)


def publish(dataset: Folder, *names: str) -> versions.Version:
    """A version whose table clips/ has these files, each with its name for content."""
    for name in names:
        dataset.write(f"clips/{name}.parquet", name.encode())
    return versions.publish(dataset, {"clips": {f"clips/{name}.parquet": 1 for name in names}, "media": {}})


def contents(dataset: Folder, number: int | None = None) -> list[str]:
    return [dataset.read(name).decode() for name in versions.files(dataset, "clips", number)]


def test_the_newest_version_is_what_lies_in_the_folder_and_earlier_ones_stay_readable(dataset: Folder):
    assert [publish(dataset, *names).number for names in ("ab", "bc", "c")] == [1, 2, 3]
    assert dataset.names("clips") == ["c.parquet"]
    assert contents(dataset) == ["c"]
    assert [contents(dataset, number) for number in (1, 2, 3)] == [["a", "b"], ["b", "c"], ["c"]]


def test_the_same_tables_are_no_new_version(dataset: Folder):
    assert publish(dataset, "a").number == publish(dataset, "a").number == 1
    assert versions.numbers(dataset) == [1]


def test_what_a_killed_run_left_is_deleted(dataset: Folder):
    publish(dataset, "a")
    dataset.write("clips/left.parquet", b"")
    assert contents(dataset) == ["a"]
    publish(dataset, "a")
    assert dataset.names("clips") == ["a.parquet"] and dataset.names("superseded/clips") == []


def test_a_version_that_is_not_kept_is_said_to_be_gone(dataset: Folder):
    publish(dataset, "a")
    publish(dataset, "b")
    dataset.delete_folder("superseded")
    with pytest.raises(versions.VersionError, match="no longer kept; read the newest version"):
        versions.files(dataset, "clips", 1)
    with pytest.raises(versions.VersionError, match="has no version 7; it has 1, 2"):
        versions.files(dataset, "clips", 7)


def test_tables_without_versions_are_all_that_lies_there(dataset: Folder):
    dataset.write("clips/part.parquet", b"part")
    dataset.write("clips/notes.txt", b"")
    assert contents(dataset) == ["part"] and versions.load(dataset) is None
