from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def started(postgres: None) -> None:
    """PostgreSQL runs before any store is opened."""
