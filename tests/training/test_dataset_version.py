"""A training keeps to the version of the dataset that it began with."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from posegen import versions
from posegen.common.storage import Folder
from training.data.tables import Place, Tables


def test_a_training_keeps_to_its_version_when_another_is_written(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))

    def publish(name: str) -> None:
        folder.write_table(name, pa.table({"clip_id": [name]}))
        versions.publish(folder, {"clips": {name: 1}, "media": {}})

    def ids(tables: Tables) -> list[str]:
        return [
            id_ for _, rows, _ in tables.scan("clips", ["clip_id"]) for id_ in rows["clip_id"].to_pylist()
        ]

    publish("clips/a.parquet")
    begun = Tables(str(tmp_path), 1)
    ((file, _, groups),) = begun.scan("clips", ["clip_id"])
    publish("clips/b.parquet")
    assert begun.row(Place(file, int(groups[0])), "clips/a.parquet", ["clip_id"]) == {
        "clip_id": "clips/a.parquet"
    }
    assert ids(begun) == ["clips/a.parquet"]
    assert ids(Tables(str(tmp_path))) == ["clips/b.parquet"]
