"""What the anchor records while it is denoised, and how another base segment reads it.

Each query attends once, to the anchor's keys or to its own. Selecting queries costs a copy of them, where a second pass
and a mask of all pairs would cost the attention again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as functional

from posegen.model.attention import Attend, Gather, Project, Sharing
from posegen.sharing.foreground import Foreground
from posegen.sharing.record import Branch, Form, Position, SharedEntry, SharedRange, SharedStore, SharingError

COMPILING = "the shared background runs outside of compiled code; compile without fullgraph=True"


@dataclass
class SegmentSharing(ABC):
    """What a segment does about the shared background while it is denoised: a recorder's part or a reader's."""

    shared: SharedRange
    foreground: Foreground
    store: SharedStore

    def at(self, step: int, branch: Branch) -> Sharing | None:
        """What to give the transformer as `sharing` in this pass; None in steps that share nothing."""
        return partial(self._block, step, branch) if step in self.shared.steps else None

    def _block(self, step: int, branch: Branch, index: int) -> BlockSharing | None:
        position = Position(step, index, branch)
        acts = position in self.shared or self.foreground.watches(position)
        return BlockSharing(self, position) if acts else None

    @abstractmethod
    def self_attention(
        self,
        position: Position,
        query: torch.Tensor,
        hidden_states: torch.Tensor,
        project: Project,
        attend: Attend,
    ) -> torch.Tensor:
        """The output of self-attention at a shared position; arguments as in `BlockSharing`."""

    @abstractmethod
    def finish(self, position: Position) -> None:
        """The foreground has seen all that it wants to see of the block at a shared position."""


@dataclass(frozen=True)
class BlockSharing:
    """A segment's sharing in one block of one pass, as `posegen.model.attention` calls it."""

    segment: SegmentSharing
    position: Position

    @torch.compiler.disable(reason=COMPILING)
    def self_attention(
        self, query: torch.Tensor, hidden_states: torch.Tensor, project: Project, attend: Attend
    ) -> torch.Tensor:
        if self.position in self.segment.shared:
            return self.segment.self_attention(self.position, query, hidden_states, project, attend)
        return attend(query, *project(hidden_states))

    @torch.compiler.disable(reason=COMPILING)
    def cross_attention(self, query: torch.Tensor, key: torch.Tensor, gather: Gather) -> None:
        if self.segment.foreground.watches(self.position):
            self.segment.foreground.look(self.position.block, query, key, gather)
        if self.position in self.segment.shared:
            self.segment.finish(self.position)


@dataclass
class AnchorRecorder(SegmentSharing):
    """Sharing in the anchor: plain attention, kept in `store` at the positions of `shared`."""

    form: Form = "key_value"
    _kept: tuple[torch.Tensor, ...] = ()

    def self_attention(
        self,
        position: Position,
        query: torch.Tensor,
        hidden_states: torch.Tensor,
        project: Project,
        attend: Attend,
    ) -> torch.Tensor:
        key, value = project(hidden_states)
        self._kept = (key, value) if self.form == "key_value" else (hidden_states,)
        return attend(query, key, value)

    def finish(self, position: Position) -> None:
        """Stores the entry only now, as the anchor's foreground counts this block's cross-attention in."""
        tensors = tuple(tensor.detach() for tensor in self._kept)
        self.store.put(position, SharedEntry(tensors, self.foreground.mask(position.block + 1)))
        self._kept = ()


@dataclass
class AnchorReader(SegmentSharing):
    """Sharing in another base segment: background and reference queries read the anchor's entries in `store`.

    `keep_person=False` leaves the keys of the anchor's foreground out, so that the background attends to no person.
    """

    keep_person: bool = True

    def self_attention(
        self,
        position: Position,
        query: torch.Tensor,
        hidden_states: torch.Tensor,
        project: Project,
        attend: Attend,
    ) -> torch.Tensor:
        entry = self.store.get(position)
        key, value = entry.key_value(project)
        _require_fit(position, query, key)
        shared = [tensor.expand_as(query) for tensor in (key, value)]
        # Which tokens are whose is found where the masks are, on the host if it can be: it does not wait for a GPU.
        here = self.foreground.mask(position.block)
        person = entry.foreground.to(here.device).expand(len(query), -1)
        foreground = _with_reference(here | person, query.shape[1])
        # Nobody to be seen: nobody needs this segment's own keys.
        own = project(hidden_states) if foreground.any() else shared
        output = torch.empty_like(query)
        for item, rows in enumerate(foreground):
            background = [tensor[item] for tensor in shared]
            if not self.keep_person:
                kept = _places(~_with_reference(person[item], query.shape[1]), query.device)
                background = [tensor.index_select(0, kept) for tensor in background]
            for chosen, (key, value) in ((rows, [tensor[item] for tensor in own]), (~rows, background)):
                index = _places(chosen, query.device)
                if len(index):
                    part = attend(query[item].index_select(0, index)[None], key[None], value[None])
                    output[item].index_copy_(0, index, part[0])
        return output

    def finish(self, position: Position) -> None:
        """Nothing is kept."""


def _with_reference(video: torch.Tensor, tokens: int) -> torch.Tensor:
    """A mask over video tokens as one over all `tokens`; reference tokens are background."""
    return functional.pad(video, (0, tokens - video.shape[-1]))


def _places(chosen: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Where a mask (tokens,) is True, on a device."""
    return chosen.nonzero().squeeze(1).to(device, non_blocking=True)


def _require_fit(position: Position, query: torch.Tensor, key: torch.Tensor) -> None:
    if key.shape[1:] != query.shape[1:] or len(key) not in (1, len(query)):
        raise SharingError(
            f"the anchor's record at step {position.step}, block {position.block} is of shape {tuple(key.shape)}, this "
            f"segment needs {tuple(query.shape)}; make both segments of one size and length"
        )
