"""Images with captions, and loading of their pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import blake2b
from threading import Lock
from types import TracebackType

import httpx
from PIL import Image

from ..config import Config
from ..decode import IsolatedDecoder, decode
from ..errors import ErrorCode, RowError
from ..fetch import Fetcher, check_files

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image and the captions that describe it.

    Args:
        name: Path, URL or row of the image, for messages.
        captions: At least one caption; none is blank.
        source: The encoded file itself, or a reference.
    """

    name: str
    captions: tuple[str, ...]
    source: bytes | str = field(repr=False)

    @property
    def key(self) -> bytes:
        """Digest of the image's bytes, or of its reference as spelled in the table."""
        if isinstance(self.source, bytes):
            return digest(self.source)
        spelled = self.source if SCHEME.match(self.source) else self.name
        return digest(spelled.encode("utf-8", "surrogatepass"))


class ImageLoader:
    """Loads the pixels of captioned images; safe to call from many threads. Close it, or use it in a `with` block.

    Args:
        config: Settings for fetching and decoding: limits, timeouts, retries, proxy, `isolate_decoder`.
        transport: Transport for HTTP requests, for tests; None is the network.
    """

    def __init__(self, config: Config, *, transport: httpx.BaseTransport | None = None) -> None:
        check_files(config)
        self._config, self._transport = config, transport
        self._fetcher: Fetcher | None = None  # opened for the first reference; most data sets contain the images
        self._isolated = IsolatedDecoder(config.limits) if config.isolate_decoder else None
        self._lock = Lock()

    def __enter__(self) -> ImageLoader:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the loader: downloads in progress fail shortly afterwards, and the decoder's processes end."""
        if self._isolated is not None:
            self._isolated.close()
        with self._lock:
            if self._fetcher is not None:
                self._fetcher.close()
                self._fetcher = None

    def load(self, image: CaptionedImage) -> Image.Image:
        """Return an upright image in mode RGB.

        Raises:
            RowError: The image cannot be fetched or decoded.
        """
        content = self.read(image)
        return decode(content, self._config.limits) if self._isolated is None else self._isolated.decode(content)

    def read(self, image: CaptionedImage) -> bytes:
        """Return an image's encoded bytes.

        Raises:
            RowError: The image cannot be fetched, or exceeds `max_bytes`.
        """
        if isinstance(image.source, bytes):
            if len(image.source) > (most := self._config.limits.max_bytes):
                raise RowError(ErrorCode.TOO_MANY_BYTES, f"more than {most:,} bytes")
            return image.source
        with self._lock:
            self._fetcher = self._fetcher or Fetcher(self._config, transport=self._transport)
            fetcher = self._fetcher
        return fetcher.fetch(image.source)


def load_image(image: CaptionedImage, config: Config) -> Image.Image:
    """Return one upright image in mode RGB; to load many, `ImageLoader` is faster.

    Raises:
        RowError: The image cannot be fetched or decoded.
    """
    with ImageLoader(config) as loader:
        return loader.load(image)


def digest(data: bytes) -> bytes:
    """Return a 16-byte digest of some bytes."""
    return blake2b(data, digest_size=16).digest()
