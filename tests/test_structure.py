"""Imports point one way: posegen knows no room and no Ray, rooms do not know each other, and none knows the tests.

mini_model/ stands on training/: it trains the bundled model by the same code as any other. Inside posegen and inside
the rooms no two folders import each other.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit import ROOT

ROOMS = {"pipeline", "training", "serving", "cluster"}
ABOVE = {"benchmarks", "mini_model", "testkit", "tests"}
FORBIDDEN = {
    "posegen": {"ray", *ROOMS, *ABOVE},
    **{room: (ROOMS - {room}) | ABOVE for room in sorted(ROOMS)},
    "mini_model": (ROOMS - {"training"}) | ABOVE - {"mini_model"},
}
LAYERED = ("posegen", "pipeline", "training", "serving")


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, at any depth of its code, such as `posegen.model.transformer`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def folder_of(module: str) -> str:
    """The part of a room that a module is in: a folder's name, or that of a file beside the folders."""
    return [*module.split("."), ""][1]


def arrows(room: str) -> dict[str, set[str]]:
    """For each folder or file of a room the others that it imports."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / room).rglob("*.py")):
        here = folder_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        there = {folder_of(name) for name in imported(path) if name.split(".")[0] == room}
        found.setdefault(here, set()).update(there - {here})
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_one_way(room: str) -> None:
    for path in sorted((ROOT / room).rglob("*.py")):
        wrong = FORBIDDEN[room].intersection(name.split(".")[0] for name in imported(path))
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("room", LAYERED)
def test_folders_of_a_room_import_in_no_circle(room: str) -> None:
    left = arrows(room)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these of {room}/ import each other in a circle: {left}"


@pytest.mark.parametrize("room", ["pipeline", "training", "serving"])
def test_a_package_names_its_files(room: str) -> None:
    for path in sorted((ROOT / room).rglob("__init__.py")):
        named = set(re.findall(r"`(\w+\.py)`", ast.get_docstring(ast.parse(path.read_text())) or ""))
        there = {file.name for file in path.parent.glob("*.py")} - {"__init__.py"}
        assert named == there, f"{path.relative_to(ROOT)} names other files than there are"


def test_an_import_the_wrong_way_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("def f():\n    from pipeline.plan import PLAN\n    import ray.data\n")
    assert set(imported(path)) == {"pipeline.plan", "ray.data"}
