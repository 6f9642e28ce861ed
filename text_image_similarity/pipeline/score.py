"""Records in, scores out: `score_pairs` for references, `score_images` for images in memory.

Each call opens a `Scorer` of its own and closes it at the end; to make many calls, keep one open.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

import httpx

from ..config import Config
from ..encoders import Encoder
from ..records import Record, ScoreResult
from .inputs import check_pairs, check_record, checked
from .loaders import closing_after
from .scorer import Scorer
from .sources import ImageSource
from .stats import RunStats


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
        InputTypeError: At once for what is in a list, else while iterating: something is not a record.

    Example:
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> dot = Record("data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs=", "a red dot")
        >>> [result.similarity for result in score_pairs([dot], Config(), encoder=ColourEncoder())]
        [1.0]
    """
    records = checked(records, "records", check_record)  # before a model is loaded
    scorer = Scorer(config, encoder=encoder, transport=transport)
    return closing_after(scorer, scorer.score_pairs(records, stats=stats))


def score_images(
    images: Iterable[ImageSource],
    texts: Iterable[str],
    config: Config,
    *,
    encoder: Encoder | None = None,
) -> Generator[ScoreResult]:
    """Score pictures that are in memory already, with the same numbers as from their files.

    With `preprocess="fast"` that holds for encoded files: a picture that is open already is decoded whole.

    Args:
        images: PIL images of any mode (turned upright if they come straight from `Image.open`), RGB arrays (h, w, 3)
            uint8, encoded files (bytes; the fastest, because they are decoded on several threads), mappings
            `{"bytes": ..., "path": ...}`, or references as for `embed_images`.
        texts: One caption for each.
        config: The settings of the run.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.

    Returns:
        One result per pair, in order, as from `score_pairs`.

    Raises:
        ConfigError, ModelError: At once.
        InputTypeError: At once for what is in a list, else while iterating: an image is something else, such as a tensor.
        ValueError: There are more of one than of the other; while iterating, where that is not known before.
    """
    images, texts = check_pairs(images, texts)  # before a model is loaded
    scorer = Scorer(config, encoder=encoder)
    return closing_after(scorer, scorer.score_images(images, texts))
