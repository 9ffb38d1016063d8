"""A job's video as bytes: whole or as far as it is made, all of it or a range (RFC 9110, section 14).

A video that is still being made is a list of files that are sent as if they were one, so both kinds are served alike.
It only ever grows, so a player can ask for the bytes after those it has. A request for several ranges, or in units
other than bytes, is answered with the whole video, as the RFC allows.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from fastapi import Response
from fastapi.responses import StreamingResponse
from PIL import Image
from starlette.datastructures import Headers

from posegen.video import probe, read_frames
from serving.api.errors import ApiError
from serving.state.artifacts import Artifacts, preview_artifact
from serving.state.rows import Job, Task
from serving.state.transitions import TaskState
from serving.uploads.uploads import upload_artifact
from serving.work.growing import GrowingVideo

CHUNK = 1 << 18
SHEET = 4  # pictures across and down a spritesheet
PREVIEW_SIDE = 320  # pixels of a sheet's picture, the longer side

UPLOADED = ("image/png", "image/jpeg", "image/webp", "video/mp4", "video/webm", "video/x-msvideo")
"""What uploads are sent back as; MOV goes as MP4 and Matroska as WebM, as browsers play them."""

NOT_READY = ApiError(404, "The video is not ready; ask for it once its status is completed.", "not_ready")


@dataclass(frozen=True)
class Content:
    """Files, each a name and a size in bytes, that are sent one after another; tag: changes when they do."""

    files: Sequence[tuple[str, int]]
    tag: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files)


def finished(artifacts: Artifacts, stitch: Task | None) -> Content:
    """The whole video of a stitching task; ApiError 404 while it is not there."""
    if stitch is None or stitch.state is not TaskState.DONE:
        raise NOT_READY
    return _whole(artifacts, stitch.artifact, version_of(stitch))


def growing(artifacts: Artifacts, stitch: Task | None) -> Content:
    """The finished part of a video as fragmented MP4; nothing before the first fragment."""
    video = GrowingVideo(artifacts, stitch.artifact) if stitch else None
    sizes = video.sizes() if video else []
    if video is None or stitch is None or not sizes:
        return Content((), '"none"')
    files = [(video.part(number), size) for number, size in enumerate(sizes)]
    return Content(files, f'"{version_of(stitch)}-{sum(sizes)}"')


def older(artifacts: Artifacts, job_id: str, version: str) -> Content:
    """The video that a job had under that version's name, see `version_of`; ApiError 404 if it never had."""
    name = f"{job_id}/video-{version}.mp4"
    if not artifacts.exists(name):
        raise ApiError(404, f"Video {job_id} has no version {version}; see its versions.", "not_found")
    return _whole(artifacts, name, version)


def upload(artifacts: Artifacts, job: Job, parameter: str) -> tuple[Content, str]:
    """What a client sent for a job, and its media type; ApiError 404 if the job was made without it."""
    sent, name = job.request["uploads"].get(parameter), upload_artifact(job.id, parameter)
    if sent is None or not artifacts.exists(name):
        raise ApiError(404, f"Video {job.id} was made without {parameter}.", "not_found")
    with artifacts.open(name) as file:
        first = file.read(12)
    return _whole(artifacts, name, sent["sha256"][:16]), media_type(first)


def media_type(first: bytes) -> str:
    """The type of an upload by its first 12 bytes; only kinds that uploads may be of."""
    if first[:4] == b"RIFF":
        return "image/webp" if first[8:] == b"WEBP" else "video/x-msvideo"
    signatures = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"\x1aE\xdf\xa3": "video/webm"}
    return next((kind for start, kind in signatures.items() if first.startswith(start)), "video/mp4")


def _whole(artifacts: Artifacts, name: str, tag: str) -> Content:
    with artifacts.open(name) as file:
        return Content([(name, file.size())], f'"{tag}"')


def respond_with_growing(artifacts: Artifacts, content: Content, headers: Headers) -> Response:
    """As `respond`, but 204 where there is nothing yet, or nothing more: browsers count a refusal as an error."""
    try:
        return respond(artifacts, content, headers, "video/mp4") if content.files else Response(None, 204)
    except ApiError:
        return Response(None, 204)


def respond(artifacts: Artifacts, content: Content, headers: Headers, media_type: str) -> Response:
    """The answer with the content or the range that the request's headers ask for; ApiError 416 for one beyond it."""
    if unchanged := not_modified(content.tag, headers):
        return unchanged
    span = None
    if headers.get("if-range") in (None, content.tag):
        span = asked_range(headers.get("range", ""), content.size)
    start, stop = span or (0, content.size)
    answer = cached_by(content.tag) | {"Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
    if span:
        answer["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size}"
    stream = read(artifacts, content.files, start, stop)
    return StreamingResponse(stream, 206 if span else 200, answer, media_type)


def respond_with_preview(artifacts: Artifacts, content: Content, headers: Headers, variant: str) -> Response:
    """The answer with a finished video's first picture as WebP ("thumbnail"), or 4 x 4 pictures of it as JPEG."""
    tag = f'"{variant}-{content.tag[1:]}'
    media_type = "image/webp" if variant == "thumbnail" else "image/jpeg"
    return not_modified(tag, headers) or Response(
        preview(artifacts, content, variant), 200, cached_by(tag), media_type
    )


def cached_by(tag: str) -> dict[str, str]:
    """The headers by which a client may keep an answer, and asks each time whether it still holds."""
    return {"ETag": tag, "Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}


def not_modified(tag: str, headers: Headers) -> Response | None:
    """The answer 304 to a client that has what the tag names (RFC 9110, section 13.1.2), or None."""
    held = [one.strip().removeprefix("W/") for one in headers.get("if-none-match", "").split(",")]
    return Response(None, 304, cached_by(tag)) if {tag, "*"} & set(held) else None


def asked_range(header: str, size: int) -> tuple[int, int] | None:
    """The bytes [start, stop) of `size` that a Range header asks for; None where all are to be sent."""
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", header, re.IGNORECASE)
    if match is None or match[0].endswith("=-"):
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if first and last and int(last) < int(first):
        return None
    if start >= size:
        raise ApiError(
            416,
            f"The range begins behind the last of {size} bytes; ask for one within them.",
            "range_not_satisfiable",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, stop


def read(artifacts: Artifacts, files: Sequence[tuple[str, int]], start: int, stop: int) -> Iterator[bytes]:
    """The bytes [start, stop) of files as if they were one, a chunk at a time."""
    for name, size in files:
        if start < min(size, stop):
            with artifacts.open(name) as file:
                file.seek(start)
                left = min(size, stop) - start
                while left > 0:
                    chunk = file.read(min(CHUNK, left))
                    if not chunk:
                        raise EOFError(f"{name} is shorter than it was")
                    left -= len(chunk)
                    yield chunk
        start, stop = max(0, start - size), stop - size


def preview(artifacts: Artifacts, content: Content, variant: str) -> bytes:
    """A finished video's first picture as WebP ("thumbnail"), or 4 x 4 pictures spread over it as JPEG."""
    (name, _), *_ = content.files
    with artifacts.local_copy(name) as path:
        info = probe(path)
        if variant == "thumbnail":
            (frames,) = read_frames(info, [0])
            return _encoded(frames[0], "WEBP")
        count = len(info.frame_times)
        shown = np.linspace(0, count - 1, SHEET * SHEET).round().astype(int)
        scale = min(1, PREVIEW_SIDE / max(info.width, info.height))
        size = max(1, round(info.width * scale)), max(1, round(info.height * scale))
        frames = np.concatenate(list(read_frames(info, shown, size)))
    rows = frames.reshape(SHEET, SHEET, size[1], size[0], 3).transpose(0, 2, 1, 3, 4)
    return _encoded(rows.reshape(SHEET * size[1], SHEET * size[0], 3), "JPEG")


def segment_preview(artifacts: Artifacts, job_id: str, index: int) -> Response:
    """The answer with the picture of a segment in the making; ApiError 404 before its first step."""
    try:
        picture = artifacts.read(preview_artifact(job_id, index))
    except FileNotFoundError:
        raise ApiError(
            404, f"There is no preview of segment {index} yet; ask again later.", "not_ready"
        ) from None
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-store"}
    return Response(picture, headers=headers, media_type="image/jpeg")


def _encoded(picture: np.ndarray, form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form)
    return file.getvalue()


def version_of(stitch: Task) -> str:
    """Names a version of a job's video: the digest in its artifact's name."""
    return stitch.artifact.rpartition("-")[2].removesuffix(".mp4")
