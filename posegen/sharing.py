"""The shared background: what the anchor segment keeps of its self-attention, and how another segment reads it.

Choices made (method: PoseGen, arXiv 2508.05091):

- In the first steps and last blocks the anchor's attention is recorded. A reading segment's background and reference
  queries attend to the anchor's keys and values, its foreground queries to its own. Each query attends once, to one of
  the two: selecting queries costs a copy of them, where a second pass and a mask of all pairs would cost the attention
  again.
- Foreground is the union of this segment's and the anchor's. It comes from the driving pose (or any given mask), from
  the cross-attention to the subject word, or is nowhere.
- What is kept at one place of the network is a `SharedEntry`; where entries live is behind `SharedStore`, so that a
  server can pass them between machines. An entry has one of two exact forms: keys and values, or the normalised input
  of the attention, half the bytes, which the reader projects again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as functional

from posegen.transformer import Attend, BlockSharing, PassSharing, Project

Branch = Literal["guided", "unguided"]
Form = Literal["key_value", "input"]

# (steps, first block) of 25 steps and 40 blocks that the authors recommend by how much of the person is seen
FRAMINGS: dict[str, tuple[int, int]] = {
    "close-up": (1, 34),
    "half-body": (2, 34),
    "full-body": (4, 32),
    "distant": (4, 30),
}
SUBJECT_BLOCKS = 11  # the first blocks' cross-attention votes for the foreground, as in the authors' code
OTSU_BINS = 256
EPSILON = 1e-6  # of the authors' scaling to 0..1


class SharingError(ValueError):
    """The anchor's record and the segment that reads it do not fit."""


class Position(NamedTuple):
    """A place in the denoising of a segment."""

    step: int
    block: int
    branch: Branch


@dataclass(frozen=True)
class SharedRange:
    """The places that are shared: steps [0, steps) and blocks [first_block, blocks)."""

    steps: int
    first_block: int
    blocks: int

    @classmethod
    def of_framing(cls, framing: str, steps: int, blocks: int) -> SharedRange:
        """The recommended range for a framing (a key of `FRAMINGS`), scaled to this many steps and blocks."""
        if framing not in FRAMINGS:
            raise SharingError(f"framing {framing!r} is not known; use one of {', '.join(FRAMINGS)}")
        shared_steps, first_block = FRAMINGS[framing]
        return cls(
            max(1, round(shared_steps * steps / 25)),
            min(round(first_block * blocks / 40), blocks - 1),
            blocks,
        )

    def __contains__(self, place: Position) -> bool:
        return place.step < self.steps and self.first_block <= place.block < self.blocks

    def positions(self, branches: Sequence[Branch] = ("guided", "unguided")) -> Iterator[Position]:
        """Every shared place in the order in which it is written and read."""
        for step in range(self.steps):
            for branch in branches:
                for block in range(self.first_block, self.blocks):
                    yield Position(step, block, branch)

    def nbytes(
        self, tokens: int, dim: int, itemsize: int = 2, form: Form = "key_value", branches: int = 2
    ) -> int:
        """Bytes of the record of a segment with this many video and reference tokens and `dim` channels."""
        tensors = 2 if form == "key_value" else 1
        return self.steps * (self.blocks - self.first_block) * branches * tensors * tokens * dim * itemsize


@dataclass(frozen=True)
class SharedEntry:
    """The anchor's self-attention at one place.

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

    def to(self, device: torch.device) -> SharedEntry:
        """This entry on a device."""
        return SharedEntry(
            tuple(tensor.to(device, non_blocking=True) for tensor in self.tensors), self.foreground.to(device)
        )


class SharedStore(Protocol):
    """Where entries live. Both methods may be called from the thread that denoises and should return soon."""

    def put(self, position: Position, entry: SharedEntry) -> None:
        """Keep an entry."""
        ...

    def get(self, position: Position) -> SharedEntry:
        """The entry of this place; `SharingError` where there is none."""
        ...


@dataclass
class SharedRecord:
    """A store in this process's memory."""

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


class Foreground(Protocol):
    """Where a segment's person is."""

    def begin(self, branch: Branch) -> None:
        """A pass through the network begins."""
        ...

    def watches(self, block: int) -> bool:
        """Whether `look` wants to see this block's cross-attention in the current pass."""
        ...

    def look(self, query: torch.Tensor, key: torch.Tensor) -> None:
        """See video queries and text keys, (B, tokens, heads, head_dim)."""
        ...

    def mask(self, blocks: int) -> torch.Tensor:
        """(B, video tokens) bool, from what the first `blocks` blocks show."""
        ...


class GivenForeground:
    """A mask known beforehand, (B, video tokens) bool; all False shares everything."""

    def __init__(self, mask: torch.Tensor) -> None:
        self._mask = mask

    def begin(self, branch: Branch) -> None:
        """Nothing changes between passes."""

    def watches(self, block: int) -> bool:
        return False

    def look(self, query: torch.Tensor, key: torch.Tensor) -> None:
        """Never called, as no block is watched."""

    def mask(self, blocks: int) -> torch.Tensor:
        return self._mask


class SubjectForeground:
    """Where the subject word's cross-attention is strong, found anew in each step.

    As the authors: mean over heads of q.k / sqrt(head_dim) for the subject's tokens, in the first blocks of the guided
    branch as far as they have run; each map scaled to 0..1 per frame; their mean cut per frame by Otsu's threshold. The
    unguided branch takes over the guided branch's maps.

    Args:
        tokens: places of the subject word's tokens in the text; their maps are added.
        grid: (frames, rows, columns) of video tokens.
        blocks: how many first blocks vote.
    """

    def __init__(
        self, tokens: Sequence[int], grid: tuple[int, int, int], blocks: int = SUBJECT_BLOCKS
    ) -> None:
        if not tokens:
            raise SharingError(
                "the prompt holds no subject word; name the person in it, or use the pose's foreground"
            )
        self._tokens, self._grid, self._blocks = list(tokens), grid, blocks
        self._maps: list[torch.Tensor] = []
        self._branch: Branch = "guided"

    def begin(self, branch: Branch) -> None:
        self._branch = branch
        if branch == "guided":
            self._maps.clear()

    def watches(self, block: int) -> bool:
        return self._branch == "guided" and block < self._blocks

    def look(self, query: torch.Tensor, key: torch.Tensor) -> None:
        subject = key[:, self._tokens].float().sum(dim=1)  # (B, H, D)
        scores = torch.einsum("bthd,bhd->bt", query.float(), subject) / (
            query.shape[2] * query.shape[3] ** 0.5
        )
        maps = scores.unflatten(1, (self._grid[0], -1))  # (B, f, rows x columns)
        low, high = maps.amin(-1, keepdim=True), maps.amax(-1, keepdim=True)
        self._maps.append((maps - low) / (high - low + EPSILON))

    def mask(self, blocks: int) -> torch.Tensor:
        if not self._maps[:blocks]:
            raise SharingError(
                "no cross-attention was seen before the first shared block; share later blocks"
            )
        mean = torch.stack(self._maps[:blocks]).mean(dim=0)
        return (mean > _otsu(mean)).flatten(1)


def _otsu(maps: torch.Tensor) -> torch.Tensor:
    """Otsu's threshold (IEEE Trans. SMC 9, 1979) of values 0..1 over the last dimension, kept as 1.

    256 bins over 0..1, whatever the values' own range, and the threshold is a bin's centre, as in the authors' code.
    """
    bins = (maps * OTSU_BINS).long().clamp_max(OTSU_BINS - 1)
    counts = torch.zeros(*maps.shape[:-1], OTSU_BINS, dtype=torch.float64, device=maps.device)
    counts.scatter_add_(-1, bins, torch.ones_like(bins, dtype=torch.float64))
    centres = (torch.arange(OTSU_BINS, dtype=torch.float64, device=maps.device) + 0.5) / OTSU_BINS
    below, moments = counts.cumsum(-1), (counts * centres).cumsum(-1)
    above = maps.shape[-1] - below
    gap = moments / below.clamp_min(1) - (moments[..., -1:] - moments) / above.clamp_min(1)
    return centres[(below * above * gap**2).argmax(-1, keepdim=True)].to(maps.dtype)


def foreground_tokens(masks: np.ndarray, patch_size: tuple[int, int, int] = (1, 2, 2)) -> torch.Tensor:
    """Pixel masks (F, H, W) bool, F = 4 k + 1, as a (1, video tokens) mask.

    A token is foreground where any of its pixels is. A token of the first latent frame stands for frame 0, one of latent frame k for frames 4 k - 3 to 4 k.
    """
    pixels = torch.from_numpy(masks).float()
    pixels = torch.cat([pixels[:1].expand(3, -1, -1), pixels])[None, None]
    window = (4 * patch_size[0], 8 * patch_size[1], 8 * patch_size[2])
    return functional.max_pool3d(pixels, window).flatten(1) > 0


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
        shared = entry.key_value(project)
        _require_fit(place, query, shared[0])
        person = entry.foreground.expand(len(query), -1)
        foreground = _with_reference(
            self.foreground.mask(place.block).to(query.device) | person, query.shape[1]
        )
        kept = None if self.keep_person else ~_with_reference(person, query.shape[1])
        own = project(hidden_states)
        output = torch.empty_like(query)
        for item, rows in enumerate(foreground):
            key, value = (tensor[item % len(tensor)] for tensor in shared)
            if kept is not None:
                key, value = key[kept[item]], value[kept[item]]
            for chosen, (k, v) in ((rows, (own[0][item], own[1][item])), (~rows, (key, value))):
                index = chosen.nonzero().squeeze(1)
                if len(index):
                    output[item, index] = attend(query[item, index][None], k[None], v[None])[0]
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

    def self_attention(
        self, query: torch.Tensor, hidden_states: torch.Tensor, project: Project, attend: Attend
    ) -> torch.Tensor:
        if self.place in self.sharing.shared:
            return self.sharing.attend(self.place, query, hidden_states, project, attend)
        return attend(query, *project(hidden_states))

    def cross_attention(self, query: torch.Tensor, key: torch.Tensor) -> None:
        if self.sharing.foreground.watches(self.place.block):
            self.sharing.foreground.look(query, key)
        if self.place in self.sharing.shared:
            self.sharing.finish(self.place)


def _with_reference(video: torch.Tensor, tokens: int) -> torch.Tensor:
    """A mask over video tokens as one over all `tokens`; reference tokens are background."""
    return functional.pad(video, (0, tokens - video.shape[1]))


def _require_fit(place: Position, query: torch.Tensor, key: torch.Tensor) -> None:
    if key.shape[1:] != query.shape[1:] or len(key) not in (1, len(query)):
        raise SharingError(
            f"the anchor's record at step {place.step}, block {place.block} is of shape {tuple(key.shape)}, this "
            f"segment needs {tuple(query.shape)}; make both segments of one size and length"
        )
