"""The server's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.state.rows import Limits


@dataclass(frozen=True)
class ServingConfig:
    """How a server is set up.

    database: SQLite file (sqlite:///FILE) or PostgreSQL server (postgresql://USER:PASSWORD@HOST/NAME). artifacts:
    folder or bucket (s3://.., gs://..) of results, seen by all machines. lease: seconds after which a silent worker's
    task goes to another. limits: see `serving.state.rows.Limits`.
    """

    database: str = "sqlite:///serving.db"
    artifacts: str = "serving_artifacts"
    lease: float = 60.0
    limits: Limits = field(default_factory=Limits)
