from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import postgres_server, schema_at


@pytest.fixture(scope="session")
def postgres() -> Iterator[None]:
    """A PostgreSQL with pgvector; `tests.support.postgres.schema_at` has its URLs."""
    with postgres_server():
        yield


@pytest.fixture
def postgres_url(postgres: None, tmp_path: Path) -> str:
    """The URL of a schema in PostgreSQL that does not exist yet."""
    return schema_at(tmp_path)
