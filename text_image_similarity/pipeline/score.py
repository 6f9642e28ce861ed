"""Score pairs: `score` returns an array, `score_pairs` takes references, `score_images` takes images in memory.

Each call opens its own `Scorer` and closes it at the end; for many calls, keep one open.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Mapping
from typing import cast

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..checks import settings_in_config
from ..config import ConfigLike
from ..encoders import Encoder
from ..records import EncodedImage, ScoreResult
from .inputs import RecordLike, check_pairs, images_of, records_of, texts_of
from .loaders import closing_after
from .progress import length_of, watched
from .scorer import Scorer
from .sources import ImageSource
from .stats import RunStats

logger = logging.getLogger("text_image_similarity")


def score(
    images: ImageSource | Iterable[ImageSource],
    texts: str | Iterable[str],
    model: ConfigLike = None,
    *,
    encoder: Encoder | None = None,
    progress: bool | None = None,
) -> NDArray[np.float32]:
    """Score images with texts, and return the scores as an array.

    Args:
        images: One image for each text, as for `score_images`: paths, URLs, PIL images, arrays, encoded files. A single
            image is scored with every text.
        texts: One text for each image. A single text is scored with every image.
        model: A model's name, or a `Config`; None is `Config()`.
        encoder: A loaded encoder to use and share; None loads the one that `model` names.
        progress: Whether to show a progress bar; None shows one only in notebooks.

    Returns:
        Scores, shape (n,), float32, in the score kind of the settings: by default cosines from -1 to 1. The score of a
        failed pair is NaN, and a warning in the log says why; `score_pairs` and `score_images` return the error of each
        pair.

    Raises:
        ConfigError, ModelError: The model cannot be used.
        InputTypeError: An image or a text has a type that is not supported.
        ValueError: There are several images and several texts, and their numbers differ.

    Example:
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> dot = "data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs="
        >>> score(dot, ["a red dot", "a magenta dot"], encoder=ColourEncoder()).round(4)
        array([1.    , 0.7071], dtype=float32)
    """
    if _is_single(images):
        images = [cast(ImageSource, images)]
    given = list(images_of(cast(Iterable[ImageSource], images)))
    captions = [texts] if isinstance(texts, str) else list(texts_of(texts))
    if min(len(given), len(captions)) == 1:
        given, captions = given * len(captions), captions * len(given)
    results = list(score_images(given, captions, model, encoder=encoder, progress=progress))
    failed = [(number, result.error) for number, result in enumerate(results) if result.error is not None]
    if failed:
        said = "%s of %s pairs have no score; the first of them is pair %s: %s"
        logger.warning(said, f"{len(failed):,}", f"{len(results):,}", *failed[0])
    return np.array([result.similarity for result in results], np.float32)


def _is_single(images: object) -> bool:
    is_array = getattr(images, "ndim", 0) == 3
    return is_array or isinstance(images, str | os.PathLike | Image.Image | EncodedImage | Mapping)


@settings_in_config
def score_pairs(
    records: Iterable[RecordLike],
    config: ConfigLike = None,
    *,
    encoder: Encoder | None = None,
    transport: httpx.BaseTransport | None = None,
    stats: RunStats | None = None,
    progress: bool | None = False,
) -> Generator[ScoreResult]:
    """Score how well the image of each record matches its text.

    Results are computed lazily, in input order and with a bounded look-ahead, so the iterable may be endless. Closing
    the iterator stops its threads.

    Args:
        records: Images with their captions. Each is a `Record`, a tuple `(image, text)`, or a mapping with the keys
            `url` (or `image`) and `text` (or `caption`).
        config: The settings of the run, or a model's name; None is `Config()`.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.
        transport: Transport for HTTP requests, for tests; None is the network.
        stats: Counters to update during the run.
        progress: Whether to show a progress bar, which counts the results that have been read; None shows one only in
            notebooks.

    Returns:
        One result per record. For a row that fails, the result has the error; no exception is raised.

    Raises:
        ConfigError, ModelError: Immediately, before a record is read.
        InputTypeError: An item is not a record; raised immediately for the items of a list, otherwise while iterating.

    Example:
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> dot = "data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs="
        >>> [result.similarity for result in score_pairs([(dot, "a red dot")], encoder=ColourEncoder())]
        [1.0]
    """
    given = records_of(records)  # before a model is loaded
    scorer = Scorer(config, encoder=encoder, transport=transport)
    return watched(closing_after(scorer, scorer.score_pairs(given, stats=stats)), length_of(records), progress=progress)


@settings_in_config
def score_images(
    images: Iterable[ImageSource],
    texts: Iterable[str],
    config: ConfigLike = None,
    *,
    encoder: Encoder | None = None,
    progress: bool | None = False,
) -> Generator[ScoreResult]:
    """Score images in memory, with the same results as from their files.

    With `preprocess="fast"`, this is true only of encoded files: an image that is already open is decoded at full size.

    Args:
        images: PIL images of any mode (turned upright if they come straight from `Image.open`), RGB arrays and tensors
            (h, w, 3) or (3, h, w), of uint8 or of floats from 0 to 1, encoded files (bytes; the fastest, because they
            are decoded on several threads), mappings `{"bytes": ..., "path": ...}`, or references as for
            `embed_images`.
        texts: One caption for each image.
        config: The settings of the run, or a model's name; None is `Config()`.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.
        progress: As for `score_pairs`.

    Returns:
        One result per pair, in order, as from `score_pairs`.

    Raises:
        ConfigError, ModelError: Immediately.
        InputTypeError: An image or a caption has a type that is not supported; raised immediately for the items of a
            list, otherwise while iterating.
        ValueError: The numbers of images and captions differ; raised while iterating if they are not known beforehand.
    """
    images, texts = check_pairs(images, texts)  # before a model is loaded
    scorer = Scorer(config, encoder=encoder)
    return watched(closing_after(scorer, scorer.score_images(images, texts)), length_of(images), progress=progress)
