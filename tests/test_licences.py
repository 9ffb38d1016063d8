"""The licences of what is installed: permissive, or named in docs/licences.md; nothing under the AGPL."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest

from testkit import ROOT

PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|\bISC\b|\bPSF|Python Software Foundation|Unlicense|HPND|Zlib|CC0|public domain", re.I
)
COPYLEFT = re.compile(r"GPL|General Public|MPL|Mozilla|EUPL|\bEPL|CDDL|NonCommercial|CC-BY-NC", re.I)
COPYLEFT_LIBRARIES = re.compile(r"lib(x264|x265|gmp|gnutls|geos|gfortran|quadmath|mpg123|fftw|readline)[-.]")
"""Shared libraries under the GPL or LGPL that wheels are known to carry, beside FFmpeg itself."""


def required() -> list[str]:
    """Names of all packages that the set-up installs."""
    text = "".join((ROOT / name).read_text() for name in ("requirements.txt", "requirements-torch.txt"))
    return re.findall(r"^([\w.-]+)==", text, re.M)


def named() -> str:
    """The first table of the document: the packages that are not under a permissive licence alone."""
    return (ROOT / "docs/licences.md").read_text().split("## Python packages")[1].split("## Models")[0]


def is_named(package: str) -> bool:
    return re.search(rf"^\|[^|]*\b{re.escape(package)}\b[^|]*\|", named(), re.M | re.I) is not None


def stated(package: Distribution) -> str:
    """What a package's metadata says of its licence."""
    metadata = package.metadata
    expressions, licences = (metadata.get_all(name) or [""] for name in ("License-Expression", "License"))
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License")]
    return expressions[0] or "; ".join(classifiers) or licences[0].split("\n")[0]


def is_allowed(licence: str) -> bool:
    return PERMISSIVE.search(licence) is not None and COPYLEFT.search(licence) is None


@pytest.mark.parametrize("package", required())
def test_a_package_is_permissive_or_named(package: str) -> None:
    licence = stated(distribution(package))
    assert is_allowed(licence) or is_named(package), (
        f"{package} is under {licence!r}: use something else, or name it in docs/licences.md with its reason."
    )


@pytest.mark.parametrize("package", required())
def test_no_package_is_under_the_agpl(package: str) -> None:
    found = distribution(package)
    assert "AGPL" not in stated(found) and "AFFERO" not in stated(found).upper()
    for file in found.files or []:
        if re.search(r"licen[cs]e|copying", file.name, re.I) and Path(str(found.locate_file(file))).is_file():
            opening = Path(str(found.locate_file(file))).read_text(errors="replace")[:400].upper()
            assert "AFFERO" not in opening, f"{package} carries the AGPL in {file}"


@pytest.mark.parametrize("package", required())
def test_copyleft_libraries_inside_wheels_are_named(package: str) -> None:
    files = [file.name for file in distribution(package).files or [] if ".so" in file.name]
    carried = [name for name in files if COPYLEFT_LIBRARIES.match(name) or name.startswith("libavcodec")]
    assert not carried or is_named(package), (
        f"{package} carries {', '.join(carried)}: name it in docs/licences.md."
    )


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("License :: OSI Approved :: Apache Software License", True),
        ("AGPL-3.0", False),
        ("MPL-2.0 AND MIT", False),
        ("", False),
        ("CC-BY-NC-4.0", False),
    ],
)
def test_what_counts_as_permissive(licence: str, allowed: bool) -> None:
    assert is_allowed(licence) is allowed
