"""What the anchor records in a pass through the network, and how another segment reads it.

Choices made: each query attends once, to the anchor's keys or to its own. Selecting queries costs a copy of them, where
a second pass and a mask of all pairs would cost the attention again. A segment's object makes one small object for each
pass and block, so that passes share no state but the record and the foreground.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from posegen.model.attention import Attend, BlockSharing, Gather, PassSharing, Project
from posegen.sharing.foreground import Foreground
from posegen.sharing.record import Branch, Form, Position, SharedEntry, SharedRange, SharedStore, SharingError

COMPILING = "the shared background runs outside of compiled code; compile without fullgraph=True"


@dataclass
class AnchorRecorder:
    """Sharing in the anchor: plain attention, kept in `store` at the places of `shared`."""

    shared: SharedRange
    foreground: Foreground
    store: SharedStore
    form: Form = "key_value"
    _kept: tuple[torch.Tensor, ...] = ()

    def start(self, step: int, branch: Branch) -> PassSharing | None:
        """What to give the transformer as `sharing` in this pass."""
        return _Pass.of(self, step, branch)

    def attend(
        self,
        place: Position,
        query: torch.Tensor,
        hidden_states: torch.Tensor,
        project: Project,
        attend: Attend,
    ) -> torch.Tensor:
        key, value = project(hidden_states)
        self._kept = (key, value) if self.form == "key_value" else (hidden_states,)
        return attend(query, key, value)

    def finish(self, place: Position) -> None:
        # Only now, as the anchor's foreground counts this block's cross-attention in.
        tensors = tuple(tensor.detach() for tensor in self._kept)
        self.store.put(place, SharedEntry(tensors, self.foreground.mask(place.block + 1)))
        self._kept = ()


@dataclass
class AnchorReader:
    """Sharing in another base segment: background and reference queries read the anchor's entries in `store`.

    `keep_person=False` leaves the keys of the anchor's foreground out, so that the background attends to no person.
    """

    shared: SharedRange
    foreground: Foreground
    store: SharedStore
    keep_person: bool = True

    def start(self, step: int, branch: Branch) -> PassSharing | None:
        """What to give the transformer as `sharing` in this pass."""
        return _Pass.of(self, step, branch)

    def attend(
        self,
        place: Position,
        query: torch.Tensor,
        hidden_states: torch.Tensor,
        project: Project,
        attend: Attend,
    ) -> torch.Tensor:
        entry = self.store.get(place).to(query.device)
        key, value = entry.key_value(project)
        _require_fit(place, query, key)
        shared = [tensor.expand_as(query) for tensor in (key, value)]
        person = entry.foreground.expand(len(query), -1)
        here = self.foreground.mask(place.block).to(query.device)
        foreground = _with_reference(here | person, query.shape[1])
        # Nobody to be seen: nobody needs this segment's own keys.
        own = project(hidden_states) if foreground.any() else shared
        output = torch.empty_like(query)
        for item, rows in enumerate(foreground):
            background = [tensor[item] for tensor in shared]
            if not self.keep_person:
                kept = ~_with_reference(person[item], query.shape[1])
                background = [tensor[kept] for tensor in background]
            for chosen, (key, value) in ((rows, [tensor[item] for tensor in own]), (~rows, background)):
                index = chosen.nonzero().squeeze(1)
                if len(index):
                    part = attend(query[item].index_select(0, index)[None], key[None], value[None])
                    output[item].index_copy_(0, index, part[0])
        return output

    def finish(self, place: Position) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class _Pass:
    """Sharing in one pass through the network."""

    sharing: AnchorRecorder | AnchorReader
    step: int
    branch: Branch

    @classmethod
    def of(cls, sharing: AnchorRecorder | AnchorReader, step: int, branch: Branch) -> _Pass | None:
        if step >= sharing.shared.steps:
            return None
        sharing.foreground.begin(branch)
        return cls(sharing, step, branch)

    def block(self, index: int) -> BlockSharing | None:
        place = Position(self.step, index, self.branch)
        if place in self.sharing.shared or self.sharing.foreground.watches(index):
            return _Block(self.sharing, place)
        return None


@dataclass(frozen=True)
class _Block:
    """Sharing in one block: it shares, watches the cross-attention, or both."""

    sharing: AnchorRecorder | AnchorReader
    place: Position

    @torch.compiler.disable(reason=COMPILING)
    def self_attention(
        self, query: torch.Tensor, hidden_states: torch.Tensor, project: Project, attend: Attend
    ) -> torch.Tensor:
        if self.place in self.sharing.shared:
            return self.sharing.attend(self.place, query, hidden_states, project, attend)
        return attend(query, *project(hidden_states))

    @torch.compiler.disable(reason=COMPILING)
    def cross_attention(self, query: torch.Tensor, key: torch.Tensor, gather: Gather) -> None:
        if self.sharing.foreground.watches(self.place.block):
            self.sharing.foreground.look(query, key, gather)
        if self.place in self.sharing.shared:
            self.sharing.finish(self.place)


def _with_reference(video: torch.Tensor, tokens: int) -> torch.Tensor:
    """A mask over video tokens as one over all `tokens`; reference tokens are background."""
    return functional.pad(video, (0, tokens - video.shape[-1]))


def _require_fit(place: Position, query: torch.Tensor, key: torch.Tensor) -> None:
    if key.shape[1:] != query.shape[1:] or len(key) not in (1, len(query)):
        raise SharingError(
            f"the anchor's record at step {place.step}, block {place.block} is of shape {tuple(key.shape)}, this "
            f"segment needs {tuple(query.shape)}; make both segments of one size and length"
        )
