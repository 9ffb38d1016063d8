"""An open database of each kind, and its clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving.state.database import Database
from testkit.jobs import LIMITS, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    database = Database(database_url, LIMITS, clock)
    yield database
    database.close()
