"""Embed images and captions, for callers that compare all of them with each other."""

from __future__ import annotations

from collections.abc import Generator, Iterable

import httpx

from ..checks import settings_in_config
from ..config import ConfigLike
from ..encoders import Encoder
from .inputs import images_of, texts_of
from .loaders import closing_after
from .rows import Outcome
from .scorer import Scorer
from .sources import ImageSource


@settings_in_config
def embed_images(
    images: Iterable[ImageSource],
    config: ConfigLike = None,
    *,
    encoder: Encoder | None = None,
    transport: httpx.BaseTransport | None = None,
) -> Generator[Outcome]:
    """Encode images as `score_pairs` and `score_images` do, lazily and with a bounded look-ahead.

    Args:
        images: References (paths, http(s), `file:` and `data:` URLs), images in memory or encoded files.
        config: The settings of the run, or a model's name; None is `Config()`.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.
        transport: Transport for HTTP requests, for tests; None is the network.

    Returns:
        For each image, in order, its unit vector, shape (embed_dim,) float32, or a `RowError`, which is not raised.

    Raises:
        ConfigError, ModelError: Immediately, before an image is read.
        InputTypeError: As from `score_images`.
    """
    images = images_of(images)  # check before a model is loaded
    scorer = Scorer(config, encoder=encoder, transport=transport)
    return closing_after(scorer, scorer.embed_images(images))


@settings_in_config
def embed_texts(
    texts: Iterable[str], config: ConfigLike = None, *, encoder: Encoder | None = None
) -> Generator[Outcome]:
    """Encode captions in batches of `config.batch_size`.

    Args:
        texts: Captions.
        config: The settings of the run, or a model's name; None is `Config()`.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.

    Returns:
        For each caption, in order, its unit vector, shape (embed_dim,) float32, or a `RowError`, which is not raised.

    Raises:
        ConfigError, ModelError: Immediately.
        InputTypeError: Immediately if `texts` is a single text, not iterable, or a list with other items; for the items
            of other iterables, when they are reached.
    """
    texts = texts_of(texts)
    scorer = Scorer(config, encoder=encoder)
    return closing_after(scorer, scorer.embed_texts(texts))
