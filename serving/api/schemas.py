"""What the endpoint takes and answers: OpenAI's Videos, and what this server has beyond them.

A field that the form does not know is refused by name, so a misspelt option is never silently ignored. A file may also
come as text in its field (poses as JSON, pictures and videos as data URLs), for clients that can send one file only.
What was asked for is stored as plain JSON values, with uploads by their hash and size.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from fastapi import UploadFile
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Json, model_validator

from posegen.driving.alignment import Fit
from posegen.driving.driving_video import Align
from posegen.video.rates import HIGHEST, LOWEST
from serving.api.settings import ApiSettings, Model
from serving.api.sizes import SIZE
from serving.state.rows import JOB_ID, Job, Kind, Task
from serving.state.transitions import JobStatus, TaskState
from serving.uploads.uploads import STORED

FRAMING = r"^(auto|close-up|half-body|full-body|distant|off|[0-9]{1,4}:[0-9]{1,4},[0-9]{1,4}:[0-9]{1,4})$"
VIDEO_ID = f"^{JOB_ID}$"
VERSION = "^[0-9a-f]{16}$"
OBJECT_FIELD = "input_reference[image_url]"


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character; leave it out")
    return text


Text = Annotated[str, Field(max_length=4000), AfterValidator(_without_nul)]
Size = Annotated[str, Field(pattern=f"^{SIZE}$", description="WIDTHxHEIGHT in pixels")]
Seed = Annotated[int, Field(ge=0, le=2**53 - 1)]  # what JavaScript holds exactly
Upload = Annotated[UploadFile | str, Field()]


class LoraChoice(BaseModel):
    """A LoRA that the video is made with."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=64, description="One of the model's, see /v1/models.")
    strength: float = Field(
        1.0, ge=-2, le=2, allow_inf_nan=False, description="Of what it adds; 0 is without it."
    )


def _listed(sent: Any) -> Any:
    return [sent] if isinstance(sent, dict) else sent


def _named_once(choices: list[LoraChoice]) -> list[LoraChoice]:
    if len({choice.name for choice in choices}) < len(choices):
        raise ValueError("a name comes twice; send each once")
    return choices


LoraChoices = Annotated[
    list[LoraChoice], BeforeValidator(_listed), AfterValidator(_named_once), Field(max_length=8)
]


class VideoCreate(BaseModel):
    """A video to be made of the person in a picture, who moves as a driving video or poses say."""

    model_config = ConfigDict(extra="forbid")

    prompt: Text = Field("", description="What is to be seen, in a sentence.")
    input_reference: Upload = Field(
        description="Picture of the person: JPEG, PNG or WebP; a file, a data URL, or OpenAI's object "
        '{"image_url": DATA_URL}, as JSON or as the field input_reference[image_url].'
    )
    driving_video: Upload | None = Field(
        None, description="Video of the movement: MP4, MOV, WebM, Matroska or AVI; a file, or a data URL."
    )
    poses: Upload | None = Field(
        None,
        description="The movement as poses at the model's rate, instead of a video: JSON [T][133][3] (x and y in "
        "pixels, confidence 0..1; null for a frame without a person), or a Parquet file of one row with the columns "
        "keypoints and keypoints_shape.",
    )
    poses_size: Size | None = Field(
        None, description="Size of the pictures that the poses were seen in; by default that of the video."
    )
    model: str | None = Field(None, description="The model's name; by default the one that there is.")
    size: str | None = Field(
        None,
        max_length=32,
        description="WIDTHxHEIGHT of the video in pixels, see /v1/models; by default the model's.",
    )
    seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="At most so much of the movement; by default all."
    )
    rate: float | None = Field(
        None,
        ge=LOWEST,
        le=HIGHEST,
        allow_inf_nan=False,
        description="Frames/s that the video is written at; by default the model's. For another one frames are shown "
        "again or left out: the movement keeps its speed, and the sound stays in step.",
    )
    seed: Seed = Field(42, description="The same seed gives the same video.")
    steps: int | None = Field(None, ge=1, description="Denoising steps; by default the model's.")
    guidance_scale: float | None = Field(
        None, ge=0, le=100, description="How strongly the prompt is followed; by default the model's."
    )
    negative_prompt: Text | None = Field(None, description="What is not to be seen; by default the model's.")
    fit: Fit = Field("crop", description="How the picture is put into the size.")
    align: Align = Field(
        "reference",
        description="Lay the driving person onto the picture's, in scale and position, with the limb lengths of the "
        "picture's (proportions), or leave them where they are.",
    )
    framing: str = Field(
        "auto",
        pattern=FRAMING,
        description="How much of the background the segments share; auto looks at the poses. Or at which denoising "
        "steps and in which blocks: 0:2,34:40 are steps 0 and 1 in blocks 34 to 39.",
    )
    foreground: Literal["pose", "subject", "mask", "none"] = Field(
        "pose",
        description="Where the person is told from: the pose, the prompt's word for them, the mask, or nowhere.",
    )
    mask: Upload | None = Field(
        None,
        description="For foreground=mask: video of the person in white where the new video shows them, of as many "
        "frames as the movement has at the model's rate; a file, or a data URL.",
    )
    hands: Upload | None = Field(
        None,
        description="Video of the hands' surface normals on black where the new video shows them, likewise; "
        "`posegen hands` makes one. Neither is moved by align. Without it those of the driving video are taken, where "
        "the server has networks for that.",
    )
    lora: Json[LoraChoices] = Field(
        [],
        description="What else the model has learnt, see /v1/models: JSON, one object or a list of them.",
        examples=['[{"name": "ink", "strength": 0.8}]'],
        json_schema_extra={"default": "[]"},
    )
    keep_person: bool = Field(
        True, description="Whether shared backgrounds may attend to the first segment's person."
    )
    anchor: int = Field(
        0,
        ge=0,
        lt=2**31,
        multiple_of=2,
        description="The segment whose background the others take, by its even index; best one that shows the most.",
    )
    planner: Literal["fitted", "published"] = Field(
        "fitted", description="Segments as short as the length allows, or always the model's longest."
    )
    webhook_url: str | None = Field(
        None, max_length=2000, description="Is told of the end, signed as by Standard Webhooks."
    )

    @model_validator(mode="before")
    @classmethod
    def _picture_of_object(cls, sent: Any) -> Any:
        """Takes the picture from the field by which OpenAI's clients send an object."""
        if not isinstance(sent, dict) or OBJECT_FIELD not in sent:
            return sent
        if "input_reference" in sent:
            raise ValueError("input_reference came twice; send one picture")
        others = {name: value for name, value in sent.items() if name != OBJECT_FIELD}
        return others | {"input_reference": sent[OBJECT_FIELD]}

    @model_validator(mode="after")
    def _one_movement(self) -> Self:
        if (self.driving_video is None) == (self.poses is None):
            raise ValueError("send the movement as either driving_video or poses")
        if self.poses_size is not None and self.poses is None:
            raise ValueError("poses_size goes with poses; leave it out")
        if (self.mask is None) == (self.foreground == "mask"):
            raise ValueError("send a mask with foreground=mask, and only then")
        return self

    def uploads(self) -> dict[str, UploadFile | str]:
        """The files that were sent, by the parameter that says what they are."""
        sent = {name: getattr(self, name) for name in STORED}
        return {name: upload for name, upload in sent.items() if upload is not None}

    def request(self, settings: ApiSettings, uploads: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The job's request: every option with its value, and what is known of each upload."""
        left_out = {*STORED, "webhook_url"}
        size = self.size or "{}x{}".format(*settings.model.size)
        given = self.model_dump(exclude=left_out) | {"size": size, "model": settings.model.name}
        return given | {"steps": self.steps or settings.model.steps, "uploads": uploads}


class VideoFailure(BaseModel):
    """Why a video failed."""

    code: str
    message: str


class Video(BaseModel):
    """A job and its video."""

    id: str = Field(pattern=VIDEO_ID)
    object: Literal["video"] = "video"
    status: JobStatus
    progress: int = Field(ge=0, le=100, description="Share of the denoising steps that are done, in percent.")
    created_at: int = Field(description="Seconds since 1970.")
    completed_at: int | None = Field(description="When it was completed or failed.")
    expires_at: int | None = Field(description="When it is deleted.")
    model: str
    prompt: str
    seconds: str = Field(description="Length of the video.")
    size: Size
    error: VideoFailure | None
    remixed_from_video_id: str | None = None
    uploads: list[str] = Field(description="The files that it was asked for with, by parameter.")
    options: dict[str, Any] = Field(
        description="What else it was asked for with, every option with its value."
    )
    seed: int
    steps: int
    segments: int | None = Field(description="How many segments it is made of, once that is known.")
    notes: list[str] = Field(
        description="What was seen in the movement that may not be wanted, such as nobody for some seconds."
    )
    record_form: Literal["key_value", "input"] | None = Field(
        description="What is kept of the anchor's attention for the other segments, if anything is, once that is known."
    )

    @classmethod
    def of(cls, job: Job, model: Model) -> Video:
        """A job as its client sees it."""
        request, failed = job.request, job.status is JobStatus.FAILED
        error = VideoFailure(code=str(job.error_code), message=str(job.error_message)) if failed else None
        return cls(
            id=job.id,
            status=job.status,
            progress=job.progress,
            created_at=int(job.created_at),
            completed_at=None if job.completed_at is None else int(job.completed_at),
            expires_at=None if job.expires_at is None else int(job.expires_at),
            model=request["model"],
            prompt=request["prompt"],
            seconds=f"{_seconds(job, model):.3f}".rstrip("0").rstrip("."),
            size=request["size"],
            error=error,
            uploads=sorted(request["uploads"]),
            options={name: value for name, value in request.items() if name != "uploads"},
            seed=request["seed"],
            steps=request["steps"],
            segments=None if job.plan is None else len(job.plan.timeline.segments),
            notes=job.plan.notes.splitlines() if job.plan else [],
            record_form=job.plan.record_form if job.plan and job.plan.shares else None,
        )


def _seconds(job: Job, model: Model) -> float:
    """The length of a job's video in seconds: as planned, or before that as the uploads and the request say."""
    return asked_seconds(job.request, model) if job.plan is None else job.plan.frames / model.rate


def asked_seconds(request: dict[str, Any], model: Model) -> float:
    """How long a video a request asks for: as long as its movement, or less."""
    uploads = request["uploads"]
    there = (
        uploads["poses"]["frames"] / model.rate if "poses" in uploads else uploads["driving_video"]["seconds"]
    )
    return min(there, request["seconds"] or there)


class VideoList(BaseModel):
    """A page of videos; `last_id` is what the next page comes `after`."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Version(BaseModel):
    """A video as it was before segments of it were made anew, or as it is."""

    id: str = Field(pattern=VERSION)
    object: Literal["video.version"] = "video.version"
    current: bool
    created_at: int = Field(description="Seconds since 1970.")


class VersionList(BaseModel):
    """All finished versions of a video; they are kept as long as it is."""

    object: Literal["list"] = "list"
    data: list[Version]


class VideoDeleted(BaseModel):
    """A video is deleted, with its files."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class Segment(BaseModel):
    """A segment of a video: which frames of the timeline, and how far it is.

    A base segment is made alone, a bridge between two; of the anchor the other bases take their background.
    """

    index: int
    kind: Literal["anchor", "base", "bridge"]
    start: int = Field(description="Its first frame.")
    frames: int
    depends_on: list[int]
    state: TaskState
    step: int = Field(description="Denoising steps that are done.")
    steps: int
    seed: int
    attempt: int = Field(description="How often a worker has taken it up.")
    started_at: float | None
    finished_at: float | None


class SegmentList(BaseModel):
    """All segments of a video in the order of its timeline; none before the plan is made."""

    object: Literal["list"] = "list"
    data: list[Segment]


def segments(job: Job, tasks: list[Task]) -> list[Segment]:
    """A job's segments, given its tasks."""
    if job.plan is None:
        return []
    plan, timeline = job.plan, job.plan.timeline
    found = []
    for task in (task for task in tasks if task.kind is Kind.SEGMENT):
        segment = timeline.segments[task.index]
        known = {name: getattr(task, name) for name in Segment.model_fields if hasattr(task, name)}
        kind = "anchor" if task.index == plan.anchor and plan.shares else segment.kind
        depends = list(timeline.dependencies(task.index) if kind == "bridge" or plan.shares else ())
        found.append(
            Segment.model_validate(
                known
                | {"kind": kind, "start": segment.start, "frames": segment.frames, "depends_on": depends}
            )
        )
    return found


class Regenerate(BaseModel):
    """How a segment is to be made anew."""

    model_config = ConfigDict(extra="forbid")

    seed: Seed | None = Field(None, description="Of its noise; by default one more than its last.")


class Regenerated(BaseModel):
    """Which segments are made anew."""

    object: Literal["video.segments.regenerated"] = "video.segments.regenerated"
    segments: list[int]
    video: Video


class ErrorBody(BaseModel):
    """What was wrong with a request."""

    message: str = Field(description="One sentence: what, where, what to do.")
    type: str
    param: str | None
    code: str


class ErrorEnvelope(BaseModel):
    """The answer to a request that is refused."""

    error: ErrorBody


class Health(BaseModel):
    """Whether work can be done, and what keeps it from being done; ok: nothing does."""

    ok: bool
    problems: list[str]
