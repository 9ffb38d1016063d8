"""Versions of a dataset: which files its tables `clips/` and `media/` are made of, then and now.

A version is a small JSON file below `versions/`, which appears whole, after the files that it names. So a reader that
follows it sees one state of both tables, whatever is being written beside them. Files that the newest version no longer
names are moved to `superseded/`; as long as that folder is kept, each earlier version can be read again by its number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from posegen.common.storage import Folder

TABLES = ("clips", "media")
VERSIONS, SUPERSEDED = "versions", "superseded"


class VersionError(LookupError):
    """A dataset has no such version; the message says which it has."""


@dataclass(frozen=True)
class Version:
    """Names of files below the dataset's folder and how many rows each has, by table."""

    number: int
    tables: Mapping[str, Mapping[str, int]]


def numbers(dataset: Folder) -> list[int]:
    """The numbers of a dataset's versions, ascending; none where its tables were written without."""
    names = dataset.names(VERSIONS)
    return [int(name.removesuffix(".json")) for name in names if name.endswith(".json")]


def load(dataset: Folder, number: int | None = None) -> Version | None:
    """A version, by default the newest; None where the tables were written without. Raises VersionError."""
    known = numbers(dataset)
    if number is None:
        number = max(known, default=None)
        if number is None:
            return None
    elif number not in known:
        raise VersionError(
            f"the dataset has no version {number}; it has {', '.join(map(str, known)) or 'none'}"
        )
    return Version(number, json.loads(dataset.read(_name(number)))["tables"])


def files(dataset: Folder, table: str, number: int | None = None) -> list[str]:
    """The Parquet files of a table in a version, by default the newest, as names below the dataset's folder.

    Where the tables were written without versions, all that lie in the table's folder. Raises VersionError where the
    version's files are no longer kept.
    """
    version = load(dataset, number)
    if version is None:
        return [f"{table}/{name}" for name in dataset.names(table) if name.endswith(".parquet")]
    named = sorted(version.tables.get(table, {}))
    if number is None or not named:
        return named
    there = {f"{table}/{name}" for name in dataset.names(table)}
    moved = {f"{SUPERSEDED}/{table}/{name}" for name in dataset.names(f"{SUPERSEDED}/{table}")}
    found = [name if name in there else f"{SUPERSEDED}/{name}" for name in named]
    if gone := [name for name in found if name not in there | moved]:
        raise VersionError(
            f"{len(gone):,} files of version {number}, such as {gone[0]}, are no longer kept; read the newest version"
        )
    return found


def publish(dataset: Folder, tables: Mapping[str, Mapping[str, int]]) -> Version:
    """Makes these files, which lie there whole, the newest version, and puts away those of earlier ones.

    Nothing is written where the newest version is the same.
    """
    newest = load(dataset)
    if newest is None or newest.tables != tables:
        newest = Version(newest.number + 1 if newest else 1, tables)
        content = json.dumps({"version": newest.number, "tables": tables}, indent=1)
        dataset.write(_name(newest.number), content.encode())
    _put_away(dataset, newest)
    return newest


def _put_away(dataset: Folder, newest: Version) -> None:
    """Moves files that only earlier versions name, and deletes those that none does: a killed run left them."""
    for table in TABLES:
        there = {f"{table}/{name}" for name in dataset.names(table)}
        others = sorted(there - set(newest.tables.get(table, ())))
        if not others:
            continue
        earlier = [load(dataset, number) for number in numbers(dataset)[:-1]]
        known = {name for version in earlier if version for name in version.tables.get(table, ())}
        for name in others:
            if name in known:
                dataset.move(name, f"{SUPERSEDED}/{name}")
            else:
                dataset.delete(name)


def _name(number: int) -> str:
    return f"{VERSIONS}/{number:06}.json"
