"""Score a Ray dataset on actors, each of which loads the model once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..config import Config, pair_score
from ..errors import ConfigError, InputTypeError
from ..formats import check_columns, check_no_columns, check_types
from ..pipeline import Scorer, portable
from ..pipeline.arrow import score_batches
from ..records import OUT_COLUMNS
from ..system import require
from .engine import CALLS

if TYPE_CHECKING:
    from ray.data import Dataset


logger = logging.getLogger("text_image_similarity")

_CPUS = 0.5  # CPUs of an actor: with one actor per CPU, this leaves CPUs for the tasks that read and split the dataset


def score_dataset(
    ds: Dataset,
    config: Config,
    *,
    col_url: str = "url",
    col_text: str = "caption",
    concurrency: int | tuple[int, int] | None = None,
    num_gpus: float | None = None,
    **options: Any,
) -> Dataset:
    """Score every row of a Ray dataset with `map_batches`, on actors that load the encoder once.

    Like datasets, this is lazy and streaming: rows are read and scored when the result is consumed, and memory is
    limited by Ray's back-pressure. Actors that are killed are started again, and their rows are scored again.

    Args:
        ds: The dataset; its other columns are unchanged.
        config: The settings of the run. Relative paths start from the driver's folder unless `base_dir` is set, and
            must lead to the same files on every node.
        col_url: Column of image references.
        col_text: Column of captions.
        concurrency: Number of actors, or a pair of minimum and maximum; None starts with one and lets Ray add more
            while CPUs (or GPUs) are free and rows are waiting.
        num_gpus: GPUs of each actor; with a fraction, actors share a GPU. With `config.device="auto"`, an actor uses
            the GPU that it gets.
        **options: Arguments of `map_batches`: `num_cpus` (CPUs and threads of each actor, 0.5 by default),
            `batch_size` (by default `config.chunk_size`), `memory`, `runtime_env`, and others.

    Returns:
        The dataset with two more columns, `similarity` (double, null for a failed row) and `error` (string).

    Raises:
        InputTypeError: `ds` is not a Ray dataset.
        UsageError: A column is missing or would be overwritten, if the dataset knows its columns without being run.
            Otherwise, Ray reports the same message when the result is consumed, as it does for a `ConfigError` or
            `ModelError` of an actor.
        MissingExtraError: Ray is not installed.
        ConfigError: `concurrency` is not valid.
    """
    pair_score(config, "score_dataset")
    require("scoring on Ray", "ray", extra="ray")
    from ray.data import ActorPoolStrategy

    if not hasattr(ds, "map_batches"):
        hint = "create one with ray.data.from_pandas or ray.data.from_items"
        raise InputTypeError.of("ds", "a Ray Dataset", ds, hint)
    columns = (col_url, col_text)
    if (schema := ds.schema(fetch_if_missing=False)) is not None:
        _check(schema.names, columns)
        if isinstance(schema.base_schema, pa.Schema):
            check_types(schema.base_schema, columns, "the dataset")
    pool = ActorPoolStrategy(
        **_pool_size(concurrency), max_concurrent_calls_per_actor=CALLS, enable_true_multi_threading=True
    )
    given: dict[str, Any] = {"batch_size": config.chunk_size, "num_cpus": _CPUS, "num_gpus": num_gpus, **options}
    given["compute"] = pool
    _warn_if_full(pool.min_size, 1 if given["num_cpus"] is None else given["num_cpus"])
    if isinstance(given["batch_size"], int):  # a file may be one block, and one actor processes a whole block
        ds = ds.repartition(target_num_rows_per_block=given["batch_size"])
    return ds.map_batches(
        ScoringActor,
        fn_constructor_args=(portable(config), columns),
        batch_format="pyarrow",
        udf_modifying_row_count=False,
        **given,
    )


class ScoringActor:
    """The actor of `score_dataset`, which adds scores to Arrow tables.

    Args:
        config: The settings of the run.
        columns: Columns of references and of captions.

    Raises:
        ConfigError, ModelError: From the constructor, which ends Ray's run.
    """

    def __init__(self, config: Config, columns: tuple[str, str]) -> None:
        self._columns = columns
        self._scorer = Scorer(config)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Score one batch.

        Raises:
            UsageError: The batch lacks a column, or already has one of the columns to add.
        """
        _check(table.column_names, self._columns)
        check_types(table.schema, self._columns, "the dataset")
        with closing(score_batches(table.to_batches(), self._scorer, self._columns)) as scored:
            return pa.Table.from_batches(scored)


def _check(columns: Sequence[str], names: tuple[str, str]) -> None:
    """Raise a `UsageError` unless the columns to read exist and no column would be overwritten."""
    check_columns(columns, names, "the dataset")
    check_no_columns(columns, OUT_COLUMNS, "the dataset", "drop or rename it")


def _warn_if_full(actors: int, cpus: float) -> None:
    """Warn if the actors leave no CPU for the tasks that read and split the dataset."""
    import ray

    if ray.is_initialized() and actors * cpus > (total := ray.cluster_resources().get("CPU", 0)) - 1:
        logger.warning(
            "%d actors with %g CPUs each use all %g CPUs of Ray, so reading the dataset may wait forever: "
            "leave at least one CPU free, or give Ray more with ray.init(num_cpus=...)",
            actors,
            cpus,
            total,
        )


def _pool_size(concurrency: object) -> dict[str, int]:
    """Return the arguments of `ActorPoolStrategy` for a value of `concurrency`."""
    sizes = concurrency if isinstance(concurrency, tuple) else (concurrency, concurrency)
    if concurrency is None:
        return {}
    if len(sizes) != 2 or not all(type(size) is int and size >= 1 for size in sizes) or sizes[0] > sizes[1]:
        raise ConfigError(
            f"concurrency={concurrency!r} must be a number of actors, at least 1, or a pair (fewest, most)"
        )
    return {"min_size": sizes[0], "max_size": sizes[1]}
