"""What is shared of the anchor's denoising: the positions in steps and blocks, and what is kept at each.

What is kept at one position is a `SharedEntry`; where entries live is behind `SharedStore`, so that a server can pass
them between machines. An entry has one of two exact forms: keys and values, or the normalised input of the attention,
half the bytes, which the reader projects again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch

from posegen.model.attention import Project

Branch = Literal["guided", "unguided"]
Form = Literal["key_value", "input"]

# (steps, first block) of 25 steps and 40 blocks that the authors recommend by how much of the person is seen
FRAMINGS: dict[str, tuple[int, int]] = {
    "close-up": (1, 34),
    "half-body": (2, 34),
    "full-body": (4, 32),
    "distant": (4, 30),
}
RANGE = re.compile(r"(\d{1,4}):(\d{1,4}),(\d{1,4}):(\d{1,4})")


class SharingError(ValueError):
    """The anchor's record and the segment that reads it do not fit."""


class Position(NamedTuple):
    """Where in the denoising of a segment: a block of a pass."""

    step: int
    block: int
    branch: Branch


@dataclass(frozen=True)
class SharedRange:
    """The positions that are shared: these steps of the schedule and these blocks, each counted from 0."""

    steps: range
    blocks: range

    def __post_init__(self) -> None:
        for name, shared in (("steps", self.steps), ("blocks", self.blocks)):
            if not shared or shared.step != 1 or shared.start < 0:
                raise SharingError(
                    f"no {name} lie in {shared.start}:{shared.stop}; give the first and the one after the last"
                )

    @classmethod
    def of(cls, framing: str | SharedRange, steps: int, blocks: int) -> SharedRange:
        """The range for a schedule of so many steps and a model of so many blocks.

        framing: a key of `FRAMINGS`, whose recommended range is scaled to them; or a range, which must lie in them, as
        text of the form "0:2,34:40" for steps 0 and 1 in blocks 34 to 39. Raises SharingError.
        """
        if isinstance(framing, str) and (given := RANGE.fullmatch(framing)):
            numbers = [int(number) for number in given.groups()]
            framing = cls(range(*numbers[:2]), range(*numbers[2:]))
        if isinstance(framing, SharedRange):
            if framing.steps.stop > steps or framing.blocks.stop > blocks:
                raise SharingError(
                    f"steps {framing.steps.start}:{framing.steps.stop} and blocks {framing.blocks.start}:"
                    f"{framing.blocks.stop} cannot be shared: there are {steps} steps and {blocks} blocks"
                )
            return framing
        if framing not in FRAMINGS:
            raise SharingError(
                f"framing {framing!r} is not known; use one of {', '.join(FRAMINGS)}, or steps and blocks as 0:2,34:40"
            )
        shared_steps, first_block = FRAMINGS[framing]
        return cls(
            range(max(1, round(shared_steps * steps / 25))),
            range(min(round(first_block * blocks / 40), blocks - 1), blocks),
        )

    def __contains__(self, position: Position) -> bool:
        return position.step in self.steps and position.block in self.blocks

    def positions(self, branches: Sequence[Branch] = ("guided", "unguided")) -> Iterator[Position]:
        """Every shared position in the order in which it is written and read."""
        for step in self.steps:
            for branch in branches:
                for block in self.blocks:
                    yield Position(step, block, branch)

    def nbytes(
        self, tokens: int, dim: int, itemsize: int = 2, form: Form = "key_value", branches: int = 2
    ) -> int:
        """Bytes of the record of a segment with this many video and reference tokens and `dim` channels."""
        tensors = 2 if form == "key_value" else 1
        return len(self.steps) * len(self.blocks) * branches * tensors * tokens * dim * itemsize


@dataclass(frozen=True)
class SharedEntry:
    """The anchor's self-attention at one position.

    Attributes:
        tensors: keys and values after rotation, two of (B, tokens, heads, head_dim), or one normalised attention input
            (B, tokens, dim). Tokens are the video's, then the reference's.
        foreground: (B, video tokens) bool, where the anchor's person is.
    """

    tensors: tuple[torch.Tensor, ...]
    foreground: torch.Tensor

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.tensors, self.foreground))

    def key_value(self, project: Project) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, projected where the entry holds the input."""
        if len(self.tensors) == 1:
            return project(self.tensors[0])
        key, value = self.tensors
        return key, value


class SharedStore(Protocol):
    """Where entries live. Both methods may be called from the thread that denoises and should return soon."""

    def put(self, position: Position, entry: SharedEntry) -> None:
        """Keep an entry."""
        ...

    def get(self, position: Position) -> SharedEntry:
        """The entry of this position; `SharingError` where there is none."""
        ...


@dataclass
class SharedRecord:
    """A store in this process's memory, on the device where entries are made."""

    entries: dict[Position, SharedEntry] = field(default_factory=dict)

    def put(self, position: Position, entry: SharedEntry) -> None:
        self.entries[position] = entry

    def get(self, position: Position) -> SharedEntry:
        if position not in self.entries:
            raise SharingError(
                f"the anchor kept nothing at step {position.step}, block {position.block} of the {position.branch} "
                "branch; make the anchor with the same steps, guidance and shared range, without a block cache"
            )
        return self.entries[position]

    @property
    def nbytes(self) -> int:
        """Bytes of everything kept."""
        return sum(entry.nbytes for entry in self.entries.values())
