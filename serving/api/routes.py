"""The endpoint: OpenAI's Videos, and beyond them cancelling, events, segments, the video as it grows, webhooks.

OpenAI's client works unchanged. A job of another owner is not found. Uploads are stored before their job is made, and
deleted if it is not, so a worker never meets a job without its files. Routes that wait for the database are plain
functions, which FastAPI runs in threads; uploads are taken in threads of their own, so they cannot hold up the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Depends, FastAPI, Form, Header, Path, Query, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from serving.api import content, events
from serving.api.auth import Caller, CurrentCaller, bearer
from serving.api.checks import check_length, check_request
from serving.api.errors import add_handlers, unavailable
from serving.api.guard import GuardedRoute, multipart_only
from serving.api.head import AnswerHead
from serving.api.health import disk_problems, health
from serving.api.metrics import CountRequests, Metrics
from serving.api.models import models
from serving.api.page import add_page
from serving.api.schemas import (
    VERSION,
    VIDEO_ID,
    ErrorEnvelope,
    Health,
    Regenerate,
    Regenerated,
    SegmentList,
    Version,
    VersionList,
    Video,
    VideoCreate,
    VideoDeleted,
    VideoList,
    asked_seconds,
    segments,
)
from serving.api.server import CurrentJob, CurrentServer, Server
from serving.api.settings import ApiSettings
from serving.api.upkeep import delete, upkeep
from serving.state.artifacts import Artifacts
from serving.state.database import Database
from serving.state.rows import ConflictError, Job, NewJob, new_job_id
from serving.state.transitions import TaskState
from serving.uploads.uploads import STORED

ABOUT = """OpenAI's Videos, whose clients work unchanged, and beyond them cancelling, events, segments, the video as it
grows, and webhooks.

A video of another owner is not found. Refusals are a sentence each, in OpenAI's form.
"""

Responses = dict[int | str, dict[str, Any]]


def refused(description: str) -> dict[str, Any]:
    """Documents refusals: JSON in the envelope, whatever the route answers otherwise."""
    schema = {"$ref": f"#/components/schemas/{ErrorEnvelope.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


REFUSED: Responses = {"4XX": refused("The request is refused: why, in a sentence.")}
NOT_FOUND: Responses = {404: refused("There is no such video, or it is another's.")}
CONFLICT: Responses = {409: refused("The video is in no state for this.")}
NO_ROOM: Responses = {503: refused("A disk is full, or the database does not answer.")}
QUEUE_FULL: Responses = {
    429: {"model": ErrorEnvelope, "description": "The queue is full, or the caller's quota."}
}
BYTES = {"schema": {"type": "string", "format": "binary"}}

videos = APIRouter(prefix="/v1/videos", tags=["videos"], route_class=GuardedRoute)


def create_app(settings: ApiSettings, database: Database, artifacts: Artifacts) -> FastAPI:
    """The endpoint on an open database and open artifacts."""
    app = FastAPI(
        docs_url=None,  # FastAPI's own loads its scripts from elsewhere; see add_page
        redoc_url=None,
        title="PoseGen",
        version="1",
        summary="Long videos of the person in a picture, who moves as a driving video says.",
        description=ABOUT,
        lifespan=upkeep,
        form_limits={"max_files": len(STORED), "max_fields": 64, "max_part_size": settings.field_bytes},
    )
    app.state.server = Server(settings, database, artifacts)
    app.state.metrics = Metrics(database)
    app.add_middleware(CountRequests, metrics=app.state.metrics)
    app.add_middleware(AnswerHead)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    add_handlers(app)
    guarded = APIRouter(route_class=GuardedRoute, dependencies=[Depends(bearer)], responses=REFUSED)
    guarded.include_router(videos)
    guarded.include_router(models)
    guarded.add_api_route("/metrics", metrics, tags=["server"], response_class=Response, responses=METRICS)
    app.include_router(guarded)
    app.add_api_route("/healthz", healthz, tags=["server"], responses=UNABLE)
    add_page(app)
    return app


@videos.post("", responses=CONFLICT | QUEUE_FULL | NO_ROOM, dependencies=[Depends(multipart_only)])
async def create_video(
    form: Annotated[VideoCreate, Form(media_type="multipart/form-data")],
    response: Response,
    server: CurrentServer,
    caller: CurrentCaller,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=255, description="The same key again makes no second job."),
    ] = None,
) -> Video:
    """Queues a video."""
    if problems := disk_problems(server):
        raise unavailable(f"{problems[0]} No video is taken until it has room; try again later.")
    check_request(form, server.settings, caller)
    # In one thread, which finishes even if the client leaves and this coroutine is cancelled.
    job = await anyio.to_thread.run_sync(_queue, form, server, caller, idempotency_key, limiter=server.turns)
    return _polled(server, job, response)


def _queue(form: VideoCreate, server: Server, caller: Caller, idempotency_key: str | None) -> Job:
    """Stores the uploads, then makes the job; deletes them again if that fails."""
    job_id, job = new_job_id(), None
    try:
        request = form.request(server.settings, server.uploads.keep(job_id, form.uploads()))
        check_length(asked_seconds(request, server.settings.model), server.settings)
        new = NewJob(id=job_id, owner=caller.name, request=request, webhook=form.webhook_url)
        job, _ = server.database.jobs.create(new, idempotency_key, caller.jobs)
    finally:
        if job is None or job.id != job_id:
            server.artifacts.delete_job(job_id)
    return job


@videos.get("")
def list_videos(
    server: CurrentServer,
    caller: CurrentCaller,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[
        str | None, Query(pattern=VIDEO_ID, description="The last id of the page before.")
    ] = None,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """The caller's videos by the time of their creation."""
    jobs = server.database.jobs.page(caller.name, limit + 1, after, order)
    page = [server.video(job) for job in jobs[:limit]]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return VideoList(data=page, first_id=first, last_id=last, has_more=len(jobs) > limit)


@videos.get("/{video_id}", responses=NOT_FOUND)
async def retrieve_video(job: CurrentJob, server: CurrentServer, response: Response) -> Video:
    """A video as it is now."""
    return _polled(server, job, response)


@videos.delete("/{video_id}", responses=NOT_FOUND | CONFLICT)
def delete_video(job: CurrentJob, server: CurrentServer) -> VideoDeleted:
    """Deletes a completed or failed video and all its files."""
    if job.status not in events.FINAL:
        raise ConflictError(f"Video {job.id} is not finished; cancel it first.")
    delete(server.database, server.artifacts, job.id)
    return VideoDeleted(id=job.id)


@videos.post("/{video_id}/cancel", responses=NOT_FOUND | CONFLICT)
def cancel_video(job: CurrentJob, server: CurrentServer) -> Video:
    """Ends a video as failed with the code `cancelled`; its workers stop within a denoising step."""
    cancelled = server.database.jobs.cancel(job.id)
    job = server.database.jobs.get(job.id)
    if not cancelled and job.error_code != "cancelled":
        raise ConflictError(f"Video {job.id} has ended as {job.status}; there is nothing to cancel.")
    return server.video(job)


CONTENT: Responses = {
    200: {
        "content": dict.fromkeys(("video/mp4", "image/webp", "image/jpeg"), BYTES),
        "description": "All.",
    },
    204: {"description": "Nothing of a partial video is finished yet, or nothing more."},
    206: {"content": {"video/mp4": BYTES}, "description": "The range that was asked for."},
    304: {"description": "The caller has it, by If-None-Match."},
    416: refused("The range begins behind the end."),
}


@videos.get("/{video_id}/content", response_class=Response, responses=NOT_FOUND | CONTENT)
def download_video(
    job: CurrentJob,
    server: CurrentServer,
    request: Request,
    variant: Literal["video", "thumbnail", "spritesheet"] = "video",
    version: Annotated[
        str | None, Query(pattern=VERSION, description="One of its versions; by default the current one.")
    ] = None,
    partial: Annotated[
        bool,
        Query(description="What is finished so far, as fragmented MP4 that only grows, if it is not all."),
    ] = False,
) -> Response:
    """The video (MP4), its first picture (WebP) or 4 x 4 pictures of it (JPEG)."""
    stitch = server.stitch(job)
    done = stitch is not None and stitch.state is TaskState.DONE
    grows = partial and variant == "video" and not done
    if version is None:
        found = (content.growing if grows else content.finished)(server.artifacts, stitch)
    else:
        found = content.older(server.artifacts, job.id, version)
    if variant != "video":
        return content.respond_with_preview(server.artifacts, found, request.headers, variant)
    if partial:
        return content.respond_with_growing(server.artifacts, found, request.headers)
    return content.respond(server.artifacts, found, request.headers, "video/mp4")


@videos.get("/{video_id}/versions", responses=NOT_FOUND)
def list_versions(job: CurrentJob, server: CurrentServer) -> VersionList:
    """The finished versions of a video, before segments were made anew and after, newest first."""
    stitch = server.stitch(job)
    current = stitch and content.version_of(stitch)
    found = server.artifacts.versions(job.id)
    data = [Version(id=name, current=name == current, created_at=int(made)) for name, made in found]
    return VersionList(data=data)


UPLOAD: Responses = {
    200: {"content": dict.fromkeys(content.UPLOADED, BYTES), "description": "All."},
    206: {"content": dict.fromkeys(content.UPLOADED, BYTES), "description": "The range that was asked for."},
    304: {"description": "The caller has it, by If-None-Match."},
    416: refused("The range begins behind the end."),
}


@videos.get("/{video_id}/uploads/{parameter}", response_class=Response, responses=NOT_FOUND | UPLOAD)
def download_upload(
    job: CurrentJob,
    server: CurrentServer,
    request: Request,
    parameter: Literal["input_reference", "driving_video", "mask", "hands"],
) -> Response:
    """The picture or a video that the video was asked for with."""
    found, media_type = content.upload(server.artifacts, job, parameter)
    return content.respond(server.artifacts, found, request.headers, media_type)


@videos.get(
    "/{video_id}/events",
    response_class=EventSourceResponse,
    responses=NOT_FOUND | {204: {"description": "All was sent before."}},
)
async def follow_video(
    job: CurrentJob, server: CurrentServer, last_id: Annotated[str | None, Depends(events.unsent)]
) -> AsyncIterable[events.ProgressEvent]:
    """Server-sent events `progress`, each the whole state, until the video is completed or failed."""
    async for event in events.stream(server, job.id, last_id):
        yield event  # type: ignore[misc] # FastAPI takes the annotation for the type of an event's data


@videos.get("/{video_id}/segments", responses=NOT_FOUND)
def list_segments(job: CurrentJob, server: CurrentServer) -> SegmentList:
    """The segments that the video is made of."""
    return SegmentList(data=segments(job, server.database.jobs.tasks(job.id)))


PREVIEW: Responses = {200: {"content": {"image/jpeg": BYTES}, "description": "The preview."}}


@videos.get("/{video_id}/segments/{index}/preview", response_class=Response, responses=NOT_FOUND | PREVIEW)
def preview_segment(
    job: CurrentJob, server: CurrentServer, index: Annotated[int, Path(ge=0, lt=2**31)]
) -> Response:
    """Up to four small frames (JPEG) of a segment as far as it is made; there from its first step on."""
    return content.segment_preview(server.artifacts, job.id, index)


@videos.post("/{video_id}/segments/{index}/regenerate", responses=NOT_FOUND | CONFLICT | QUEUE_FULL)
def regenerate_segment(
    job: CurrentJob,
    server: CurrentServer,
    caller: CurrentCaller,
    index: Annotated[int, Path(ge=0, lt=2**31)],
    body: Regenerate | None = None,
) -> Regenerated:
    """Makes a segment anew with another seed, and all that depends on it; the rest of the video is kept."""
    seed = body.seed if body else None
    changed = server.database.jobs.regenerate(job.id, index, seed, caller.jobs)
    return Regenerated(segments=changed, video=server.video(server.database.jobs.get(job.id)))


UNABLE: Responses = {503: {"model": Health, "description": "Nobody can be answered."}}
METRICS: Responses = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics."}
}


def healthz(server: CurrentServer) -> JSONResponse:
    """Whether this server answers, and what keeps work from being done."""
    found, answers = health(server)
    return JSONResponse(found.model_dump(), 200 if answers else 503)


def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _polled(server: Server, job: Job, response: Response) -> Video:
    """The video, with a header that tells OpenAI's client when to poll again."""
    if job.status not in events.FINAL:
        response.headers["openai-poll-after-ms"] = str(round(1000 * server.pause(job)))
    return server.video(job)
