"""Training data as an endless stream of batches that a step's number alone determines.

`prepare` writes the index once, in the driver, before any worker asks for a `TrainingStream`. The steps of a window are
encoded ahead, on a cache miss from the clips' videos, so the first step comes with the first batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import count
from typing import NamedTuple

from training.data.batches import Item, collate
from training.data.encoders import EncoderActors, Encoders, OwnEncoder
from training.data.index import prepare
from training.data.items import Batch, DataConfig
from training.data.plan import Plan, Request
from training.data.sampler import share

__all__ = ["Batch", "DataConfig", "EncoderActors", "TrainingStream", "ValidationShare", "prepare"]


class ValidationShare(NamedTuple):
    """A worker's share of a batch to validate on; one that has none holds another's item, as all must pass some.

    own: how many of the batch's items count, all or none.
    """

    batch: Batch
    own: int


class TrainingStream:
    """The batches of datasets, indexed by `prepare` of the same settings.

    encoders: who makes the items, by default this process. steps_per_epoch: how many steps show each clip once.
    left_out: how many kept clips are not used, by reason.

    Raises ValueError where there is no index or no clip is left, and for more workers than a batch has items.
    """

    def __init__(self, config: DataConfig, encoders: Encoders | None = None) -> None:
        self.config = config
        self._plan = Plan(config)
        self._others = encoders
        self.steps_per_epoch, self.left_out = self._plan.steps_per_epoch, self._plan.left_out

    def fingerprint(self, step: int) -> str:
        """16 digits; streams with the same ones give the same batches for all steps before this one.

        It tells whether a checkpoint at this step can be resumed.
        """
        return self._plan.fingerprint(step)

    def next_epoch(self, step: int) -> int:
        """The first step of the epoch that begins at this step or after it."""
        return self._plan.next_epoch(step)

    @cached_property
    def _encoders(self) -> Encoders:
        return self._others or OwnEncoder(self._plan)

    def batches(self, start_step: int, rank: int, world_size: int) -> Iterator[Batch]:
        """This worker's share of every step's batch from `start_step` on, without end."""
        # Raises at once where there are too many workers.
        places = share(range(self.config.batch_size), rank, world_size)
        return self._batches(start_step, places)

    def _batches(self, start_step: int, places: list[int]) -> Iterator[Batch]:
        ahead: deque[list[Callable[[], Item]]] = deque()
        for step in count(start_step):
            ahead.append([self._encoders.item(step, place) for place in places])
            if len(ahead) == self.config.window:
                yield collate([result() for result in ahead.popleft()])

    def validation_shares(
        self, rank: int = 0, world_size: int = 1, tell: Callable[[str], object] = print
    ) -> list[ValidationShare]:
        """This worker's share of the batches to validate on, always the same.

        tell: given a sentence for each clip of the share that cannot be used.
        """
        numbers = count(rank, world_size)
        waiting = [
            [self._encoders.validation(request, next(numbers)) for request in requests[rank::world_size]]
            for requests in self._plan.validation
        ]
        shares = []
        for requests, results in zip(self._plan.validation, waiting, strict=True):
            made = [result() for result in results]
            for sentence in (item for item in made if isinstance(item, str)):
                tell(sentence)
            own = usable(made)
            if items := own or self._first_usable(requests):
                shares.append(ValidationShare(collate(items), len(own)))
        return shares

    def _first_usable(self, requests: list[Request]) -> list[Item]:
        """The first item of a batch that can be used; none where all workers go without this batch."""
        made = (self._encoders.validation(request, number)() for number, request in enumerate(requests))
        return next(([item] for item in made if not isinstance(item, str)), [])

    def sample_batch(self, clips: int) -> Batch | None:
        """So many of the first batch to validate on, which sample videos show; None where none can be used."""
        requests = self._plan.validation[0][:clips] if self._plan.validation else []
        items = usable([self._encoders.validation(request, 0)() for request in requests])
        return collate(items) if items else None


def usable(made: Sequence[Item | str]) -> list[Item]:
    """The items among what was made of clips, without the sentences of those that cannot be used."""
    return [item for item in made if not isinstance(item, str)]
