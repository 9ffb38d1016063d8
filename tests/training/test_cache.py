"""The cache of encoded clips: within its bound whatever happens, without losing what comes next."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posegen.common.storage import Folder
from training.data.cache import ENDING, FREE, Cache, Keeper

SIZE = 1000
BOUND = 10 * SIZE / (1 - FREE)
"""Ten files fit."""


def needs(*steps: str) -> Callable[[int], list[str]]:
    """Which files each step needs: `ab` needs latents/a and latents/b; nothing after the last."""
    return lambda step: [f"latents/{name}" for name in steps[step]] if step < len(steps) else []


def add(keeper: Keeper, folder: Path, step: int | None, names: str) -> list[bool]:
    """Asks for room for files and writes those that there is room for."""
    answers = []
    for name in names:
        answers.append(keeper.room(step, f"latents/{name}", SIZE))
        if answers[-1]:
            path = folder / f"latents/{name}{ENDING}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(bytes(SIZE))
    return answers


def held(folder: Path) -> str:
    return "".join(sorted(path.name.removesuffix(ENDING) for path in folder.glob(f"latents/*{ENDING}")))


def test_what_was_not_needed_for_longest_leaves_first(tmp_path: Path) -> None:
    keeper = Keeper(str(tmp_path), BOUND, needs(*"abcdefghij", "a", "k", "l"), window=1)
    for step, name in enumerate("abcdefghij"):
        add(keeper, tmp_path, step, name)
    assert held(tmp_path) == "abcdefghij"
    add(keeper, tmp_path, 11, "k")  # step 10 has found `a`, so `b` is the oldest
    assert held(tmp_path) == "acdefghijk"
    add(keeper, tmp_path, 12, "l")
    assert held(tmp_path) == "adefghijkl"


def test_what_the_window_needs_stays_even_if_nothing_new_can_be_kept(tmp_path: Path) -> None:
    keeper = Keeper(str(tmp_path), BOUND, needs("abcde", "fghij", "abcde", "klmno"), window=4)
    assert all(add(keeper, tmp_path, 0, "abcde") + add(keeper, tmp_path, 1, "fghij"))
    assert add(keeper, tmp_path, 3, "k") == [False]
    assert held(tmp_path) == "abcdefghij"


def test_a_resumed_run_moves_the_window_back(tmp_path: Path) -> None:
    keeper = Keeper(str(tmp_path), BOUND, needs("ab", *["c"] * 50, "defghijk", "lmn"), window=1)
    add(keeper, tmp_path, 51, "defghijk")
    add(keeper, tmp_path, 0, "ab")
    assert add(keeper, tmp_path, None, "v") == [True]  # of validation, for no step
    assert set("abv") < set(held(tmp_path)) and len(held(tmp_path)) == 10


def test_files_of_other_trainings_count_and_leave_by_their_time(tmp_path: Path) -> None:
    names = needs("z")
    add(Keeper(str(tmp_path), BOUND, names, window=1), tmp_path, 0, "abcdefghij")
    for age, name in enumerate("abcdefghij"):
        os.utime(tmp_path / f"latents/{name}{ENDING}", (1000 - age, 1000 - age))
    (tmp_path / "latents/other.parquet").write_bytes(bytes(SIZE))  # is no part of it
    other = Keeper(str(tmp_path), BOUND, names, window=1)
    (tmp_path / f"latents/j{ENDING}").unlink()  # another training was faster
    add(other, tmp_path, 0, "z")
    assert held(tmp_path) == "abcdefghiz"
    add(other, tmp_path, 1, "y")
    assert held(tmp_path) == "abcdefghyz"


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abcdefghijklmnopqrst")), max_size=60))
def test_the_bound_holds_for_two_trainings(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, str]]
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    keepers = [Keeper(str(folder), BOUND, needs(*"abcdefghijklmnopqrst" * 2), window=2) for _ in range(2)]
    for number, (step, name) in enumerate(writes):
        add(keepers[number % 2], folder, step, name)
        assert len(held(folder)) * SIZE <= BOUND


def test_a_file_is_read_as_it_was_written_and_its_reading_counts_as_need(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), lambda step, name, size: True)
    arrays = {"latents": np.arange(6, dtype="<f2").reshape(2, 3).T, "tokens": np.array([7], np.int32)}
    assert cache.read("latents/ab/a") is None
    cache.write(3, "latents/ab/a", arrays)
    path = tmp_path / f"latents/ab/a{ENDING}"
    os.utime(path, (1000, 1000))
    read = cache.read("latents/ab/a")
    assert read is not None and read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and np.array_equal(read[name], array)
    assert path.stat().st_mtime > 1000
    Cache(str(tmp_path), lambda step, name, size: False).write(3, "latents/ab/b", arrays)
    assert not path.with_stem("b").exists()


def test_a_cache_in_a_bucket(bucket: str) -> None:
    keeper = Keeper(bucket, 5000, needs("a", "b", "c"), window=1)
    cache = Cache(bucket, keeper.room)
    for step, name in enumerate("abc"):
        cache.write(step, f"latents/{name}", {"x": np.zeros(1800, np.uint8)})
    assert Folder(bucket).names("latents", below=True) == [f"b{ENDING}", f"c{ENDING}"]
    assert Keeper(bucket, 5000, needs(), window=1).room(0, "latents/d", 100)
