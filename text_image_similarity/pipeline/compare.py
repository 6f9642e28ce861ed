"""Similarity of images with images, and of texts with texts, pair by pair.

For generated and real images of one subject, the mean of `image_similarity` is CLIP-I (Ruiz et al. 2023, "DreamBooth",
section 4.1). CLIP-T in the same paper compares images with their prompts: it is the mean of `score_images`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sized
from contextlib import closing

import httpx

from ..checks import settings_in_config
from ..config import ConfigLike, ScoreKind, as_config, pair_score
from ..encoders import Encoder
from ..errors import RowError
from ..records import ScoreResult
from ..similarity import as_floats, cosine, score
from .inputs import check_caption, checked, images_of
from .rows import Item, Outcome
from .scorer import Scorer
from .session import through
from .sources import ImageSource
from .stages import vectors_of


@settings_in_config
def image_similarity(
    images: Iterable[ImageSource],
    others: Iterable[ImageSource],
    config: ConfigLike | Scorer = None,
    *,
    encoder: Encoder | None = None,
    transport: httpx.BaseTransport | None = None,
) -> Generator[ScoreResult]:
    """Score the similarity of each image to another image.

    Args:
        images: Images, as for `embed_images`.
        others: Images to compare with, one for each image.
        config: The settings of the call, a model's name, or an open `Scorer`; None is `Config()`.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.
        transport: Transport for HTTP requests, for tests; None is the network.

    Returns:
        One result per pair, in order, in the score kind of the settings; if both items of a pair fail, the result has
        the error of the first.

    Raises:
        ConfigError, ModelError: Immediately.
        InputTypeError: Immediately for the items of a list, otherwise while iterating.
        ValueError: The numbers of items differ; raised while iterating if they are not known beforehand.

    Example:
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> import numpy as np
        >>> red, yellow = (np.zeros((8, 8, 3), np.uint8) + np.uint8(colour) for colour in ([255, 0, 0], [255, 255, 0]))
        >>> [result.similarity for result in image_similarity([red], [yellow], encoder=ColourEncoder())]
        [0.70710677]
    """
    images, others = images_of(images), images_of(others, "others")
    return through(
        config,
        _pairwise(images, others, config, lambda scorer, both: scorer.embed_images(both)),
        encoder=encoder,
        transport=transport,
    )


@settings_in_config
def text_similarity(
    texts: Iterable[str], others: Iterable[str], config: ConfigLike | Scorer = None, *, encoder: Encoder | None = None
) -> Generator[ScoreResult]:
    """Score the similarity of each text to another text, according to the model's text tower.

    Args:
        texts: Texts.
        others: Texts to compare with, one for each text.
        config: The settings of the call, a model's name, or an open `Scorer`; None is `Config()`.
        encoder: As for `image_similarity`.

    Returns:
        One result per pair, in order, as from `image_similarity`.

    Raises:
        ConfigError, ModelError: Immediately.
        InputTypeError: Immediately for the items of a list, otherwise while iterating.
        ValueError: The numbers of items differ; raised while iterating if they are not known beforehand.

    Example:
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> [result.similarity for result in text_similarity(["red"], ["yellow"], encoder=ColourEncoder())]
        [0.70710677]
    """
    texts, others = checked(texts, "texts", check_caption), checked(others, "others", check_caption)
    return through(
        config,
        _pairwise(texts, others, config, lambda scorer, both: scorer.embed_texts(both)),
        encoder=encoder,
        transport=None,
    )


def _pairwise(
    items: Iterable[Item],
    others: Iterable[Item],
    config: ConfigLike | Scorer,
    embed: Callable[[Scorer, Iterable[Item]], Generator[Outcome]],
) -> Callable[[Scorer], Generator[ScoreResult]]:
    """Return the function that scores the pairs in a session.

    Raises:
        ValueError: The numbers of items are known and differ.
    """
    if isinstance(items, Sized) and isinstance(others, Sized) and len(items) != len(others):
        raise ValueError(f"{len(items):,} items cannot be compared with {len(others):,} others; pass one for each")
    kind = pair_score(
        config.config if isinstance(config, Scorer) else as_config(config), "a comparison of two images or two captions"
    )

    def results(scorer: Scorer) -> Generator[ScoreResult]:
        # Alternating, so that one pass encodes both sides, and an item that occurs on both is encoded only once.
        both = (item for pair in zip(items, others, strict=True) for item in pair)
        with closing(embed(scorer, both)) as outcomes:
            for one in outcomes:
                yield _scored(one, next(outcomes), kind)

    return results


def _scored(one: Outcome, other: Outcome, kind: ScoreKind) -> ScoreResult:
    if isinstance(pair := vectors_of(one, other), RowError):
        return ScoreResult.failed(pair)
    (similarity,) = as_floats(score(cosine(pair[0][None], pair[1][None]), kind))
    return ScoreResult(similarity)
