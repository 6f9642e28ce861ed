"""An image's way from its reference to what an encoder takes: read, decoded and resized, or why that failed.

The threads of a run, those of the service and those of feeder processes take it, so that all give the same pixels and errors.
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
from .rows import LoadedImage
from .stats import RunStats

logger = logging.getLogger("text_image_similarity")


class Preparer(Protocol):
    """What makes images ready for an encoder: the encoder itself, or all of it that this takes."""

    @property
    def decode_side(self) -> int | None:
        """Shorter side, in pixels, that images may be reduced to while they are decoded; None: decode them whole."""

    def prepare(self, image: Image.Image) -> Any:
        """Bring one RGB image to what the encoder takes; called on any thread."""


class PixelLoader:
    """Reads, decodes and resizes images for one encoder. Safe to share between threads.

    Args:
        config: Its limits and `isolate_decoder` are used.
        preparer: Makes images ready.
        fingerprint: Of the encoder.
        find: Gives the embedding that is kept for an image's content key, or None.
        cores: How many images are decoded at the same time.
        decoding: Entered while an image is decoded and resized.

    Raises:
        ConfigError: Decoders cannot be isolated here.
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
        # What is known of an image's content holds for these caps alone.
        self._scope = f"{fingerprint} {config.limits.max_pixels} {config.limits.max_side}"
        self._most_bytes = config.limits.max_bytes
        # Large images are decoded a few at a time; where others do it, they decode the next ones as these are resized.
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
            read: Gives the image's encoded bytes, or the image in RGB.
            stats: Told how long decoding takes.
        """
        try:
            content = read()
            if not isinstance(content, bytes):
                with self._decoders, self._decoding(), stats.timed("decode"):
                    return LoadedImage(None, self._preparer.prepare(content))
            if len(content) > self._most_bytes:  # in memory already; what is fetched was stopped before
                raise RowError(ErrorCode.TOO_MANY_BYTES, f"more than {self._most_bytes:,} bytes")
            key = content_key(self._scope, "image", content)
            if (vector := self._find(key)) is not None:
                return LoadedImage(key, vector=vector)
            with self._decoders, self._decoding(), stats.timed("decode"):
                image = self._decode(content, shorter_side=self._preparer.decode_side)
                return LoadedImage(key, self._preparer.prepare(image))
        except RowError as error:
            return error
        except Exception as exc:  # a row must never end the run
            logger.debug("an image could not be loaded", exc_info=True)
            return RowError(ErrorCode.DECODER_CRASH, f"{type(exc).__name__}: {exc}")
