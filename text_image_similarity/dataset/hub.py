"""Data sets on the Hugging Face hub, through the library `datasets` (extra `train`).

The hub is asked first whether it has the set, with a short wait, so that an unreachable one is known in moments; a set
that the local cache holds is read from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

from ..errors import TableError, UsageError
from .sources import Row, Table, split_name

PROBE_S = 4.0  # how long the hub may take to say that it is there


def hub_tables(name: str) -> dict[str, Table]:
    """Open a set of the hub: one table for each of its splits, fetched into the cache of `datasets` when it is read.

    Raises:
        UsageError: The extra is not installed, or there is no such set.
        TableError: The hub is out of reach and the cache does not hold the set, or the set cannot be read.
    """
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as exc:
        raise UsageError(
            f"{name} does not exist here; reading a data set of the hub needs: pip install 'text-image-similarity[train]'"
        ) from exc
    if problem := _ask_hub(name):
        _require_cached(name, Path(datasets.config.HF_DATASETS_CACHE), problem)
    try:
        builder = datasets.load_dataset_builder(name)
        splits = list(builder.info.splits or datasets.get_dataset_split_names(name))
        features = builder.info.features or datasets.load_dataset(name, split=splits[0]).features
    except Exception as exc:  # datasets raises what its many readers raise
        raise TableError(f"the data set {name} cannot be read: {exc}") from exc
    return {split_name(split): Table(f"{name} ({split})", tuple(features), _rows(name, split)) for split in splits}


def _rows(name: str, split: str) -> Any:
    def rows() -> Iterator[Row]:
        import datasets

        try:
            table = datasets.load_dataset(name, split=split)
            for column, feature in table.features.items():
                if isinstance(feature, datasets.Image):
                    table = table.cast_column(column, datasets.Image(decode=False))
            yield from table
        except Exception as exc:  # datasets raises what its many readers raise
            raise TableError(f"the data set {name} cannot be read: {exc}") from exc

    return rows


def _ask_hub(name: str) -> Exception | None:
    """Ask the hub whether it has a set, within `PROBE_S` seconds whatever the network does; return why it is unknown."""
    answer: SimpleQueue[Exception | None] = SimpleQueue()

    def ask() -> None:
        try:
            HfApi().dataset_info(name, timeout=PROBE_S)
        except Exception as exc:  # whatever the hub's client raises is an answer to pass on
            answer.put(exc)
        else:
            answer.put(None)

    # A daemon thread, because a resolver that hangs can neither be timed out nor be joined.
    Thread(target=ask, name="hub-probe", daemon=True).start()
    try:
        return answer.get(timeout=PROBE_S)
    except Empty:
        return TimeoutError(f"no answer within {PROBE_S:g} s")


def _require_cached(name: str, cache: Path, problem: Exception) -> None:
    # Folders of the cache are named owner___set, the set in snake case; compared without case and underscores.
    wanted = name.replace("/", "___")
    folders = cache.glob("*___*") if cache.is_dir() else ()
    if any(_plain(folder.name) == _plain(wanted) for folder in folders):
        return
    if isinstance(problem, (RepositoryNotFoundError, GatedRepoError, HFValidationError)):
        said = str(problem).strip().splitlines()[-1]
        raise UsageError(f"{name} is neither a file or folder here nor a data set the hub gives out: {said}")
    raise TableError(
        f"data set {name} is not in the local cache and the hub is out of reach ({type(problem).__name__}).\n"
        "Ways out:\n"
        "  local files:      a folder with train.parquet, validation.parquet and test.parquet, or one such file\n"
        "  a filled cache:   load the set with the library `datasets` on a machine with network,\n"
        "                    then copy its HF_HOME here\n"
        "  your own table:   a CSV with the columns url and caption"
    ) from problem


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
