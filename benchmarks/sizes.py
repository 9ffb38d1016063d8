"""What jobs of usual sizes take and cost, from the library's own estimates and the prices that you give.

    python benchmarks/sizes.py --gpu_hour 3.00 --cpu_hour 0.04 --prices_of 2026-11-29

Prices are those of one H100 of 80 GB and of one CPU core, in any currency; there are no defaults, as they differ by a
factor of three between clouds, regions and contracts. Machines are paid by the hour whether they work or not, so take
what is printed as the least. Counted are the operations of the transformer at 40 % of the GPU's peak (posegen/costs.py,
training/costs.py) and the seconds that curation takes of a core (pipeline/estimate.py). Encoding, decoding and idle
time are not. None was measured on a GPU. The last line is one JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.cards import SIZES, made_folder, training_rows
from pipeline.estimate import PLAN_CPU, RECORD_BYTES, SCORE_CPU
from posegen.costs import PEAK_FLOPS
from posegen.estimate import Estimate
from posegen.loading import Placement
from posegen.longvideo.sampling import Guidance
from posegen.longvideo.segments import plan
from training.memory import EFFICIENCY

GPU = "H100"
RATE = 30
"""Frames a second of a video that is made."""
HOURS, CLIPS, MINUTES = 100, 10_000, (1, 10)
"""Of video to be curated; passed through a training; of a video to be made."""
TRAININGS = ("wan1b_480p", "wan14b_480p", "wan14b_720p")
"""The others do the same work on smaller cards, see benchmarks/cards.py."""
STEPS, GUIDANCE = 25, 5.0
"""Of the authors' inference."""


@dataclass(frozen=True)
class Prices:
    """What an hour costs, and since when."""

    gpu_hour: float
    """Of one H100 of 80 GB."""
    cpu_hour: float
    """Of one CPU core."""
    prices_of: str
    """The day that the prices are of, such as 2026-11-29."""


@dataclass(frozen=True)
class Row:
    """What a job takes: hours of GPUs and of CPU cores, GB in storage, and GB of memory that lie in one place."""

    job: str
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    stored_gb: float = 0.0
    memory_gb: float = 0.0

    def cost(self, prices: Prices) -> float:
        """In the currency of the prices."""
        return self.gpu_hours * prices.gpu_hour + self.cpu_hours * prices.cpu_hour


def main() -> None:
    prices = tyro.cli(Prices, description=__doc__, use_underscores=True)
    rows = all_rows()
    print(
        f"prices of {prices.prices_of}: {prices.gpu_hour:g} an {GPU}'s hour, {prices.cpu_hour:g} a core's hour\n"
    )
    print(f"{'job':44} {'GPU hours':>10} {'CPU hours':>10} {'stored GB':>10} {'memory GB':>10} {'cost':>9}")
    for row in rows:
        print(
            f"{row.job:44} {row.gpu_hours:10,.1f} {row.cpu_hours:10,.1f} {row.stored_gb:10,.1f} "
            f"{row.memory_gb:10,.0f} {row.cost(prices):9,.2f}"
        )
    found = [dataclasses.asdict(row) | {"cost": round(row.cost(prices), 4)} for row in rows]
    print(json.dumps({**dataclasses.asdict(prices), "gpu": GPU, "rows": found}))


def all_rows() -> list[Row]:
    """The table, by job."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = made_folder(Path(scratch))
        return [curation(), *servings(folder), *trainings(folder)]


def curation() -> Row:
    """Hours of video of up to 720p, with BlazePose and composed captions; stored besides the kept clips' own videos."""
    seconds = HOURS * 3600
    return Row(
        f"curate {HOURS} h of video",
        cpu_hours=HOURS * (PLAN_CPU + SCORE_CPU),
        stored_gb=RECORD_BYTES * seconds / 1e9,
    )


def servings(folder: Path) -> list[Row]:
    """Videos made of full-body pictures; the memory is what the anchor's record takes of one host."""
    found = []
    for size, (height, width) in SIZES.items():
        for minutes in MINUTES:
            timeline, placement = plan(60 * RATE * minutes), Placement("cuda", "bfloat16")
            made = Estimate(
                folder, timeline, (width, height), STEPS, Guidance(GUIDANCE), "full-body", placement
            )
            hours = made.flops / (EFFICIENCY * PEAK_FLOPS[GPU]) / 3600
            job = f"make {minutes} min of {size} at {RATE} frames/s"
            found.append(Row(job, gpu_hours=hours, memory_gb=made.record / 1e9))
    return found


def trainings(folder: Path) -> list[Row]:
    """Trainings that see so many clips once, on the fewest GPUs that hold them; the memory is that of each."""
    rows = {row["config"]: row for row in training_rows(folder) if row["card"] == GPU}
    found = []
    for name in TRAININGS:
        row = rows[name]
        hours = CLIPS * row["clip_seconds"] / 3600
        found.append(Row(f"train {name} on {CLIPS:,} clips", hours, memory_gb=row["gb"]))
    return found


if __name__ == "__main__":
    main()
