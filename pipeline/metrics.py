"""What a curation tells while it runs: Ray adds up what its workers count, and Prometheus reads it (with `ray_` before
each name and `_total` behind a counter's).
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.util.metrics import Counter

CLIPS = Counter("posegen_curation_clips", "Clips that were scored, by what became of them.", ("status",))
REJECTED = Counter(
    "posegen_curation_rejected", "Clips by reason they were rejected for; one may have several.", ("reason",)
)
FRAMES = Counter("posegen_curation_frames", "Frames of the clips that were scored.")


def count_clip(frames: float, failed: bool, reasons: Sequence[str]) -> None:
    """Counts a scored clip. reasons: why it is rejected, none where it passes."""
    CLIPS.inc(tags={"status": "failed" if failed else "rejected" if reasons else "passed"})
    for reason in reasons:
        REJECTED.inc(tags={"reason": reason})
    if frames:
        FRAMES.inc(frames)
