"""Load images: read, decode and resize them, from a reference to the encoder's input.

The threads of runs, of the service and of feeder processes all use `PixelLoader`, so they get the same pixels and
errors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import BoundedSemaphore
from typing import Any, Protocol

from PIL import Image

from ..config import Config
from ..decode import IsolatedDecoder, decode
from ..embeddings import Vector, content_key
from ..errors import ErrorCode, RowError
from ..system import forget_frames
from .rows import LoadedImage
from .stats import RunStats

logger = logging.getLogger("text_image_similarity")


class Preparer(Protocol):
    """An object that prepares images for an encoder: the encoder itself, or the part of it that does so."""

    @property
    def decode_side(self) -> int | None:
        """Shorter side, in pixels, that images may be reduced to while they are decoded; None keeps their size."""

    def prepare(self, image: Image.Image) -> Any:
        """Convert one RGB image to the encoder's input; may be called on any thread."""


class PixelLoader:
    """Reads, decodes and resizes images for one encoder. Safe to share between threads.

    Args:
        config: Settings; limits and `isolate_decoder` are used.
        preparer: Object that prepares images.
        fingerprint: Fingerprint of the encoder.
        find: Function that returns the remembered embedding for an image's content key, or None.
        cores: Number of images that are decoded concurrently.
        decoding: Context manager that is entered while an image is decoded and resized.

    Raises:
        ConfigError: Decoders cannot be isolated on this machine.
    """

    def __init__(
        self,
        config: Config,
        preparer: Preparer,
        fingerprint: str,
        find: Callable[[bytes], Vector | None],
        *,
        cores: int,
        decoding: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._preparer, self._find, self._decoding = preparer, find, decoding
        # A remembered embedding is valid only for these limits.
        self._scope = f"{fingerprint} {config.limits.max_pixels} {config.limits.max_side}"
        self._most_bytes = config.limits.max_bytes
        # Large images are decoded a few at a time; isolated decoders decode the next ones while these are resized.
        self._decoders = BoundedSemaphore(cores * (2 if config.isolate_decoder else 1))
        self._isolated = IsolatedDecoder(config.limits, workers=cores) if config.isolate_decoder else None
        self._decode = self._isolated.decode if self._isolated else partial(decode, limits=config.limits)

    def close(self) -> None:
        """Stop the decoder's processes, if there are any."""
        if self._isolated is not None:
            self._isolated.close()

    def load(self, read: Callable[[], bytes | Image.Image], stats: RunStats) -> LoadedImage | RowError:
        """Read, decode and resize one image; never raises.

        Args:
            read: Function that returns the image's encoded bytes, or the image in RGB.
            stats: Counters that receive the time spent on decoding.
        """
        try:
            content = read()
            if not isinstance(content, bytes):
                with self._decoders, self._decoding(), stats.timed("decode"):
                    return LoadedImage(None, self._preparer.prepare(content))
            if len(content) > self._most_bytes:  # already in memory; a download would have been stopped earlier
                raise RowError(ErrorCode.TOO_MANY_BYTES, f"more than {self._most_bytes:,} bytes")
            key = content_key(self._scope, "image", content)
            if (vector := self._find(key)) is not None:
                return LoadedImage(key, vector=vector)
            with self._decoders, self._decoding(), stats.timed("decode"):
                image = self._decode(content, shorter_side=self._preparer.decode_side)
                return LoadedImage(key, self._preparer.prepare(image))
        except RowError as error:
            forget_frames(error)  # they hold the image
            return error
        except Exception as exc:  # a single row must never end the run
            logger.debug("an image could not be loaded", exc_info=True)
            return RowError(ErrorCode.DECODER_CRASH, f"{type(exc).__name__}: {exc}")
