"""Uploads -> poses and a plan: the work of the role `prepare`.

Uploads are decoded in a child process (`serving.work.preparation`). It is killed when the job is cancelled or takes too
long, and ends with its worker; if it dies by itself, the upload is to blame. What cannot be prepared is not tried
again: the client is told why, in a sentence. The plan is made without loading the model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.numpy import load

from posegen.common.weights import WeightsError
from posegen.driving.framing import framing_of
from posegen.longvideo.segments import plan
from posegen.sharing import SharedRange
from serving.model_info import ModelInfo
from serving.state.artifacts import Artifacts, frames_artifact, sound_artifact
from serving.state.rows import Claim, JobPlan
from serving.uploads.inspection import UploadLimits
from serving.uploads.scratch import scratch_folder
from serving.uploads.uploads import ENVIRONMENT, upload_artifact
from serving.work.loop import Beat, Refused
from serving.work.preparation import IN_STEP, PREPARED, SOUND, Networks, Preparation

FETCHING = re.compile(
    "HOME|POSEGEN_CACHE|XDG_CONFIG_HOME|PIP_.*|SSL_CERT_.*|(REQUESTS|CURL)_CA_BUNDLE|(?i:(https?|all|no)_proxy)"
    "|HF_(HOME|HUB_CACHE|HUB_OFFLINE|ENDPOINT)|CUDA_.*|NVIDIA_.*"
)
"""Variables by which the pose estimator finds or fetches its weights, and its GPU: caches, pip's settings, proxies."""
TAIL = 200  # bytes of a child's output, which hold its last line but one
BLAZEPOSE = Networks()
UNREADY = (
    "The process that reads uploads died while it loaded its networks; see the lines before, and whether prepare_bytes "
    "is enough."
)
DIED = "The uploads take too much time or memory to read, or are damaged; send a shorter video, or export it again."

log = logging.getLogger(__name__)


class Prepare:
    """The work of the role `prepare`. limits: of the child process, which has the networks."""

    def __init__(
        self,
        artifacts: Artifacts,
        model: ModelInfo,
        limits: UploadLimits,
        networks: Networks = BLAZEPOSE,
        poll: float = 0.5,
    ) -> None:
        self._artifacts, self._model = artifacts, model
        self._limits, self._networks, self._poll = limits, networks, poll

    def check(self) -> None:
        """Has a child process load its networks, so that they are fetched, and no job waits for them or fails.

        Raises WeightsError, a sentence, where it cannot, and ValueError for networks of hands that the model has no use
        for.
        """
        if self._networks.hand_normals and self._model.transformer["hand_channels"] is None:
            raise ValueError(
                f"{self._model.name} takes no hands: leave hand_normals and hand_segmentation out."
            )
        found = self._run(None, lambda read: None)
        if "frames" not in found:
            raise WeightsError(found.get("fault", UNREADY))

    def __call__(self, claim: Claim, beat: Beat) -> JobPlan:
        """Does a claimed task; see `serving.work.loop.Work`."""
        name = claim.task.artifact
        if not self._artifacts.exists(name):  # another worker may have died before it could commit
            self._prepare(claim, beat)
        try:
            return job_plan(claim.job.request, self._artifacts.read(name), self._model)
        except ValueError as error:  # the length that decides is known only now
            raise Refused(f"{str(error)[0].upper()}{str(error)[1:]}.") from error

    def _prepare(self, claim: Claim, beat: Beat) -> None:
        with ExitStack() as stack:
            folder = stack.enter_context(scratch_folder())
            paths = {
                parameter: str(
                    stack.enter_context(self._artifacts.local_copy(upload_artifact(claim.job.id, parameter)))
                )
                for parameter in claim.job.request["uploads"]
            }
            wanted = _preparation(claim.job.request, paths, self._model.rate, folder)
            movement = claim.job.request["uploads"].get("driving_video", {"seconds": 0.0})
            frames = round(movement["seconds"] * self._model.rate)
            found = self._run(wanted, partial(_count, beat, frames))
            if error := found.get("error"):
                raise Refused(error)
            if fault := found.get("fault"):
                raise OSError(fault)
            beat(0, 0)  # a worker that was replaced must not write over the result
            if (folder / SOUND).exists():
                self._artifacts.save(sound_artifact(claim.job.id), folder / SOUND)
            for name in IN_STEP:
                if (frames := folder / f"{name}.safetensors").exists():
                    self._artifacts.save(frames_artifact(claim.job.id, name), frames)
            self._artifacts.save(claim.task.artifact, folder / PREPARED)

    def _run(self, wanted: Preparation | None, counted: Callable[[int], None]) -> dict[str, Any]:
        """What the child process says, or that it died. counted: told again and again how many frames are read."""
        given = json.dumps(
            {
                "limits": asdict(self._limits),
                "networks": asdict(self._networks),
                "wanted": None if wanted is None else asdict(wanted),
            }
        )
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaints:
            child = subprocess.Popen(
                [sys.executable, "-m", "serving.work.preparation"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=complaints,
                env=child_environment(os.environ),
            )
            try:
                assert child.stdin is not None  # a pipe, which stays open as long as this process lives
                with suppress(BrokenPipeError):
                    child.stdin.write(f"{given}\n".encode())
                    child.stdin.flush()
                self._wait(child, lambda: counted(_frames_read(output.fileno())))
            finally:
                child.kill()
                child.communicate()
            output.seek(0)
            complaints.seek(0)
            lines = output.read().splitlines()
            if child.returncode or not lines:
                log.warning(
                    "a preparation ended with %s: %s", child.returncode, complaints.read()[-2000:].decode()
                )
                return {"error": DIED}
            return json.loads(lines[-1])

    def _wait(self, child: subprocess.Popen[bytes], beat: Callable[[], None]) -> None:
        deadline = time.monotonic() + self._limits.time
        while child.poll() is None and time.monotonic() < deadline:
            beat()
            try:
                child.wait(self._poll)
            except subprocess.TimeoutExpired:
                continue


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What the child is given of the environment: how to fetch weights, and none of the server's secrets."""
    kept = {
        name: value for name, value in environment.items() if name in ENVIRONMENT or FETCHING.fullmatch(name)
    }
    return kept | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def _count(beat: Beat, frames: int, read: int) -> None:
    """Tells how much of the movement is read; the picture is read after it by the same estimator."""
    beat(min(read, frames), frames)


def _frames_read(output: int) -> int:
    """How many frames the child has told by the end of its output, whose place in the file stays as it is."""
    told = os.pread(output, TAIL, max(0, os.fstat(output).st_size - TAIL))
    counts = re.findall(rb'{"read": (\d+)}\n', told)
    return int(counts[-1]) if counts else 0


def _preparation(request: dict[str, Any], paths: dict[str, str], rate: float, folder: Path) -> Preparation:
    size = _size(request["size"])
    return Preparation(
        picture=paths["input_reference"],
        driving_video=paths.get("driving_video"),
        poses=paths.get("poses"),
        mask=paths.get("mask"),
        hands=paths.get("hands"),
        poses_size=_size(request["poses_size"]) if request["poses_size"] else size,
        size=size,
        rate=rate,
        seconds=request["seconds"],
        fit=request["fit"],
        align=request["align"],
        folder=str(folder),
    )


def _size(text: str) -> tuple[int, int]:
    width, height = map(int, text.split("x"))
    return width, height


def job_plan(request: dict[str, Any], prepared: bytes, model: ModelInfo) -> JobPlan:
    """The plan of a job, from what was asked for and its prepared uploads; ValueError where there is no such anchor."""
    found, size = load(prepared), _size(request["size"])
    keypoints = found["keypoints"]
    sizes = model.segment_frames, model.head, model.tail
    timeline = plan(len(keypoints), *sizes, request["anchor"], request["planner"])
    steps, scale = request["steps"], request["guidance_scale"]
    shared_steps = record_bytes = 0
    if request["framing"] != "off":
        framing = framing_of(keypoints, size) if request["framing"] == "auto" else request["framing"]
        shared = SharedRange.of(framing, steps, model.transformer["num_layers"])
        shared_steps = shared.steps.stop
        dim = model.transformer["num_attention_heads"] * model.transformer["attention_head_dim"]
        branches = 1 if (model.guidance_scale if scale is None else scale) == 1 else 2
        tokens = model.tokens(timeline.segment_frames, size)
        record_bytes = shared.nbytes(tokens, dim, model.itemsize, branches=branches)
    asked = {lora["name"] for lora in request.get("lora", ())}  # jobs of an older version have none
    loras = {lora.name: lora.sha256 for lora in model.loras if lora.name in asked}
    content = json.dumps([model.digest, hashlib.sha256(prepared).hexdigest(), request, loras], sort_keys=True)
    return JobPlan(
        frames=timeline.frames,
        segment_frames=timeline.segment_frames,
        head=timeline.head,
        tail=timeline.tail,
        anchor=timeline.anchor,
        steps=steps,
        seed=request["seed"],
        shared_steps=shared_steps,
        record_bytes=record_bytes,
        content_id=hashlib.sha256(content.encode()).hexdigest()[:32],
        notes=found["notes"].tobytes().decode(),
    )
