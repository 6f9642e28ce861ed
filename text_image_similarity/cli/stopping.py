"""SIGTERM handling: the first signal lets a run finish its current part, and a second one ends the process at once."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType, TracebackType

logger = logging.getLogger("text_image_similarity")


class Stopping:
    """A context in which SIGTERM requests an orderly end instead of ending the process.

    A second signal loses only the current part: finished parts are on disk.
    """

    def __init__(self) -> None:
        self._asked = self._at_work = False

    def asked(self) -> bool:
        """Tell whether the run should end; the first call also records that parts are in progress from now on."""
        self._at_work = True
        return self._asked

    def __enter__(self) -> Stopping:
        self._earlier = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        signal.signal(signal.SIGTERM, self._earlier)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            os._exit(128 + signal.SIGTERM)
        if not self._at_work:
            logger.warning("SIGTERM: ending before the first row; the same command starts or resumes the run")
            sys.exit(128 + signal.SIGTERM)  # not an Exception, so no handler of model errors catches it
        self._asked = True
        logger.warning(
            "SIGTERM: ending after the current part; a second SIGTERM ends the run at once and loses that part"
        )
