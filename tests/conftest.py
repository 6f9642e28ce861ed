"""Fixtures: pictures with a known colour, tiny models on disk, a loopback server that misbehaves on demand."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Before transformers is imported anywhere: nothing under test may ask a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Exported models go to a cache of this session's own, not to the home of whoever runs the tests.
_CACHE = tempfile.TemporaryDirectory(prefix="text-image-similarity-tests-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name


from tests.support.images import make_png  # noqa: E402 - after the environment is set
from tests.support.server import Server  # noqa: E402 - after the environment is set

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def pytest_sessionfinish() -> None:
    _CACHE.cleanup()


@pytest.fixture
def png() -> Callable[..., bytes]:
    return make_png


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.models import save_clip

    return save_clip(tmp_path_factory.mktemp("tiny_clip"))


@pytest.fixture(scope="session")
def tiny_siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.models import save_siglip

    return save_siglip(tmp_path_factory.mktemp("tiny_siglip"))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    from tests.support.spark_sessions import local_session

    with local_session() as session:
        yield session
