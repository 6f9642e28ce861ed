"""Records in, scores out: `score_pairs` for references, `score_images` for pictures in memory.

`embed_images` and `embed_texts` stop half-way, at the embeddings, for doors that compare all with all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import closing
from hashlib import blake2b
from itertools import chain, islice
from threading import Lock
from typing import Any, TypeVar

import httpx
from PIL import Image

from ..config import Config
from ..decode import decode_image
from ..encoders import Encoder, load_encoder
from ..fetch import Fetcher
from ..preprocess import ImageLike, as_image
from ..records import Record, ScoreResult
from .encoding import encode_each, is_caption, no_caption
from .rows import Outcome
from .run import Run, open_cache
from .stats import RunStats

Item = TypeVar("Item")

# A path or URL, a picture in memory, or an encoded file.
ImageSource = str | os.PathLike[str] | ImageLike | bytes | bytearray | memoryview


def score_pairs(
    records: Iterable[Record],
    config: Config,
    *,
    encoder: Encoder | None = None,
    transport: httpx.BaseTransport | None = None,
    stats: RunStats | None = None,
) -> Generator[ScoreResult]:
    """Score how well each record's picture matches its text.

    Lazy and streaming: results come in input order, look-ahead is bounded, and an endless iterable is fine. Closing the
    iterator stops its threads.

    Args:
        records: Pictures and captions.
        config: The settings of the run.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.
        transport: Where http requests go, for tests; None is the network.
        stats: Counters to update while the run goes.

    Returns:
        One result per record. A row that fails carries its error and never raises.

    Raises:
        ConfigError, ModelError: At once, before a record is read.

    Example:
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> dot = Record("data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs=", "a red dot")
        >>> [result.similarity for result in score_pairs([dot], Config(), encoder=ColourEncoder())]
        [1.0]
    """
    return score_parts(_parts(records, config.chunk_size), config, encoder=encoder, transport=transport, stats=stats)


def score_parts(
    parts: Iterable[Iterable[Record]],
    config: Config,
    *,
    encoder: Encoder | None = None,
    transport: httpx.BaseTransport | None = None,
    stats: RunStats | None = None,
) -> Generator[ScoreResult]:
    """Score records part by part; what a part's numbers are does not depend on other parts.

    So a job that keeps its finished parts may go on later and get the numbers of one that never stopped.

    Args:
        parts: Records, in parts that end with the iterable that holds them; `score_pairs` makes some of
            `config.chunk_size` records.
        config, encoder, transport, stats: As for `score_pairs`.

    Returns:
        One result per record, in order, parts one after the other.

    Raises:
        ConfigError, ModelError: At once, before a record is read.
    """
    encoder = _ready(config, encoder)

    def results() -> Generator[ScoreResult]:
        fetcher = Fetcher(config, transport=transport)

        def read(url: str) -> bytes:
            with run.stats.timed("fetch"):
                return fetcher.fetch(url)

        run = Run(config, encoder, read, stats or RunStats())
        pairs = (((_key(url), url, r.text) for r in part for url in (_reference(r.url),)) for part in parts)
        with closing(run), closing(fetcher):  # the fetcher first, so that no thread stays in a download
            yield from run.results(pairs)

    return results()


def score_images(
    images: Iterable[ImageLike | bytes | bytearray | memoryview],
    texts: Iterable[str],
    config: Config,
    *,
    encoder: Encoder | None = None,
) -> Generator[ScoreResult]:
    """Score pictures that are in memory already, with the same numbers as from their files.

    With `preprocess="fast"` that holds for encoded files: a picture that is open already is decoded whole.

    Args:
        images: PIL images of any mode (turned upright if they come straight from `Image.open`), RGB arrays (h, w, 3)
            uint8, or encoded files (bytes; the fastest, because they are decoded on several threads).
        texts: One caption for each.
        config: The settings of the run.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.

    Returns:
        One result per pair, in order, as from `score_pairs`.

    Raises:
        ConfigError, ModelError: At once.
        ValueError: While iterating, if there are more of one than of the other.
    """
    encoder = _ready(config, encoder)

    def results() -> Generator[ScoreResult]:
        pairs = ((number, *pair) for number, pair in enumerate(zip(images, texts, strict=True)))
        with closing(Run(config, encoder, _memory_reader(config), RunStats())) as run:
            yield from run.results(_parts(pairs, config.chunk_size))

    return results()


def embed_images(
    images: Iterable[ImageSource],
    config: Config,
    *,
    encoder: Encoder | None = None,
    transport: httpx.BaseTransport | None = None,
) -> Generator[Outcome]:
    """Encode pictures as `score_pairs` and `score_images` do, lazily and with a bounded look-ahead.

    Args:
        images: References (paths, http(s), `file:` and `data:` URLs), pictures in memory or encoded files.
        config: The settings of the run.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.
        transport: Where http requests go, for tests; None is the network.

    Returns:
        For each picture, in order, its unit vector, shape (embed_dim,) float32, or a `RowError`, which is not raised.

    Raises:
        ConfigError, ModelError: At once, before a picture is read.
    """
    encoder = _ready(config, encoder)

    def outcomes() -> Generator[Outcome]:
        fetcher, from_memory = Fetcher(config, transport=transport), _memory_reader(config)

        def read(image: ImageSource) -> Image.Image | bytes:
            return fetcher.fetch(_reference(image)) if isinstance(image, (str, os.PathLike)) else from_memory(image)

        keyed = ((_source_key(image, number), image) for number, image in enumerate(images))
        with closing(Run(config, encoder, read, RunStats())) as run, closing(fetcher):
            yield from run.embeddings(keyed)

    return outcomes()


def embed_texts(texts: Iterable[str], config: Config, *, encoder: Encoder | None = None) -> Generator[Outcome]:
    """Encode captions in batches of `config.batch_size`.

    Args:
        texts: Captions.
        config: The settings of the run.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.

    Returns:
        For each caption, in order, its unit vector, shape (embed_dim,) float32, or a `RowError`, which is not raised.

    Raises:
        ConfigError, ModelError: At once.
    """
    encoder = load_encoder(config) if encoder is None else encoder

    def outcomes() -> Generator[Outcome]:
        rest = iter(texts)
        while chunk := list(islice(rest, config.batch_size)):
            encoded = iter(encode_each(encoder.encode_text, [text for text in chunk if is_caption(text)]))
            yield from (next(encoded) if is_caption(text) else no_caption() for text in chunk)

    return outcomes()


def record(url: Any, caption: Any) -> Record:
    """Return a table's row as a record: a number counts as its text, as CSV would hold it; what else is no text has none."""
    return Record(*(str(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else v for v in (url, caption)))


def _parts(items: Iterable[Item], size: int) -> Iterator[Iterator[Item]]:
    """Cut an iterable lazily; a part is to be used up before the next one is asked for."""
    rest = iter(items)
    for first in rest:
        yield chain([first], islice(rest, size - 1))


def _ready(config: Config, encoder: Encoder | None) -> Encoder:
    """Return the encoder of a run, and raise at once what would keep the run from starting."""
    encoder = load_encoder(config) if encoder is None else encoder
    if (cache := open_cache(config, encoder)) is not None:
        cache.close()
    return encoder


def _memory_reader(config: Config) -> Callable[[ImageLike | bytes | bytearray | memoryview], Image.Image | bytes]:
    one_at_a_time = Lock()

    def read(image: ImageLike | bytes | bytearray | memoryview) -> Image.Image | bytes:
        if isinstance(image, (bytes, bytearray, memoryview)):
            return bytes(image)
        with one_at_a_time:  # one that Image.open left unread may be given twice, and two threads must not read it
            return decode_image(as_image(image), config.limits)

    return read


def _source_key(image: ImageSource, number: int) -> Hashable:
    return _key(_reference(image)) if isinstance(image, (str, os.PathLike)) else number


def _reference(url: object) -> str:
    """Return a record's reference as text; anything but text or a path counts as empty."""
    return str(url) if isinstance(url, (str, os.PathLike)) else ""


def _key(url: str) -> Hashable:
    """Return what stands for a reference among those within reach: itself, or the digest of a long data: URL."""
    return url if len(url) <= 256 else blake2b(url.encode("utf-8", "surrogatepass"), digest_size=16).digest()
