"""What a curation would take, from the listing and the lengths of a few files: for a decision, not for an invoice.

The figures for a second of video were taken on one core of a cloud machine, from videos of up to 720p and 30 frames/s;
`make bench-curate` gives your machine's.
"""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
import pyarrow as pa

from pipeline.config import COMPOSED, CurateConfig
from posegen.common.storage import Folder

SAMPLE = 24
"""Files whose length is read, spread evenly over the sizes."""
PLAN_CPU, SCORE_CPU = 0.1, 1.5
"""CPU seconds for a second of video."""
RECORD_BYTES = 25_000
"""Bytes of records for a second of video, mostly keypoints."""
CLIP_SECONDS = 12.0
"""Usual length of a clip."""
EMBED_CPU = 16.0
"""CPU seconds for a clip's pictures by CLIP ViT-H/14; ViT-L/14 takes half."""
CAPTION_GPU = 2.0
"""GPU seconds of a caption by a model of 7 billion parameters."""


@dataclass(frozen=True)
class Step:
    """What one stage takes: hours of CPUs and GPUs, bytes read and at most written."""

    name: str
    cpu: float = 0.0
    gpu: float = 0.0
    read: float = 0.0
    written: float = 0.0


def estimate(config: CurateConfig, listed: pa.Table) -> str:
    """A table of what the job's stages would take for the listed files (`feeds.LISTED_KEYS`)."""
    total = sum(listed["bytes"].to_pylist())
    seconds = length_of(config, listed)
    hours = seconds / 3600
    score = SCORE_CPU * hours + (EMBED_CPU * hours / CLIP_SECONDS if config.embedder else 0.0)
    steps = [
        Step("plan", cpu=PLAN_CPU * hours, read=total),
        Step("score", cpu=score, gpu=score * config.gpu_share, written=RECORD_BYTES * seconds),
        Step("cut", written=total),
    ]
    if config.captioner != COMPOSED:
        steps.append(Step("caption", gpu=CAPTION_GPU * seconds / CLIP_SECONDS / 3600, read=total))
    steps.append(Step("write", read=RECORD_BYTES * seconds, written=RECORD_BYTES * seconds))
    lines = [
        f"{listed.num_rows:,} files, {size(total)}, about {hours:,.1f} hours of video; if all of it is kept:",
        f"{'':8} {'CPU hours':>10} {'GPU hours':>10} {'read':>10} {'written':>10}",
        *(
            f"{step.name:8} {step.cpu:10,.1f} {step.gpu:10,.1f} {size(step.read):>10} {size(step.written):>10}"
            for step in steps
        ),
    ]
    return "\n".join(lines)


def length_of(config: CurateConfig, listed: pa.Table) -> float:
    """Seconds of video in the listed files: those of a few for each byte of them, times the bytes of all."""
    folder, rows = Folder(config.input), listed.sort_by("bytes").to_pylist()
    picked = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int))
    known = [
        (row["bytes"], found) for row in (rows[i] for i in picked) if (found := duration(folder, row["path"]))
    ]
    read = sum(size for size, _ in known)
    return sum(found for _, found in known) * sum(row["bytes"] for row in rows) / read if read else 0.0


def duration(folder: Folder, name: str) -> float | None:
    """Seconds that a file's head says it lasts; None where it says nothing."""
    try:
        with folder.open(name) as stream, av.open(stream) as container:
            return container.duration / av.time_base if container.duration else None
    except (OSError, ValueError):  # a damaged file counts among the others
        return None


def size(count: float) -> str:
    """Bytes as people say them, such as "1.5 GB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    raise AssertionError("the last unit returns")
