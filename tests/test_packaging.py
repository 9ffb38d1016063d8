"""What a user installs: the wheel holds the library alone, and its own dependencies are enough to make a video."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from testkit import ROOT

pytestmark = pytest.mark.slow

RUN = "import sys; sys.path += sys.argv.pop(1).split(':'); import posegen.cli; posegen.cli.main()"
"""Runs posegen's command line; argv[1] is where Python finds packages."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "checkout"
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for name in names:
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
    ]
    subprocess.run([*command, str(tree)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_library_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"posegen"}
    assert "posegen/mini/model/transformer/diffusion_pytorch_model.safetensors" in names


def closure(name: str, extras: frozenset[str] = frozenset(), found: set[str] | None = None) -> set[str]:
    """Names of the distributions that installing one brings, itself among them."""
    found = set() if found is None else found
    found.add(canonicalize_name(name))
    try:
        requirements = distribution(name).requires or []
    except PackageNotFoundError:  # needed on other systems only
        return found
    for requirement in map(Requirement, requirements):
        environments = [{"extra": extra} for extra in extras or {""}]
        if requirement.marker and not any(map(requirement.marker.evaluate, environments)):
            continue
        if canonicalize_name(requirement.name) not in found:
            closure(requirement.name, frozenset(requirement.extras), found)
    return found


def test_the_library_alone_makes_a_video(wheel: Path, tmp_path: Path) -> None:
    """The wheel is unpacked beside links to what its own dependencies bring, and Python sees nothing else."""
    place = tmp_path / "packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    for name in closure("posegen") - {"posegen"}:
        with suppress(PackageNotFoundError):
            files = distribution(name).files or []
            for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
                target = Path(str(distribution(name).locate_file(top)))
                if not (place / top).exists():
                    (place / top).symlink_to(target)
    assert not {"ray", "deepspeed", "fastapi", "sqlalchemy", "pipeline"} & {
        path.name for path in place.iterdir()
    }
    samples = ROOT / "serving/page/samples"
    output = tmp_path / "out.mp4"
    command = [sys.executable, "-I", "-S", "-c", RUN, str(place), "generate"]
    arguments = [
        "--image",
        str(samples / "person.jpg"),
        "--video",
        str(samples / "dance.mp4"),
        "--output",
        str(output),
    ]
    done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert output.stat().st_size > 1000
