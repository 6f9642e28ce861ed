from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.postgres import new_schema, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL with pgvector."""
    with postgres_server() as url:
        yield url


@pytest.fixture
def postgres_url(postgres: str) -> str:
    """The URL of a schema in PostgreSQL that does not exist yet."""
    return new_schema(postgres)
