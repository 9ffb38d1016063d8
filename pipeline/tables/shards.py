"""How a table is divided into files: by the first digits of the ids of the videos that its clips come from.

So a few new videos touch a few files, and which file a clip is in depends on no other clip. A file's name says which
ids it holds and, by a hash, which content: a file that is there under its name need not be written.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

ALL = "all"
"""Stands for the empty prefix in a name."""


def digits(rows: int, most: int, before: int | None) -> int:
    """How many digits divide so many rows into files of at most `most` on average.

    before: how many divided the table until now; they stay as long as files are neither over twice as large nor
    needlessly small, since other digits mean that every file is written anew.
    """
    needed = 0
    while rows > most * 16**needed:
        needed += 1
    if before is not None and rows <= 2 * most * 16**before and before <= needed + 1:
        return before
    return needed


def shard_name(table: str, prefix: str, content: str) -> str:
    """The name of a table's file of the ids that begin so; content: the content's hash."""
    return f"{table}/{prefix or ALL}-{content[:12]}.parquet"


def prefix_of(name: str) -> str:
    """With what the ids in a file begin."""
    prefix = name.split("/")[-1].split("-")[0]
    return "" if prefix == ALL else prefix


def digits_of(names: Iterable[str]) -> int | None:
    """How many digits divide a table into these files; None where there are none."""
    return next((len(prefix_of(name)) for name in names), None)


def overlapping(names: Sequence[str], prefix: str) -> Sequence[str]:
    """Those of a table's files that may hold ids that begin so; names: of one version, sorted."""
    first, after = prefix_range(prefix[: digits_of(names)])
    return names[bisect_left(names, first, key=prefix_of) : bisect_left(names, after, key=prefix_of)]


def prefix_range(prefix: str) -> tuple[str, str]:
    """The first id that begins so, and one above all that do; ids are hexadecimal."""
    return prefix, f"{prefix}g"
