"""What a form may ask of this server, beyond what the types of its fields allow."""

from __future__ import annotations

from serving.api.auth import Caller, webhook_secret
from serving.api.errors import ApiError
from serving.api.schemas import VideoCreate
from serving.api.settings import ApiSettings
from serving.api.sizes import size_problem, usual_sizes
from serving.api.webhooks import check_address


def check_request(form: VideoCreate, settings: ApiSettings, caller: Caller) -> None:
    """Raises ApiError 400, a sentence, for a video that this server cannot make."""
    if form.model not in (None, settings.model.name):
        raise ApiError(
            400,
            f"model: this server has only {settings.model.name!r}; leave it out, or see /v1/models.",
            "model_not_found",
            "model",
        )
    if form.size is not None and (problem := size_problem(form.size, settings)):
        raise _invalid("size", f"{problem}; choose from {', '.join(usual_sizes(settings))}")
    if form.steps is not None and form.steps > settings.steps:
        raise _invalid("steps", f"ask for at most {settings.steps}")
    if "," in form.framing:
        _check_range(form.framing, form.steps or settings.model.steps, settings.model.blocks)
    if form.seconds is not None and form.seconds > settings.video_seconds:
        raise _invalid("seconds", f"ask for at most {settings.video_seconds:g}")
    for lora in form.lora:
        if lora.name not in settings.model.loras:
            there = ", ".join(settings.model.loras)
            raise _invalid(
                "lora",
                f"there is no {lora.name!r}; "
                + (f"choose from {there}" if there else "this server has none"),
            )
    if form.hands is not None and not settings.model.hands:
        raise _invalid("hands", f"{settings.model.name} takes none; leave it out")
    if form.webhook_url is not None:
        if webhook_secret(settings, caller.name) is None:
            raise _invalid(
                "webhook_url", "there is no secret to sign it with; have the server's operator set one"
            )
        check_address(form.webhook_url, settings)


def _check_range(framing: str, steps: int, blocks: int) -> None:
    from posegen.sharing import SharedRange, SharingError  # imports torch, which few requests need

    try:
        SharedRange.of(framing, steps, blocks)
    except SharingError as error:
        raise _invalid("framing", str(error)) from error


def check_length(seconds: float, settings: ApiSettings) -> None:
    """Raises ApiError 400 for a movement that makes a longer video than this server takes."""
    if seconds > settings.video_seconds + 1 / settings.model.rate:
        raise _invalid(
            "seconds",
            f"the movement lasts {seconds:.0f}, a video at most {settings.video_seconds:g}; ask for the first of them",
        )


def _invalid(param: str, why: str) -> ApiError:
    return ApiError(400, f"{param}: {why}.", "invalid_value", param)
