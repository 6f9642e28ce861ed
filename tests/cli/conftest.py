from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

logger = logging.getLogger("text_image_similarity")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, levels, factory = root.handlers[:], (root.level, logger.level), logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)  # Ray, which other tests start here, adds fields to every record
    yield
    logging.setLogRecordFactory(factory)
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    logger.setLevel(levels[1])
