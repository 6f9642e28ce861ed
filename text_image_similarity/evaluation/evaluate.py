"""How good a model is on a data set: retrieval, matching against mismatching pairs, agreement with people's ratings.

Pictures that cannot be read are counted by error code and left out with their captions; the figures are those of the
others. What each figure means, and whom its definition follows, stands in `metrics`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..config import Config
from ..dataset import Table, open_table, read_dataset, reference
from ..encoders import Encoder, load_encoder
from ..errors import RowError, TableError, UsageError
from ..metrics import (
    Calibration,
    agreement,
    fit_calibration,
    matching_scores,
    mismatching_scores,
    pair_statistics,
    retrieval,
)
from ..pipeline import Outcome, embed_images, embed_texts, score_pairs
from ..records import Record
from ..similarity import Embeddings
from .report import Evaluation, RatingEvaluation

# (pictures or rows done, of these failed, in all), before the first and after every one
Progress = Callable[[int, int, int], None]

_CALIBRATED_ON = 200_000  # mismatching pairs are plenty for a curve of two numbers


def evaluate(  # noqa: PLR0913 - the source, its columns and what a caller may inject; settings are in Config
    source: str | PathLike[str],
    config: Config,
    *,
    split: str | None = None,
    col_url: str = "url",
    col_text: str = "caption",
    encoder: Encoder | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model on pictures with captions.

    Args:
        source: A CSV or Parquet file, a folder of Parquet files named after splits, or the id of a set on the hub; see
            `dataset.read_dataset`.
        config: The settings of the run. Relative references start from the table's folder unless `base_dir` is set.
        split: Which of the source's own splits; None measures all of it as one set.
        col_url: The column of image references, where the table does not hold the pictures themselves.
        col_text: The column of captions.
        encoder: A loaded encoder to use; None loads the one that `config` names.
        progress: Called before the first picture and after every one with pictures done, failed and in all.

    Raises:
        UsageError: There is no such source, split or column.
        TableError: The source cannot be read, or nothing in it could be encoded.
        ConfigError, ModelError: The model cannot be used.
    """
    images = read_dataset(source, split=split, col_url=col_url, col_text=col_text, base_dir=config.base_dir)
    encoder = load_encoder(config) if encoder is None else encoder
    began = time.perf_counter()
    with closing(embed_images([image.source for image in images], config, encoder=encoder)) as outcomes:
        numbers, image, failures = _good(outcomes, len(images), progress)  # image: (n, d)
    seen = time.perf_counter()
    owned = [(place, text) for place, number in enumerate(numbers) for text in images[number].captions]
    distinct = list(dict.fromkeys(text for _, text in owned))
    with closing(embed_texts(distinct, config, encoder=encoder)) as outcomes:
        numbers, vectors, unread = _good(outcomes, len(distinct), None)
    failures += unread
    row_of = {distinct[number]: row for row, number in enumerate(numbers)}
    kept = [(place, row_of[text]) for place, text in owned if text in row_of]
    if not kept:
        raise TableError(
            f"nothing in {source} could be encoded: {_counts(failures)}; its first picture is {images[0].name}"
        )
    owner = np.array([place for place, _ in kept], np.intp)  # (m,)
    text = vectors[[row for _, row in kept]]  # (m, d)
    encoded = time.perf_counter()
    found, pairs = retrieval(image, text, owner), pair_statistics(image, text, owner)
    calibration = _fitted(image, text, owner, encoder.info.model)
    return Evaluation(
        source=str(source),
        split=split,
        info=encoder.info,
        images=len(image),
        captions=len(text),
        failures=_counted(failures),
        seconds={
            "images": round(seen - began, 3),
            "captions": round(encoded - seen, 3),
            "figures": round(time.perf_counter() - encoded, 3),
        },
        retrieval=found,
        pairs=pairs,
        calibration=calibration,
    )


def evaluate_ratings(  # noqa: PLR0913 - the table, its columns and what a caller may inject; settings are in Config
    table: str | PathLike[str],
    config: Config,
    col_rating: str | Sequence[str] = "rating",
    *,
    col_url: str = "url",
    col_text: str = "caption",
    encoder: Encoder | None = None,
    progress: Progress | None = None,
) -> RatingEvaluation:
    """Compare a model's cosines with people's ratings of the same pairs.

    Args:
        table: A CSV or Parquet table with one pair a row.
        config: The settings of the run; the score is the cosine whatever `config.score` says.
        col_rating: The column of ratings, higher is better, or several: each rating of a row then counts as a pair of
            its own, as papers count the three experts of Flickr8k-Expert. Empty cells are left out.
        col_url: The column of image references.
        col_text: The column of captions.
        encoder: A loaded encoder to use; None loads the one that `config` names.
        progress: Called before the first row and after every one with rows done, failed and in all.

    Raises:
        UsageError: There is no such table or column.
        TableError: The table cannot be read, a rating is no number, or no rated row could be scored.
        ConfigError, ModelError: The model cannot be used.
    """
    names = (col_rating,) if isinstance(col_rating, str) else tuple(col_rating)
    if not names:
        raise UsageError("col_rating names no column; give at least one")
    opened = open_table(table)
    opened.require(col_url, col_text, *names)
    base = opened.folder if config.base_dir is None else config.base_dir
    ratings = list(_ratings(opened, names))
    rated = [bool(given) for given in ratings]
    failures = Counter(no_rating=len(rated) - sum(rated))
    encoder = load_encoder(config) if encoder is None else encoder
    records = (
        Record(reference(str(row[col_url] or ""), base), str(row[col_text] or ""))
        for row, counts in zip(opened.rows(), rated, strict=True)
        if counts
    )
    scores: list[float] = []
    judged: list[float] = []
    if progress is not None:
        progress(0, 0, sum(rated))
    with closing(score_pairs(records, replace(config, score="cosine"), encoder=encoder)) as results:
        for done, (given, result) in enumerate(zip(filter(None, ratings), results, strict=True), 1):
            if result.code is not None:
                failures[result.code.value] += 1
            else:
                scores += [result.similarity] * len(given)
                judged += given
            if progress is not None:
                progress(done, failures.total() - failures["no_rating"], sum(rated))
    if not scores:
        raise TableError(f"no row of {table} has both a rating and a score: {_counts(failures)}")
    return RatingEvaluation(
        source=str(table),
        ratings=names,
        info=encoder.info,
        rows=len(rated),
        failures=_counted(failures),
        agreement=agreement(scores, judged),
    )


def calibration_folder(config: Config, folder: str | PathLike[str] | None = None) -> Path:
    """Return the folder that a calibration of `config.model` belongs into, checked before anything expensive starts.

    Args:
        config: Its model is a folder, unless `folder` is given.
        folder: Where to write instead.

    Raises:
        UsageError: The model is no folder of its own, or the folder cannot be written to.
    """
    path = Path(str(config.model) if folder is None else folder).expanduser()
    if folder is None and (str(config.model) == "mini" or not path.is_dir()):
        raise UsageError(
            f"model {config.model} has no folder of yours to keep a calibration in; name one for calibration.json"
        )
    if not path.is_dir() or not os.access(path, os.W_OK):
        raise UsageError(f"{path} is no folder that can be written to; name another one for calibration.json")
    return path


def _good(
    outcomes: Iterable[Outcome], total: int, progress: Progress | None
) -> tuple[NDArray[np.intp], Embeddings, Counter[str]]:
    """Return which outcomes are vectors (k,), these vectors (k, d), and the others' error codes."""
    numbers: list[int] = []
    vectors = np.empty((0, 1), np.float32)
    failures: Counter[str] = Counter()
    if progress is not None:
        progress(0, 0, total)
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, RowError):
            failures[outcome.code.value] += 1
        else:
            if not numbers:
                vectors = np.empty((total, len(outcome)), np.float32)
            vectors[len(numbers)] = outcome
            numbers.append(number)
        if progress is not None:
            progress(number + 1, failures.total(), total)
    return np.array(numbers, np.intp), vectors[: len(numbers)], failures


def _fitted(image: Embeddings, text: Embeddings, owner: NDArray[np.intp], model: str) -> Calibration | None:
    """Fit a calibration, or return None where the pairs are too few or too much alike for one."""
    mismatching = mismatching_scores(image, text, owner, most=_CALIBRATED_ON)
    try:
        return fit_calibration(matching_scores(image, text, owner), mismatching, model=model)
    except ValueError:
        return None


def _ratings(table: Table, names: Sequence[str]) -> Iterator[list[float]]:
    """Yield the ratings of each row; empty cells are none."""
    for number, row in enumerate(table.rows(), 1):
        given = [(name, str(row[name]).strip()) for name in names if row[name] is not None and row[name] == row[name]]
        found = []
        for name, text in given:
            try:
                value = float(text or "nan")
            except ValueError:
                value = float("inf")
            if np.isinf(value):
                raise TableError(f"row {number} of {table.name} has {text[:40]!r} in {name!r}, which is no rating")
            found += [] if np.isnan(value) else [value]
        yield found


def _counted(failures: Counter[str]) -> dict[str, int]:
    return {code: count for code, count in sorted(failures.items()) if count}


def _counts(failures: Counter[str]) -> str:
    return ", ".join(f"{count} {code}" for code, count in _counted(failures).items()) or "there are no rows"
