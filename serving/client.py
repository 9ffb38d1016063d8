"""Makes a video over HTTP, on any server: `python serving/client.py --image person.jpg --video dance.mp4`.

It uses nothing but HTTP, so that this file shows how to use the endpoint and can be copied: post a form, follow the
events, download. Every event is the whole state, so a broken stream is simply opened again. The token is read from the
variable POSEGEN_TOKEN, because other users of the machine can see a command line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import requests
import tyro

FINAL = ("completed", "failed")
FILES = {"image": "input_reference", "video": "driving_video", "mask": "mask", "hands": "hands"}
"""The parameters of the endpoint that files are sent as."""
TIMEOUT_S = 60.0  # for an answer, or the next bytes of one
PATIENCE_S = 120.0  # with a server that has stopped answering


class ClientError(RuntimeError):
    """A video cannot be made: why, in a sentence."""


@dataclass(frozen=True)
class VideoRequest:
    """Make a video of the person in a picture, who moves as the person in a driving video does."""

    image: Path
    """Picture of the person."""
    video: Path
    """Driving video."""
    output: Path = Path("out.mp4")
    """The video to write."""
    url: str = "http://127.0.0.1:8000"
    """Where the server answers."""
    prompt: str = ""
    """What is to be seen, in a sentence."""
    seed: int = 42
    """The same seed gives the same video."""
    steps: int | None = None
    """Denoising steps; by default the model's."""
    seconds: float | None = None
    """At most so much of the movement; by default all."""
    size: str | None = None
    """WIDTHxHEIGHT of the video in pixels; by default the model's."""
    rate: float | None = None
    """Frames/s that the video is written at; by default the model's."""
    align: Literal["reference", "proportions", "none"] = "reference"
    """How the movement is laid onto the picture: in size and place, with its limb lengths too, or not at all."""
    framing: str = "auto"
    """How much of the background segments share: auto, close-up, half-body, full-body, distant, off, or steps and
    blocks as 0:2,34:40."""
    anchor: int = 0
    """The segment whose background the others take, by its even index."""
    negative_prompt: str | None = None
    """What is not to be seen; by default the model's."""
    lora: tuple[str, ...] = ()
    """LoRAs that the server has, each NAME or NAME:STRENGTH; /v1/models lists them."""
    foreground: Literal["pose", "subject", "mask", "none"] = "pose"
    """Where the person is told from: the pose, the prompt's word for them, --mask, or nowhere."""
    mask: Path | None = None
    """Video of the person in white, in step with the driving video."""
    hands: Path | None = None
    """Video of the hands' surface normals on black, in step with the driving video."""


def make_video(request: VideoRequest) -> None:
    """Posts a job, tells its progress until it ends, saves the video; cancels the job if interrupted.

    Raises ClientError.
    """
    video_id = post(request)
    said, noted = "", False
    try:
        print(f"{video_id} is queued", flush=True)
        for state in events(request.url, video_id):
            if state["segments"] and not noted:
                noted = True
                print("".join(f"{note}\n" for note in state["video"]["notes"]), end="", flush=True)
            if (line := describe(state)) != said:
                print(line, flush=True)
                said = line
    except KeyboardInterrupt:
        with suppress(requests.RequestException):
            requests.post(f"{request.url}/v1/videos/{video_id}/cancel", headers=_headers(), timeout=TIMEOUT_S)
        raise
    if error := state["video"]["error"]:
        raise ClientError(error["message"])
    download(request.url, video_id, request.output)
    print(f"saved as {request.output}", flush=True)


def post(request: VideoRequest) -> str:
    """The id of a new job."""
    form = {name: value for name, value in vars(request).items() if name not in ("output", "url", *FILES)}
    form["lora"] = json.dumps([parse_lora(text) for text in request.lora])
    url = f"{request.url}/v1/videos"
    try:
        with ExitStack() as stack:
            paths = {parameter: getattr(request, name) for name, parameter in FILES.items()}
            files = {
                name: stack.enter_context(path.open("rb")) for name, path in paths.items() if path is not None
            }
            answer = requests.post(url, data=form, files=files, headers=_headers(), timeout=TIMEOUT_S)
            return str(_checked(answer).json()["id"])
    except OSError as error:  # requests' own are of this kind too
        raise ClientError(_unsent(request, error)) from error


def parse_lora(text: str) -> dict[str, Any]:
    """What the server takes for NAME or NAME:STRENGTH."""
    name, colon, strength = text.partition(":")
    try:
        return {"name": name, "strength": float(strength) if colon else 1.0}
    except ValueError:
        raise ClientError(f"--lora {text}: give NAME or NAME:STRENGTH, such as ink:0.8.") from None


def events(url: str, video_id: str) -> Iterator[dict[str, Any]]:
    """The job's states up to its last; see `serving.api.events.ProgressEvent` for what they hold."""
    answered = time.monotonic()
    while time.monotonic() - answered < PATIENCE_S:
        try:
            with _get(f"{url}/v1/videos/{video_id}/events") as answer:
                for line in answer.iter_lines():
                    answered = time.monotonic()
                    if line.startswith(b"data:"):
                        state = json.loads(line.removeprefix(b"data:"))
                        yield state
                        if state["video"]["status"] in FINAL:
                            return
        except requests.RequestException:
            time.sleep(1.0)  # this copy of the endpoint may be gone; another will answer
    raise ClientError(f"The server at {url} does not answer any more; {video_id} may go on once it is back.")


def describe(state: dict[str, Any]) -> str:
    """A state in a line: of each segment # for done, tenths of its steps while it is made, a dot before."""
    segments, left = state["segments"], state["eta_seconds"]
    if state["video"]["status"] in FINAL:
        return str(state["video"]["status"])
    if state["queue_place"]:
        return f"waiting, place {state['queue_place']} in the queue"
    if not segments:
        return "reading the picture and the movement"
    if all(segment["state"] == "done" for segment in segments):
        return f"joining the segments: {state['stitch']['step']} of {state['stitch']['steps']} frames"
    marks = "".join(_mark(segment) for segment in segments)
    done, steps = (sum(segment[name] for segment in segments) for name in ("step", "steps"))
    return f"segments [{marks}] {done:4} of {steps} steps" + ("" if left is None else f", {left:.0f} s left")


def _mark(segment: dict[str, Any]) -> str:
    if segment["state"] == "running":
        return str(min(9, 10 * segment["step"] // segment["steps"]))
    return "#" if segment["state"] == "done" else "."


def download(url: str, video_id: str, output: Path) -> None:
    """Saves a completed job's video."""
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _get(f"{url}/v1/videos/{video_id}/content") as answer, output.open("wb") as file:
            for chunk in answer.iter_content(1 << 20):
                file.write(chunk)
    except OSError as error:
        raise ClientError(f"{video_id} is made, but could not be saved as {output}: {error}.") from error


def _get(url: str) -> requests.Response:
    return _checked(requests.get(url, headers=_headers(), stream=True, timeout=TIMEOUT_S))


def _headers() -> dict[str, str]:
    token = os.environ.get("POSEGEN_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _checked(answer: requests.Response) -> requests.Response:
    """The answer; raises ClientError with the server's sentence for a refusal, RequestException for a broken answer."""
    if 400 <= answer.status_code < 500:
        raise ClientError(answer.json()["error"]["message"])
    answer.raise_for_status()
    return answer


def _unsent(request: VideoRequest, error: OSError) -> str:
    """Why a job could not be posted."""
    if isinstance(error, requests.ConnectionError):
        return (
            f"There is no server at {request.url}; start one by `make serve`, or say where one is by --url."
        )
    return f"The video could not be asked for: {error}."


if __name__ == "__main__":
    try:
        make_video(tyro.cli(VideoRequest))
    except ClientError as error:
        sys.exit(f"client: {error}")
    except KeyboardInterrupt:
        sys.exit("client: interrupted; what was asked for is cancelled")
