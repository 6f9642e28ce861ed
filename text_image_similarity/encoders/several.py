"""Use several models as one encoder, so that each image is fetched and decoded once.

An embedding is the concatenation of the members' embeddings. The members' vectors have length 1, but their
concatenation does not. `slices` gives the part of each member, and `unit` scales the concatenation to length 1, so that
the cosine of two embeddings is the mean of the members' cosines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image

from ..checks import one_of
from ..config import Config, require_config
from ..errors import ConfigError, UsageError
from ..files import CALIBRATION
from ..preprocess import ImageLike
from ..similarity import Embeddings, Scores
from .load import load_encoder, model_folder
from .protocols import CutIds, ModelInfo, PreparingEncoder

if TYPE_CHECKING:
    from ..metrics import Calibration

Ensemble = Literal["mean", "probability"]


@dataclass(frozen=True, slots=True)
class SeveralEncoders:
    """A `PreparingEncoder` that combines several others.

    Args:
        members: The encoders, at least two.
        calibrations: Calibration of each member, for an ensemble of probabilities; empty for an ensemble of scores.
    """

    members: tuple[PreparingEncoder, ...]
    calibrations: tuple[Calibration, ...] = ()

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise UsageError("an ensemble needs two or more models")

    def combined(self, cosines: Sequence[Scores], scores: Sequence[Scores]) -> Scores:
        """Return the combined score: the mean of the members' scores, or of the probabilities that a pair matches.

        Args:
            cosines: The cosines of each member, each of shape (n,).
            scores: The same cosines, as scores of the run's kind.

        Returns:
            Shape (n,), float32.
        """
        if self.calibrations:
            scores = [c.probability(each) for c, each in zip(self.calibrations, cosines, strict=True)]
        mean: Scores = np.mean(np.stack(list(scores)), axis=0).astype(np.float32)
        return mean

    def unit(self, vector: Embeddings) -> Embeddings:
        """Return an embedding scaled to length 1."""
        scaled: Embeddings = vector / np.float32(math.sqrt(len(self.members)))
        return scaled

    @property
    def slices(self) -> tuple[slice, ...]:
        """The columns of an embedding that belong to each member."""
        ends = accumulate((member.embed_dim for member in self.members), initial=0)
        return tuple(slice(start, end) for start, end in pairwise(ends))

    def member_vectors(self, vectors: Embeddings, place: int) -> Embeddings:
        """Return one member's unit vectors, shape (n, d), from unit embeddings, shape (n, embed_dim)."""
        own: Embeddings = vectors[:, self.slices[place]] * np.float32(math.sqrt(len(self.members)))
        return own

    @property
    def info(self) -> ModelInfo:
        infos = [member.info for member in self.members]
        prints = [info.fingerprint for info in infos]

        def joined(name: str) -> str | None:
            values = dict.fromkeys(value for info in infos if (value := getattr(info, name)) is not None)
            return ", ".join(values) or None

        return ModelInfo(
            model=", ".join(info.model for info in infos),
            revision=joined("revision"),
            device=joined("device"),
            precision=joined("precision"),
            backend=joined("backend"),
            preprocess=infos[0].preprocess,
            fingerprint=None if None in prints else " + ".join(map(str, prints)),
        )

    @property
    def embed_dim(self) -> int:
        return sum(member.embed_dim for member in self.members)

    @property
    def batch_invariant(self) -> bool:
        return all(member.batch_invariant for member in self.members)

    @property
    def context_length(self) -> int:
        """Longest caption, in tokens, that no member cuts; 0 if it is unknown for a member."""
        return min(getattr(member, "context_length", 0) for member in self.members)

    @property
    def decode_side(self) -> int | None:
        """The largest of the members' sides; None if a member needs images at their full size."""
        sides = [member.decode_side for member in self.members]
        known = [side for side in sides if side is not None]
        return max(known) if len(known) == len(sides) else None

    def prepare(self, image: Image.Image) -> Any:
        return tuple(member.prepare(image) for member in self.members)

    def encode_pixels(self, pixels: Sequence[Any]) -> Embeddings:
        return self._side_by_side(lambda place, member: member.encode_pixels([each[place] for each in pixels]))

    def encode_image(self, images: Sequence[ImageLike]) -> Embeddings:
        return self._side_by_side(lambda _, member: member.encode_image(images))

    def tokenize(self, texts: Sequence[str]) -> list[list[Any]]:
        rows = zip(*(member.tokenize(texts) for member in self.members), strict=True)
        return [CutIds(row) if any(isinstance(ids, CutIds) for ids in row) else list(row) for row in rows]

    def encode_tokens(self, rows: Sequence[Any]) -> Embeddings:
        return self._side_by_side(lambda place, member: member.encode_tokens([each[place] for each in rows]))

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        return self._side_by_side(lambda _, member: member.encode_text(texts))

    def _side_by_side(self, encode: Callable[[int, PreparingEncoder], Embeddings]) -> Embeddings:
        return np.concatenate([encode(*each) for each in enumerate(self.members)], axis=1)


def load_encoders(
    models: Sequence[str | PathLike[str]], config: Config, *, ensemble: Ensemble = "mean"
) -> SeveralEncoders:
    """Load several models that score pairs together: `Scorer(config, encoder=load_encoders([...], config))`.

    Args:
        models: Hub ids, folders or aliases, as in `Config.model`: at least two, all different.
        config: The settings of the run; `model` is not used.
        ensemble: How scores are combined: `mean` is the mean of the models' scores; `probability` is the mean of the
            probabilities that a pair matches, according to the `calibration.json` in each model's folder.

    Returns:
        An encoder, for any function that accepts one. Results have the combined score in `similarity`, and the score of
        each model in `by_model`.

    Raises:
        UsageError: Fewer than two models are named, or one is named twice.
        ConfigError, ModelError: A model cannot be used, or has no calibration and `ensemble` is `probability`.
    """
    require_config(config)
    one_of("ensemble", ensemble, get_args(Ensemble))
    if isinstance(models, (str, PathLike)) or len({str(model) for model in models}) < max(2, len(models)):
        raise UsageError("name two or more models, each once")
    if config.revision is not None:
        raise ConfigError("revision applies to a single model; several models are used at their pinned revisions")
    calibrations = calibrations_of(models, ensemble)
    return SeveralEncoders(tuple(load_encoder(replace(config, model=model)) for model in models), calibrations)


def calibrations_of(models: Sequence[str | PathLike[str]], ensemble: Ensemble) -> tuple[Calibration, ...]:
    """Return the calibration of each model for an ensemble of probabilities, and none for other ensembles.

    Raises:
        ConfigError: A model has no calibration.
    """
    return tuple(map(_calibration, models)) if ensemble == "probability" else ()


def column_names(models: Sequence[str | PathLike[str]]) -> list[str]:
    """Return a column name for each model, of letters, digits and underscores. The path to a folder is left out.

    Example:
        >>> column_names(["openai/clip-vit-base-patch32", "mini"])
        ['openai_clip_vit_base_patch32', 'mini']
    """
    found: list[str] = []
    for model in models:
        name = Path(model).resolve().name if model_folder(str(model)).is_dir() and str(model) != "mini" else str(model)
        name = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "model"
        same = sum(re.fullmatch(rf"{name}(_\d+)?", other) is not None for other in found)
        found.append(f"{name}_{same + 1}" if same else name)
    return found


def _calibration(model: str | PathLike[str]) -> Calibration:
    from ..metrics import Calibration  # imported here, because scoring does not need it

    folder = model_folder(str(model))
    if not (folder / CALIBRATION).is_file():
        raise ConfigError(
            f"ensemble='probability' needs a {CALIBRATION} in the folder of each model, but {model} has none; "
            "`evaluate --calibrate` writes one"
        )
    return Calibration.load(folder)
