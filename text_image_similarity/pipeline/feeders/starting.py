"""Start feeders, immediately or when a run turns out to be long."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from threading import Lock
from weakref import finalize

from ...embeddings import Vector
from ...errors import ConfigError
from ..loaders import close_in
from .plan import FeederPlan
from .pool import Feeders

logger = logging.getLogger("text_image_similarity")


class LazyFeeders:
    """The feeders of a session, started for the first run that needs them. Safe to share between threads.

    Args:
        plan: Plan of the feeders; None if there are none.
        find: Function that returns the remembered embedding for an image's content key, or None.
    """

    def __init__(self, plan: FeederPlan | None, find: Callable[[bytes], Vector | None]) -> None:
        self._plan, self._find = plan, find
        self._lock = Lock()
        self._made: Feeders | None = None
        self._closed = False

    @property
    def look_ahead(self) -> int:
        """The most images of one run that may be in progress at a time; 0 if there are no feeders."""
        return self._plan.look_ahead if self._plan else 0

    def after(self, images: int) -> Feeders | None:
        """Return the feeders for a run that has begun to load `images` images; None if it loads the next image itself.

        Raises:
            ConfigError: `config.feeders` is a number, and the feeders cannot be started.
        """
        plan = self._plan
        if plan is None or images <= plan.after:
            return None
        with self._lock:
            if self._closed:
                return None
            if self._made is None:
                try:
                    self._made = Feeders(plan, self._find)
                    finalize(self, close_in, os.getpid(), self._made.abandon).atexit = False
                except ConfigError as error:
                    if not plan.after:
                        raise
                    logger.warning("images are loaded in this process: %s", error)
                    self._plan = None
                    return None
            return self._made if self._made.usable else None

    def close(self) -> None:
        """Stop the feeders, if there are any."""
        with self._lock:
            self._closed = True
            made = self._made
        if made is not None:
            made.close()
