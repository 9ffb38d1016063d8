"""What is already done: one small Parquet file for each finished key, in sixteen folders.

A record is written whole or not at all, under a name that follows from its key alone. So a process that is killed
leaves only finished records, and work that is done twice leaves one; a rerun needs to know no more.
"""

from __future__ import annotations

import pyarrow as pa

from posegen.common.storage import Folder


class Journal:
    """Records of one kind below a folder; keys are hexadecimal content ids. Pickles into workers."""

    def __init__(self, folder: Folder, kind: str, schema: pa.Schema):
        self.folder, self.kind, self.schema = folder, kind, schema

    def name(self, key: str) -> str:
        """Where a key's record lies, below the folder."""
        return f"{self.kind}/{key[0]}/{key}.parquet"

    def has(self, key: str) -> bool:
        """Whether the key's record is there."""
        return self.folder.exists(self.name(key))

    def is_open(self, key: str, retry_failed: bool = False) -> bool:
        """Whether the key is still to do: it has no record or, with `retry_failed`, one that says it failed."""
        return not self.has(key) or (retry_failed and is_failed(self.read(key, ["error_stage"])))

    def write(self, key: str, table: pa.Table) -> None:
        """Stores a key's record, a table of the journal's schema, in place of an earlier one."""
        self.folder.write_table(self.name(key), table.cast(self.schema))

    def read(self, key: str, columns: list[str] | None = None) -> pa.Table:
        """A key's record; raises FileNotFoundError where there is none."""
        return self.folder.read_table(self.name(key), columns)


def is_failed(record: pa.Table) -> bool:
    """Whether a record says that its work failed."""
    return bool(record.num_rows) and record["error_stage"][0].is_valid
