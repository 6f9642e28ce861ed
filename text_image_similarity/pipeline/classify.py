"""Zero-shot classification: the best label for an image, without training (Radford et al. 2021, CLIP, section 3.1).

A label's vector is the normalised mean of its prompts' unit vectors: CLIP's prompt ensembling, section 3.1.4.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

import httpx
import numpy as np
from numpy.typing import NDArray

from ..checks import settings_in_config
from ..config import ConfigLike
from ..encoders import Encoder
from ..errors import ConfigError, InputTypeError, RowError, UsageError
from ..similarity import Embeddings, cosine
from .inputs import images_of
from .rows import Outcome
from .scorer import Scorer
from .session import through
from .sources import ImageSource

# Seven prompts that work as well as all 80, according to OpenAI's notebook "Prompt Engineering for ImageNet".
CLIP_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


@dataclass(frozen=True, slots=True)
class Classification:
    """The label of one image, or the reason why it has none.

    Args:
        label: The best label; None if the image failed.
        probability: Probability of the best label among all labels, 0..1; NaN if the image failed.
        probabilities: Probability of each label, in the order of the labels; they add up to 1. Empty if the image
            failed.
        error: `"<code>: <detail>"` if the image failed, otherwise None.
    """

    label: str | None = None
    probability: float = math.nan
    probabilities: tuple[float, ...] = ()
    error: str | None = None


@settings_in_config
def classify(  # noqa: PLR0913 - what to classify, among what, how, and what tests inject
    images: Iterable[ImageSource],
    labels: Sequence[str],
    config: ConfigLike | Scorer = None,
    *,
    templates: Sequence[str] = ("a photo of a {}.",),
    logit_scale: float | None = None,
    encoder: Encoder | None = None,
    transport: httpx.BaseTransport | None = None,
) -> Generator[Classification]:
    """Return the best of several labels for each image.

    Args:
        images: Images, as for `embed_images`; any number.
        labels: Labels, at least one; words that they all share belong in `templates`.
        config: The settings of the call, a model's name, or an open `Scorer`; None is `Config()`. The score kind does
            not matter.
        templates: Prompts with `{}` where the label goes; several are averaged. `pipeline.CLIP_TEMPLATES` holds seven
            of OpenAI's prompts.
        logit_scale: Factor for cosines before the softmax; None uses the model's own.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.
        transport: Transport for HTTP requests, for tests; None is the network.

    Returns:
        One result per image, in order. For an image that fails, the result has the error; no exception is raised.

    Raises:
        UsageError: Immediately if labels or templates are missing, two labels are equal, or a template has no `{}`;
            while iterating if a label cannot be encoded.
        ConfigError, ModelError: Immediately if the model cannot be used, or if it has no `logit_scale` and none is
            given.
        InputTypeError: Immediately for the items of a list, otherwise while iterating.

    Example:
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> red = np.zeros((8, 8, 3), np.uint8) + np.uint8([255, 0, 0])
        >>> (found,) = classify([red], ["red", "blue"], logit_scale=2, encoder=ColourEncoder())
        >>> found.label, round(found.probability, 4)
        ('red', 0.8808)
    """
    images = images_of(images)
    _check_texts("labels", labels)
    _check_texts("templates", templates)
    if bare := [template for template in templates if "{}" not in template]:
        raise UsageError(f"the template {bare[0]!r} has no {{}} for the label; write, e.g., 'a photo of a {{}}.'")

    def results(scorer: Scorer) -> Generator[Classification]:
        scale = _scale(scorer, logit_scale)
        return _classified(scorer, images, (labels, templates), scale)

    return through(config, results, encoder=encoder, transport=transport)


def _classified(
    scorer: Scorer, images: Iterable[ImageSource], prompts: tuple[Sequence[str], Sequence[str]], scale: float
) -> Generator[Classification]:
    labels = prompts[0]
    classes = _classes(scorer, *prompts)  # (labels, embed_dim)
    with closing(scorer.embed_images(images)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, RowError):
                yield Classification(error=str(outcome))
                continue
            shares = _softmax(scale * cosine(outcome[None], classes).astype(np.float64))  # (labels,)
            best = int(shares.argmax())
            yield Classification(labels[best], float(shares[best]), tuple(shares.tolist()))


def _classes(scorer: Scorer, labels: Sequence[str], templates: Sequence[str]) -> Embeddings:
    """Return the unit vector of each label, the mean of its prompts' vectors."""
    prompts = [template.replace("{}", label) for label in labels for template in templates]
    found = [_vector(prompt, outcome) for prompt, outcome in zip(prompts, scorer.embed_texts(prompts), strict=True)]
    means = (
        np.stack(found).reshape(len(labels), len(templates), -1).mean(axis=1)
    )  # (labels, templates, d) -> (labels, d)
    classes: Embeddings = means / np.linalg.norm(means, axis=1, keepdims=True).clip(min=1e-12)
    return classes


def _vector(prompt: str, outcome: Outcome) -> Embeddings:
    if isinstance(outcome, RowError):
        raise UsageError(f"the prompt {prompt!r} cannot be encoded: {outcome}")
    return outcome


def _scale(scorer: Scorer, given: float | None) -> float:
    scale = getattr(scorer.encoder, "logit_scale", None) if given is None else given
    if scale is None:
        raise ConfigError(
            f"the encoder of {scorer.encoder.info.model} has no logit_scale; pass one, such as 100 for a CLIP model"
        )
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        raise ConfigError(f"logit_scale={scale!r} must be a positive number")
    return float(scale)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max())
    shares: NDArray[np.float64] = powers / powers.sum()
    return shares


def _check_texts(name: str, given: Sequence[str]) -> None:
    """Raise an error unless a value is a list of at least one text, all different."""
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(text, str) for text in given):
        raise InputTypeError.of(name, "a list of texts", given, "put it in a list" if isinstance(given, str) else "")
    if not given or len(set(given)) < len(given) or not all(text.strip() for text in given):
        raise UsageError(f"{name} must be one or more different texts that are not empty")
