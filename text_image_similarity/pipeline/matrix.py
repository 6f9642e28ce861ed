"""Score every image with every caption: the whole matrix, or tile by tile if it does not fit in memory."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from itertools import islice

import httpx
import numpy as np

from ..checks import at_least, settings_in_config
from ..config import ConfigLike, ScoreKind, as_config, pair_score
from ..embeddings import Vector
from ..encoders import Encoder
from ..errors import RowError
from ..similarity import Embeddings, score_all
from .inputs import images_of, texts_of
from .rows import Outcome
from .scorer import Scorer
from .session import through
from .sources import ImageSource


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of a similarity matrix.

    Args:
        row: Index of the tile's first image.
        column: Index of the tile's first caption.
        scores: Scores, shape (images, captions), float32; NaN where the image or the caption could not be encoded.
        image_errors: For each of the tile's images, the reason why it could not be encoded, or None.
        text_errors: For each of the tile's captions, the reason why it could not be encoded, or None.
    """

    row: int
    column: int
    scores: Embeddings
    image_errors: tuple[str | None, ...]
    text_errors: tuple[str | None, ...]


@settings_in_config
def similarity_matrix(
    images: Iterable[ImageSource],
    texts: Iterable[str],
    config: ConfigLike = None,
    *,
    encoder: Encoder | None = None,
    transport: httpx.BaseTransport | None = None,
) -> Embeddings:
    """Score every image with every caption.

    Args:
        images: Images, as for `embed_images`.
        texts: Captions.
        config: The settings of the call, or a model's name; None is `Config()`.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.
        transport: Transport for HTTP requests, for tests; None is the network.

    Returns:
        Scores, shape (images, captions), as from `Scorer.similarity_matrix`; for a matrix that does not fit in memory,
        use `similarity_tiles`.

    Raises:
        ConfigError, ModelError: The model cannot be used, or the score kind needs references.
        InputTypeError: An image or a caption has a type that is not supported.
    """
    images, texts = images_of(images), texts_of(texts)
    config = as_config(config)
    pair_score(config, "a matrix")
    with Scorer(config, encoder=encoder, transport=transport) as scorer:
        return scorer.similarity_matrix(images, texts)


@settings_in_config
def similarity_tiles(
    images: Iterable[ImageSource],
    texts: Iterable[str],
    config: ConfigLike | Scorer = None,
    *,
    side: int = 1024,
    encoder: Encoder | None = None,
    transport: httpx.BaseTransport | None = None,
) -> Generator[Tile]:
    """Score every image with every caption, one tile of the matrix at a time.

    All captions are encoded first, and their embeddings are kept; images are encoded when their tiles are requested, so
    there may be any number of them. Memory holds the captions' embeddings, those of `side` images, and one tile.

    Args:
        images: Images, as for `embed_images`.
        texts: Captions.
        config: The settings of the call, a model's name, or an open `Scorer`; None is `Config()`.
        side: Maximum number of images and of captions in a tile.
        encoder, transport: As for `similarity_matrix`.

    Returns:
        Tiles from left to right, then from top to bottom, with the values of `similarity_matrix`; there are none
        without captions.

    Raises:
        ConfigError, ModelError: Immediately.
        InputTypeError: Immediately for the items of a list, otherwise while iterating.

    Example:
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> red = np.zeros((8, 8, 3), np.uint8) + np.uint8([255, 0, 0])
        >>> tiles = similarity_tiles([red], ["red", "blue"], side=1, encoder=ColourEncoder())
        >>> [(tile.row, tile.column, tile.scores.tolist()) for tile in tiles]
        [(0, 0, [[1.0]]), (0, 1, [[0.0]])]
    """
    images, texts = images_of(images), texts_of(texts)
    at_least("side", side, 1)
    kind = pair_score(config.config if isinstance(config, Scorer) else as_config(config), "a matrix")
    return through(
        config,
        lambda scorer: _tiles(scorer, images, texts, (kind, side)),
        encoder=encoder,
        transport=transport,
    )


def _tiles(
    scorer: Scorer, images: Iterable[ImageSource], texts: Iterable[str], how: tuple[ScoreKind, int]
) -> Generator[Tile]:
    kind, side = how
    missing = np.full(scorer.encoder.embed_dim, np.nan, np.float32)
    found = list(scorer.embed_texts(texts))
    columns = [_split(found[at : at + side], missing) for at in range(0, len(found), side)]
    del found
    outcomes, row = scorer.embed_images(images), 0
    while block := list(islice(outcomes, side)):
        rows, image_errors = _split(block, missing)
        for number, (vectors, text_errors) in enumerate(columns):
            yield Tile(row, number * side, score_all(rows, vectors, kind), image_errors, text_errors)
        row += len(block)


def _split(outcomes: list[Outcome], missing: Vector) -> tuple[list[Vector], tuple[str | None, ...]]:
    """Return the vectors, with NaN for items that failed, and the errors."""
    return (
        [missing if isinstance(outcome, RowError) else outcome for outcome in outcomes],
        tuple(str(outcome) if isinstance(outcome, RowError) else None for outcome in outcomes),
    )
