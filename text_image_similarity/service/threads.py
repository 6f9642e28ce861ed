"""The threads that fetch and decode, shared by the models of a service."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import httpx

from ..config import Config
from ..errors import ErrorCode, RowError
from ..fetch import Fetcher
from ..pipeline.loaders import Loaders

logger = logging.getLogger("text_image_similarity")

Task = Callable[[], None]


class Threads:
    """Many threads that wait for the network, and as many as there are processors that decode.

    Args:
        config: How pictures are fetched; `io_workers` is the number of fetching threads.
        transport: Where http requests go, for tests; None is the network.
    """

    def __init__(self, config: Config, transport: httpx.BaseTransport | None = None) -> None:
        self._fetcher = Fetcher(config, transport=transport)
        self._fetching: Loaders[Task, None] = Loaders(config.io_workers, _run)
        self._decoding: Loaders[Task, None] = Loaders(os.cpu_count() or 1, _run)

    def fetch(self, task: Task) -> None:
        """Queue something that waits for the network."""
        self._fetching.submit(task)

    def decode(self, task: Task) -> None:
        """Queue something that keeps a processor busy."""
        self._decoding.submit(task)

    def read(self, reference: str) -> bytes | RowError:
        """Return what a reference points to, or what went wrong; never raises."""
        try:
            return self._fetcher.fetch(reference)
        except RowError as error:
            return error
        except Exception as exc:  # a row's fault must stay a row's
            logger.debug("a picture could not be fetched", exc_info=True)
            return RowError(ErrorCode.BAD_RESPONSE, f"{type(exc).__name__}: {exc}")

    def close(self) -> None:
        """Stop downloads, drop what has not started, wait for the rest."""
        self._fetcher.close()
        self._fetching.close()
        self._decoding.close()


def _run(task: Task) -> None:
    task()
