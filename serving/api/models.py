"""The models that may be asked for, in OpenAI's shape, with what there is to know before a video is asked for."""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from serving.api.errors import ApiError
from serving.api.guard import GuardedRoute
from serving.api.server import CurrentServer
from serving.api.settings import ApiSettings
from serving.api.sizes import usual_sizes

STARTED = int(time.time())

models = APIRouter(prefix="/v1/models", tags=["models"], route_class=GuardedRoute)


class ServedModel(BaseModel):
    """A model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Since when this server has it, in seconds since 1970.")
    owned_by: str = "posegen"
    summary: str = Field(description="What it can do and what it cannot, as its folder says.")
    sizes: list[str] = Field(
        description="Usual sizes of its videos, WIDTHxHEIGHT in pixels; its own is the first."
    )
    unit: int = Field(description="Width and height may be any multiples of it.")
    pixels: int = Field(description="Most pixels of a frame.")
    seconds: float = Field(description="Longest video.")
    rate: float = Field(description="Frames per second.")
    steps: int = Field(description="Denoising steps, unless others are asked for.")
    max_steps: int = Field(description="Most denoising steps.")
    loras: list[str] = Field(description="LoRAs that may be asked for, by their names.")
    hands: bool = Field(description="Whether it takes a video of hands.")

    @classmethod
    def of(cls, settings: ApiSettings) -> ServedModel:
        """The model that there is."""
        model = settings.model
        return cls(
            id=model.name,
            created=STARTED,
            summary=model.summary,
            sizes=usual_sizes(settings),
            unit=model.unit,
            pixels=settings.video_pixels,
            seconds=settings.video_seconds,
            rate=model.rate,
            steps=model.steps,
            max_steps=settings.steps,
            loras=list(model.loras),
            hands=model.hands,
        )


class ModelList(BaseModel):
    """All models: one."""

    object: Literal["list"] = "list"
    data: list[ServedModel]


@models.get("")
def list_models(server: CurrentServer) -> ModelList:
    """The models that may be asked for."""
    return ModelList(data=[ServedModel.of(server.settings)])


@models.get("/{name}")
def retrieve_model(name: str, server: CurrentServer) -> ServedModel:
    """A model by its name."""
    if name != server.settings.model.name:
        raise ApiError(404, f"There is no model {name!r}; see /v1/models.", "model_not_found", "model")
    return ServedModel.of(server.settings)
