"""What clients send: limited while it comes in, inspected in another process, then kept under the job's id.

Files lie in a folder of their own until they are known to be sound; names that clients give are never used. All
decoding happens in processes of `serving.uploads.inspection`, as many as there are uploads at once, without the
server's secrets.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import UploadFile

from serving.state.artifacts import Artifacts
from serving.uploads.inspection import UploadLimits
from serving.uploads.scratch import scratch_folder

ENVIRONMENT = (
    "PATH",
    "LD_LIBRARY_PATH",
    "LANG",
)  # of the environment, inspecting processes are given only these
DIED = "it takes too much time or memory to read, or is damaged; export it again."
STORED = {
    "input_reference": "input_reference",
    "driving_video": "driving_video",
    "poses": "poses.safetensors",
    "mask": "mask",
    "hands": "hands",
}
"""The file in the job's folder that each upload becomes; poses are "keypoints" (T, 133, 3) float32 there."""

log = logging.getLogger(__name__)
_idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
"""Inspecting processes that are waiting; they end with this one, by the end of their input."""


def upload_artifact(job_id: str, parameter: str) -> str:
    """The name of an upload's file."""
    return f"{job_id}/{STORED[parameter]}"


class UploadError(ValueError):
    """A file is refused; the message is a sentence that names its parameter."""

    def __init__(self, parameter: str, why: str) -> None:
        super().__init__(f"{parameter}: {why}")
        self.parameter = parameter


class Uploads:
    """Takes the files of new jobs."""

    def __init__(self, limits: UploadLimits, artifacts: Artifacts) -> None:
        """limits: of each file."""
        self._limits, self._artifacts = limits, artifacts

    def keep(self, job_id: str, sent: Mapping[str, UploadFile | str]) -> dict[str, dict[str, Any]]:
        """Stores a new job's files; returns what each holds and its SHA-256, by parameter.

        Raises UploadError for the first that cannot be taken.
        """
        self._artifacts.mark()
        with scratch_folder() as scratch:
            paths = {name: scratch / name for name in sent}
            hashes = {name: _save(upload, name, paths[name]) for name, upload in sent.items()}
            found = inspect(paths, self._limits)
            for name in sent:
                self._artifacts.save(upload_artifact(job_id, name), scratch / STORED[name])
        return {name: {"sha256": hashes[name], **found[name]} for name in sent}


def _save(upload: UploadFile | str, name: str, path: Path) -> str:
    """Writes an upload to a file; returns its SHA-256 in hexadecimal digits."""
    with path.open("wb") as file:
        if isinstance(upload, str):
            file.write(_from_text(upload, name))
        else:
            shutil.copyfileobj(upload.file, file, 1 << 20)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_text(text: str, name: str) -> bytes:
    """The bytes of a data URL (RFC 2397, base64), also in OpenAI's object, or poses in JSON as they are."""
    if name == "poses" and not text.startswith("data:"):
        return text.encode()
    try:
        if text.startswith("{"):
            text = str(json.loads(text).get("image_url"))
        head, _, body = text.partition(",")
        if not (head.startswith("data:") and head.endswith(";base64")):
            raise ValueError
        return base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error):
        raise UploadError(name, "send a file, or a data URL (data:TYPE;base64,..).") from None


def inspect(paths: Mapping[str, Path], limits: UploadLimits) -> dict[str, dict[str, Any]]:
    """What each file holds, by parameter; UploadError for the first that is unsound."""
    found = dict(zip(paths, _ask(paths, limits), strict=False))
    for name in paths:
        if error := found.get(name, {"error": DIED}).get("error"):
            raise UploadError(name, error)
    return found


def _ask(paths: Mapping[str, Path], limits: UploadLimits) -> list[dict[str, Any]]:
    """What was found in the files, one after another, up to the first that killed the inspector."""
    process = _inspector()
    assert process.stdin and process.stdout  # pipes
    request = {"limits": asdict(limits), "files": {name: str(path) for name, path in paths.items()}}
    print(json.dumps(request), file=process.stdin, flush=True)
    answers: list[dict[str, Any]] = []
    for line in process.stdout:
        answer = json.loads(line)
        if "ended" in answer:
            _idle.put(process)
            if answer["ended"]:
                log.warning("the inspection of %s ended with status %d", list(paths), answer["ended"])
            return answers
        answers.append(answer)
    raise RuntimeError(f"the inspection of uploads has stopped with {process.wait()}")


def _inspector() -> subprocess.Popen[str]:
    """An idle process that has not been killed meanwhile, or a new one."""
    while True:
        try:
            process = _idle.get_nowait()
        except queue.Empty:
            return _start()
        if process.poll() is None:
            return process


def _start() -> subprocess.Popen[str]:
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "serving.uploads.inspection"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
