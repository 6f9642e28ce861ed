"""Data sets on the Hugging Face hub, through the library `datasets` (extra `train`).

The hub is first asked, with a short timeout, whether it has the data set, so that an unreachable hub is detected at
once; a data set in the local cache is then read from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

from ..errors import TableError, UsageError
from ..formats import folder_of
from ..system import call_within, require
from .sources import SplitTable, split_name

PROBE_S = 4.0  # timeout of the first request to the hub


def hub_tables(name: str) -> dict[str, SplitTable]:
    """Open a data set on the hub: one table per split, fetched into the cache of `datasets` when it is read.

    Raises:
        MissingExtraError: The extra is not installed.
        UsageError: The hub has no such data set.
        TableError: The hub is unreachable and the set is not in the cache, or the set cannot be read.
    """
    require(f"{name} does not exist here; reading it from the hub", "datasets", extra="train")
    import datasets

    if problem := _ask_hub(name):
        _require_cached(name, Path(datasets.config.HF_DATASETS_CACHE), problem)
    try:
        builder = datasets.load_dataset_builder(name)
        splits = list(builder.info.splits or datasets.get_dataset_split_names(name))
        features = builder.info.features or datasets.load_dataset(name, split=splits[0]).features
    except Exception as exc:  # datasets raises what its many readers raise
        raise TableError(f"the data set {name} cannot be read: {exc}") from exc
    return {
        split_name(split): SplitTable(
            f"{name} ({split})", lambda: tuple(features), partial(_read_split, name, split), folder_of(f"hf:{name}")
        )
        for split in splits
    }


def load_split(name: str, config: str | None, split: str | None) -> Any:
    """Load a split of a data set on the hub into the cache of `datasets`, with images as they are stored.

    Args:
        name: Name of the data set.
        config: Configuration to load, if there are several.
        split: Split to load; None selects the only one.

    Raises:
        UsageError: The hub has no such data set, or it has several splits and none or an unknown one is named.
        TableError: The hub is unreachable and the set is not in the cache, or the set cannot be read.
    """
    import datasets

    if problem := _ask_hub(name):
        _require_cached(name, Path(datasets.config.HF_DATASETS_CACHE), problem)
    try:
        builder = datasets.load_dataset_builder(name, config)
        splits = [str(one) for one in builder.info.splits or datasets.get_dataset_split_names(name, config)]
        if split is None and len(splits) > 1:
            raise UsageError(f"{name} has the splits {', '.join(splits)}; name one, such as hf:{name}@{splits[0]}")
        if split is not None and split not in splits:
            raise UsageError(f"{name} has no split {split!r}: it has {', '.join(splits)}")
        found = datasets.load_dataset(name, config, split=split or splits[0])
        for column, feature in found.features.items():
            if isinstance(feature, datasets.Image):
                found = found.cast_column(column, datasets.Image(decode=False))
    except UsageError:
        raise
    except Exception as exc:  # datasets raises what its many readers raise
        raise TableError(f"the data set {name} cannot be read: {exc}") from exc
    return found


def _read_split(name: str, split: str, columns: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    import datasets

    try:
        table = datasets.load_dataset(name, split=split)
        for column, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                table = table.cast_column(column, datasets.Image(decode=False))
        for number, row in enumerate(table.select_columns(list(columns)), 1):
            yield f"row {number} of {name} ({split})", tuple(row[column] for column in columns)
    except Exception as exc:  # datasets raises what its many readers raise
        raise TableError(f"the data set {name} cannot be read: {exc}") from exc


def _ask_hub(name: str) -> Exception | None:
    """Ask the hub, for at most `PROBE_S` seconds, whether it has a data set; return the reason if it does not."""
    try:
        call_within(PROBE_S, lambda: HfApi().dataset_info(name, timeout=PROBE_S), name="hub-probe")
    except Exception as exc:  # any exception of the hub's client is passed on as the reason
        return exc
    return None


def _require_cached(name: str, cache: Path, problem: Exception) -> None:
    # The cache's folders are named owner___set, the set in snake case; compare without case and underscores.
    wanted = name.replace("/", "___")
    folders = cache.glob("*___*") if cache.is_dir() else ()
    if any(_plain(folder.name) == _plain(wanted) for folder in folders):
        return
    if isinstance(problem, (RepositoryNotFoundError, GatedRepoError, HFValidationError)):
        reason = str(problem).strip().splitlines()[-1]
        raise UsageError(f"{name} is neither a file or folder here nor a data set available on the hub: {reason}")
    raise TableError(
        f"data set {name} is not in the local cache and the hub cannot be reached ({type(problem).__name__}).\n"
        "Your options:\n"
        "  local files:      a folder with train.parquet, validation.parquet and test.parquet, or one such file\n"
        "  a filled cache:   load the set with the library `datasets` on a machine with network access,\n"
        "                    then copy its HF_HOME here\n"
        "  your own table:   a CSV with the columns url and caption"
    ) from problem


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
