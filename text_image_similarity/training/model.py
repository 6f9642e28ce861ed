"""The model that a run starts from, and its evaluation."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from tokenizers import Tokenizer

from ..config import Config
from ..dataset import CaptionedImage
from ..encoders import dual_encoder_folder
from ..encoders.dual_encoder import as_encoder, read_dual_encoder, set_up
from ..encoders.token_growth import tokenizer_from
from ..encoders.towers import DualEncoder, DualEncoderConfig
from ..encoders.weight_limit import limited_by
from ..errors import ConfigError, ModelError, RowError
from ..folders import shown
from ..metrics import fit_calibration, matching_scores, mismatching_scores, retrieval
from ..pipeline import embed_images
from ..preprocess import check_sides
from ..similarity import Embeddings
from .config import TrainConfig
from .pretrained import load_image_weights
from .vocabulary import learn_tokenizer

logger = logging.getLogger("text_image_similarity")

_CHUNK = 256  # captions encoded at once


def start_model(config: TrainConfig, captions: Sequence[str]) -> tuple[DualEncoder, Tokenizer]:
    """Build the model that a run starts from, and its tokenizer.

    Args:
        config: The settings of the run.
        captions: Captions from which the vocabulary is learned, unless the run starts from a model that has one.

    Raises:
        ModelError: The weights to start from do not fit.
        ModelUnavailableError: The weights do not exist, or cannot be downloaded.
    """
    if config.init is not None:
        model, tokenizer = read_dual_encoder(dual_encoder_folder(config.init))
        _set_bias(model, config)
        return model, tokenizer
    tokenizer = learn_tokenizer(captions, config.vocab_size)
    set_up(tokenizer, config.context_length)
    given = {f.name: getattr(config, f.name) for f in fields(DualEncoderConfig) if f.name != "vocab_size"}
    torch.manual_seed(config.seed)
    model = DualEncoder(DualEncoderConfig(vocab_size=tokenizer.get_vocab_size(), **given))
    load_image_weights(model.backbone, config.image_tower, config.image_weights)
    with torch.no_grad():
        model.log_logit_scale.fill_(-math.log(config.temperature))
    _set_bias(model, config)
    return model, tokenizer


def _set_bias(model: DualEncoder, config: TrainConfig) -> None:
    """Initialise the bias of a sigmoid loss as in SigLIP, unless the model has learned one."""
    if config.loss == "sigmoid" and not float(model.logit_bias.detach()):
        with torch.no_grad():
            model.logit_bias.fill_(-10.0)


def rebuild_model(shape: Mapping[str, Any], tokenizer: str, checkpoint: Path) -> tuple[DualEncoder, Tokenizer]:
    """Build the model of a checkpoint, with random weights.

    Args:
        shape: `DualEncoderConfig` of the model.
        tokenizer: Tokenizer of the model, as JSON.
        checkpoint: File with the model's weights, which limits how large the model may be.

    Raises:
        ModelError: The checkpoint does not describe a model, or describes one that is far larger than its weights.
    """
    try:
        config = DualEncoderConfig(**shape)
        check_sides(config.image_size)
        rebuilt = tokenizer_from(tokenizer)
        set_up(rebuilt, config.context_length)
        with limited_by(str(shown(checkpoint)), lambda: [checkpoint]):
            return DualEncoder(config), rebuilt
    except (TypeError, ValueError, RuntimeError, ConfigError, SafetensorError) as exc:
        raise ModelError(f"{shown(checkpoint)} is damaged ({exc}); delete it and train from scratch") from exc


@dataclass(frozen=True, slots=True)
class EncodedSplit:
    """Unit vectors of photos (n, d) and captions (m, d), and the index of each caption's photo, (m,)."""

    image: Embeddings
    text: Embeddings
    owner: NDArray[np.int64]


def encode(model: DualEncoder, tokenizer: Tokenizer, images: Sequence[CaptionedImage], loading: Config) -> EncodedSplit:
    """Encode photos and their captions as an `Encoder` does; photos that cannot be read are left out.

    Args:
        model: Model in float32 on its device; it is left in evaluation mode.
        tokenizer: Tokenizer of the model.
        images: Photos with captions.
        loading: Settings for fetching and decoding the photos.

    Raises:
        ModelError: Fewer than two photos can be read, or a vector is not finite.
    """
    encoder = as_encoder(model, tokenizer, "training")
    vectors: list[Embeddings] = []
    owners: list[int] = []
    captions: list[str] = []
    outcomes = embed_images([image.source for image in images], loading, encoder=encoder)
    for image, outcome in zip(images, outcomes, strict=True):
        if isinstance(outcome, RowError):
            logger.warning("left out of the evaluation: %s: %s", image.name, outcome)
            continue
        owners += [len(vectors)] * len(image.captions)
        captions += image.captions
        vectors.append(outcome)
    if len(vectors) < 2:
        raise ModelError(f"{len(vectors)} of {len(images)} photos can be evaluated, but at least 2 are needed")
    text = np.concatenate([encoder.encode_text(captions[i : i + _CHUNK]) for i in range(0, len(captions), _CHUNK)])
    if not np.isfinite(text).all():
        raise ModelError("the model's vectors are no longer finite; start again with a lower --lr")
    return EncodedSplit(np.stack(vectors), text, np.array(owners))


def measure(vectors: EncodedSplit) -> dict[str, float]:
    """Return recall@1, 5 and 10, MRR and median rank in both directions."""
    found = retrieval(vectors.image, vectors.text, vectors.owner)
    measured: dict[str, float] = {}
    for way, side in (("text_to_image", found.text_to_image), ("image_to_text", found.image_to_text)):
        measured |= {f"{way}_recall@{k}": share for k, share in side.recall.items()}
        measured |= {f"{way}_mrr": side.mrr, f"{way}_median_rank": side.median_rank}
    return measured


def calibrate(vectors: EncodedSplit, folder: Path, *, model: str) -> None:
    """Fit a calibration, and save it in a model's folder; if the scores do not allow that, log a warning instead."""
    matching = matching_scores(vectors.image, vectors.text, vectors.owner)
    mismatching = mismatching_scores(vectors.image, vectors.text, vectors.owner)
    try:
        fit_calibration(matching, mismatching, model=model).save(folder)
    except ValueError as exc:
        logger.warning("the model has no calibration: %s", exc)
