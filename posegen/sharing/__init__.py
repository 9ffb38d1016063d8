"""The shared background: what the anchor segment keeps of its self-attention, and how another segment reads it.

As in PoseGen (arXiv 2508.05091), the anchor's attention is recorded in a range of steps and blocks, by default the
first and the last ones. A reading segment's background and reference queries attend to the anchor's keys and values,
its foreground queries to its own. Foreground is the union of this segment's and the anchor's.
"""

from posegen.sharing.anchor import AnchorReader, AnchorRecorder, SegmentSharing
from posegen.sharing.copies import copies_to
from posegen.sharing.foreground import (
    SUBJECT_BLOCKS,
    Foreground,
    GivenForeground,
    SubjectForeground,
    foreground_tokens,
)
from posegen.sharing.record import (
    FRAMINGS,
    Branch,
    Form,
    Position,
    SharedEntry,
    SharedRange,
    SharedRecord,
    SharedStore,
    SharingError,
)
from posegen.sharing.transfer import IN_FLIGHT, HostRecord, ReadAhead

__all__ = [
    "FRAMINGS",
    "IN_FLIGHT",
    "SUBJECT_BLOCKS",
    "AnchorReader",
    "AnchorRecorder",
    "Branch",
    "Foreground",
    "Form",
    "GivenForeground",
    "HostRecord",
    "Position",
    "ReadAhead",
    "SegmentSharing",
    "SharedEntry",
    "SharedRange",
    "SharedRecord",
    "SharedStore",
    "SharingError",
    "SubjectForeground",
    "copies_to",
    "foreground_tokens",
]
