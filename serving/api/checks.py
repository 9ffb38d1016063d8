"""What a form may ask of this server, beyond what the types of its fields allow."""

from __future__ import annotations

from serving.api.auth import Caller, webhook_secret
from serving.api.errors import ApiError
from serving.api.schemas import VideoCreate
from serving.api.settings import ApiSettings
from serving.api.webhooks import check_address


def check_request(form: VideoCreate, settings: ApiSettings, caller: Caller) -> None:
    """Raises ApiError 400, a sentence, for a video that this server cannot make."""
    if form.model not in (None, settings.model.name):
        raise ApiError(
            400,
            f"model: this server has only {settings.model.name!r}; leave it out.",
            "model_not_found",
            "model",
        )
    if form.size is not None:
        _check_size(form.size, settings)
    if form.steps is not None and form.steps > settings.steps:
        raise _invalid("steps", f"ask for at most {settings.steps}")
    if "," in form.framing:
        _check_range(form.framing, form.steps or settings.model.steps, settings.model.blocks)
    if form.seconds is not None and form.seconds > settings.seconds:
        raise _invalid("seconds", f"ask for at most {settings.seconds:g}")
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


def _check_size(size: str, settings: ApiSettings) -> None:
    width, height = map(int, size.split("x"))
    unit = settings.model.unit
    if width % unit or height % unit:
        raise _invalid("size", f"width and height must be multiples of {unit} pixels")
    if (squares := width * height // unit**2) % settings.model.shared_by:
        raise _invalid(
            "size",
            f"{squares} squares of {unit} pixels must be a multiple of {settings.model.shared_by}, the GPUs that share",
        )
    if width * height > settings.pixels:
        raise _invalid("size", f"ask for at most {settings.pixels} pixels in all")


def _invalid(param: str, why: str) -> ApiError:
    return ApiError(400, f"{param}: {why}.", "invalid_value", param)
