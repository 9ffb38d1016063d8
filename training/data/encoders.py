"""Who makes the items of a run: Ray actors of all training workers together, or the caller's own process.

The driver starts the actors and hands them to the workers: encoders that make items, one that encodes captions for
them, and one that keeps the cache within its bound. Ray starts an actor that dies again, and it makes its items once
more. Items are dealt out in order, so those of the next step are ready first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

import cv2
import numpy as np

from training.data.batches import Item, ItemEncoder
from training.data.cache import Cache, Keeper
from training.data.items import DataConfig
from training.data.plan import Plan, Request
from training.data.spans import Names, SpanEncoder, TextEncoder

WAIT_S = 300.0
"""How long to wait for an encoder to be started before the cluster is taken to have no room for one."""


class Encoders(Protocol):
    """What a stream asks for items, which are begun when they are asked for."""

    def item(self, step: int, place: int) -> Callable[[], Item]: ...

    def validation(self, request: Request, number: int) -> Callable[[], Item | str]: ...


class OwnEncoder:
    """Makes each item in this process, when its result is asked for."""

    def __init__(self, plan: Plan) -> None:
        cache = Cache(plan.config.cache_folder, keeper(plan).room)
        self._encoder = ItemEncoder(plan, SpanEncoder(plan.config, cache), TextEncoder(plan.config, cache))

    def item(self, step: int, place: int) -> Callable[[], Item]:
        return partial(self._encoder.item, step, place)

    def validation(self, request: Request, number: int) -> Callable[[], Item | str]:
        return partial(self._encoder.validation, request)


@dataclass(frozen=True)
class EncoderActors:
    """The actors; pickles into workers. They end with the last copy of this."""

    pool: Sequence[Any]
    helpers: Sequence[Any]
    batch_size: int

    @classmethod
    def start(cls, config: DataConfig) -> EncoderActors:
        """Starts the actors that the settings ask for; raises ValueError where the cluster has no room for them."""
        import ray

        def start(actor: type, *arguments: Any, **options: Any) -> Any:
            # Whatever kills an actor, Ray starts it again; an item that kills it again and again is an error.
            return (
                ray.remote(actor).options(max_restarts=-1, max_task_retries=3, **options).remote(*arguments)
            )

        # The pool finds the two others by name: one that is started again must not depend on what the driver holds.
        keeping, text = (f"posegen-{kind}-{uuid4().hex}" for kind in ("keeper", "text"))
        helpers = [
            start(_Keeper, config, num_cpus=0, name=keeping),
            start(_TextActor, config, keeping, num_cpus=0, num_gpus=config.text_gpus, name=text),
        ]
        resources = {"num_cpus": config.encode_cpus, "num_gpus": config.encode_gpus}
        pool = [
            start(_EncoderActor, config, keeping, text, **resources) for _ in range(config.encode_workers)
        ]
        started = [actor.started.remote() for actor in (*helpers, *pool)]
        ready, missing = ray.wait(started, num_returns=len(started), timeout=WAIT_S)
        ray.get(ready)
        if missing:
            raise ValueError(
                f"{len(pool)} encoders could not all be started in {WAIT_S:.0f} s: the cluster has no "
                f"{config.encode_cpus:g} CPUs and {config.encode_gpus:g} GPUs to spare for each, and "
                f"{config.text_gpus:g} GPUs for captions. Give it more, ask for fewer encode_workers, or for 0 to "
                "encode in the training's own processes."
            )
        return cls(pool, helpers, config.batch_size)

    def item(self, step: int, place: int) -> Callable[[], Item]:
        encoder = self.pool[(step * self.batch_size + place) % len(self.pool)]
        return _result(encoder.item.remote(step, place))

    def validation(self, request: Request, number: int) -> Callable[[], Item | str]:
        return _result(self.pool[number % len(self.pool)].validation.remote(request))


def keeper(plan: Plan) -> Keeper:
    """The keeper of a run's cache."""
    config, names = plan.config, Names(plan.config)

    def needed(step: int) -> list[str]:
        return [name for request in plan.requests(step) for name in names.all(request)]

    return Keeper(config.cache_folder, config.cache_gb * 1e9, needed, config.window)


class _Actor:
    def started(self) -> bool:
        return True


class _Keeper(_Actor):
    def __init__(self, config: DataConfig) -> None:
        self._keeper = keeper(Plan(config))

    def room(self, step: int | None, name: str, size: int) -> bool:
        return self._keeper.room(step, name, size)


class _TextActor(_Actor):
    def __init__(self, config: DataConfig, keeping: str) -> None:
        self._encoder = TextEncoder(config, Cache(config.cache_folder, _asked(keeping, "room")))

    def text(self, caption: str, step: int | None) -> np.ndarray:
        return self._encoder(caption, step)


class _EncoderActor(_Actor):
    def __init__(self, config: DataConfig, keeping: str, text: str) -> None:
        cv2.setNumThreads(1)  # pictures are small; more threads only take turns
        spans = SpanEncoder(config, Cache(config.cache_folder, _asked(keeping, "room")))
        self._encoder = ItemEncoder(Plan(config), spans, _asked(text, "text"))

    def item(self, step: int, place: int) -> Item:
        return self._encoder.item(step, place)

    def validation(self, request: Request) -> Item | str:
        return self._encoder.validation(request)


def _asked(name: str, method: str) -> Callable[..., Any]:
    """A method of the actor of this name, called and waited for."""
    import ray

    actor = ray.get_actor(name)
    return lambda *arguments: ray.get(getattr(actor, method).remote(*arguments))


def _result(reference: Any) -> Callable[[], Any]:
    import ray

    return lambda: ray.get(reference)
