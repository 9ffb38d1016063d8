"""The house stands on its library: posegen imports no Ray and no room, and rooms do not import each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("pipeline", "training", "serving", "cluster")
FORBIDDEN = {"posegen": {"ray", *ROOMS}} | {room: {*ROOMS} - {room} for room in ROOMS}


def imported(path: Path) -> Iterator[str]:
    """Top-level names that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_one_way(room: str) -> None:
    for path in sorted((ROOT / room).rglob("*.py")):
        wrong = FORBIDDEN[room].intersection(imported(path))
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_an_import_the_wrong_way_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("def f():\n    from pipeline.plan import PLAN\n    import ray.data\n")
    assert set(imported(path)) == {"pipeline", "ray"}
