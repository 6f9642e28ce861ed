"""Evaluate a model on images with captions: retrieval, matching against mismatching pairs, calibration."""

from __future__ import annotations

import os
import time
from collections import Counter
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..checks import settings_in_config
from ..config import Config, ConfigLike, as_config
from ..dataset import read_dataset
from ..encoders import Encoder
from ..errors import ModelError, UsageError
from ..files import CALIBRATION
from ..metrics import (
    Calibration,
    fit_calibration,
    matching_scores,
    mismatching_scores,
    pair_statistics,
    retrieval,
)
from ..pipeline import Scorer, cut_among
from ..records import Progress
from ..similarity import Embeddings
from .encode import EncodedDataset, encode_dataset
from .report import Evaluation, sort_failures

_CALIBRATED_ON = 200_000  # this many mismatching pairs are plenty for a curve with two parameters


@settings_in_config
def evaluate(  # noqa: PLR0913 - the source, its columns and what a caller may inject; settings are in Config
    source: str | PathLike[str],
    config: ConfigLike = None,
    *,
    split: str | None = None,
    col_url: str | None = None,
    col_text: str = "caption",
    encoder: Encoder | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model on images with captions.

    Args:
        source: A table of any format that `score_csv` reads, a folder of tables named after splits, or the id of a data
            set on the hub; see `read_dataset`.
        config: The settings of the run, including those for fetching, or a model's name; None is `Config()`. Relative
            references start from the table's folder unless `base_dir` is set.
        split: Split of the source to measure; None measures all of it as one set.
        col_url: Column of images or of references to them; None means the one that `read_dataset` finds.
        col_text: Column of captions.
        encoder: A loaded encoder to use; None loads the model of `config`.
        progress: Called before the first image and after every image with the numbers of images done, failed, and in
            total.

    Raises:
        UsageError: There is no such source, split or column.
        TableError: The source cannot be read, or none of its items could be encoded.
        ConfigError, ModelError: The model cannot be used.
    """
    config = as_config(config)
    left_out: Counter[str] = Counter()
    images = read_dataset(source, split=split, col_url=col_url, col_text=col_text, config=config, left_out=left_out)
    with Scorer(config, encoder=encoder) as scorer:
        encoded = encode_dataset(str(source), images, scorer, left_out, progress)
        return figures((str(source), split), encoded, scorer.encoder)


def figures(where: tuple[str, str | None], encoded: EncodedDataset, encoder: Encoder) -> Evaluation:
    """Compute the figures of encoded images and captions.

    Args:
        where: Data set and split.
        encoded: Embeddings of one model.
        encoder: Encoder of that model.
    """
    began = time.perf_counter()
    image, text, owner = encoded.image, encoded.text, encoded.owner
    found, pairs = retrieval(image, text, owner), pair_statistics(image, text, owner)
    calibration = _fit_calibration(image, text, owner, encoder.info.model)
    cut = cut_among(encoder, list(dict.fromkeys(encoded.captions)))
    return Evaluation(
        source=where[0],
        split=where[1],
        info=encoder.info,
        images=len(image),
        captions=len(text),
        captions_cut=sum(caption in cut for caption in encoded.captions),
        failures=sort_failures(encoded.failures),
        seconds={**encoded.seconds, "figures": round(time.perf_counter() - began, 3)},
        retrieval=found,
        pairs=pairs,
        calibration=calibration,
    )


def calibration_folder(config: Config, folder: str | PathLike[str] | None = None, *, force: bool = False) -> Path:
    """Return the folder for a calibration of `config.model`, after checking that it can be written.

    Args:
        config: Settings whose model is a folder, unless `folder` is given.
        folder: Folder to write to instead of the model's.
        force: Whether to replace an existing `calibration.json` that does not hold a calibration.

    Raises:
        UsageError: The model does not have its own folder, the folder cannot be written to, or an existing file must
            not be replaced.
    """
    path = Path(str(config.model) if folder is None else folder).expanduser()
    if folder is None and (str(config.model) == "mini" or not path.is_dir()):
        raise UsageError(
            f"model {config.model} is not a local folder, so a calibration cannot be saved in it; name a folder for "
            "calibration.json"
        )
    if not path.is_dir() or not os.access(path, os.W_OK):
        raise UsageError(f"{path} is not a writable folder; name another one for calibration.json")
    if (path / CALIBRATION).exists() and not force:
        try:
            Calibration.load(path)
        except ModelError as exc:
            raise UsageError(
                f"{path / CALIBRATION} was not written by this command; name another folder, or replace it with --force"
            ) from exc
    return path


def _fit_calibration(image: Embeddings, text: Embeddings, owner: NDArray[np.intp], model: str) -> Calibration | None:
    """Fit a calibration, or return None if the pairs are too few or their scores too similar."""
    mismatching = mismatching_scores(image, text, owner, most=_CALIBRATED_ON)
    try:
        return fit_calibration(matching_scores(image, text, owner), mismatching, model=model)
    except ValueError:
        return None
