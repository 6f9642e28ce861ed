"""Data sets on the Hugging Face hub, through the library `datasets` (extra `train`).

The hub is first asked, with a short timeout, whether it has the data set, so that an unreachable hub is detected at
once. If the hub is unreachable, a data set in the local cache is read from there.

The README of a data set may name data files anywhere: those that are not in the data set's own repository are refused,
because they may be private files of this machine or of its network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ..bounded_json import MOST_DEPTH
from ..errors import TableError, UsageError
from ..formats import folder_of
from ..system import call_within, require
from .sources import SplitTable, split_name

PROBE_S = 4.0  # timeout of the first request to the hub
_ELSEWHERE = re.compile(r"/|.*[:\\]|(.*/)?\.\.(/|$)", re.DOTALL)  # patterns that may lead out of a repository
_MOST_CARD = 4 << 20  # bytes of a README, and characters of its metadata with all aliases written out
_MOST_DIGITS = 4096  # characters of a value that may be a number, which is read in quadratic time
_NUMBER = (*"+-.0123456789",)  # how an unquoted number begins
_ROWS = 64  # rows to convert at a time; they may hold images


def hub_tables(name: str) -> dict[str, SplitTable]:
    """Open a data set on the hub: one table per split, fetched into the cache of `datasets` when it is read.

    Raises:
        MissingExtraError: The extra is not installed.
        UsageError: The hub has no such data set.
        TableError: The hub is unreachable and the set is not in the cache, or the set cannot be read.
    """
    require(f"{name} does not exist here; reading it from the hub", "datasets", extra="train")
    try:
        builder = _open(name, None)
        if not builder.info.features:
            builder.download_and_prepare()
        splits, features = _splits_of(builder), tuple(builder.info.features)
    except (UsageError, TableError):
        raise
    except Exception as exc:  # the library `datasets` raises whatever its many readers raise
        raise TableError(f"the data set {name} cannot be read: {exc}") from exc
    return {
        split_name(split): SplitTable(
            f"{name} ({split})", lambda: features, partial(_read_split, builder, name, split), folder_of(f"hf:{name}")
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
    try:
        builder = _open(name, config)
        splits = _splits_of(builder)
        if split is None and len(splits) > 1:
            raise UsageError(f"{name} has the splits {', '.join(splits)}; name one, such as hf:{name}@{splits[0]}")
        if split is not None and split not in splits:
            raise UsageError(f"{name} has no split {split!r}: it has {', '.join(splits)}")
        return _load(builder, split or splits[0])
    except (UsageError, TableError):
        raise
    except Exception as exc:  # the library `datasets` raises whatever its many readers raise
        raise TableError(f"the data set {name} cannot be read: {exc}") from exc


def _read_split(builder: Any, name: str, split: str, columns: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    try:
        # As Arrow, because `datasets` would otherwise open the files and URLs that nested images and sounds name.
        table = _load(builder, split).select_columns(list(columns)).with_format("arrow")
        rows = chain.from_iterable(batch.to_pylist() for batch in table.iter(batch_size=_ROWS))
        for number, row in enumerate(rows, 1):
            yield f"row {number} of {name} ({split})", tuple(row[column] for column in columns)
    except Exception as exc:  # the library `datasets` raises whatever its many readers raise
        raise TableError(f"the data set {name} cannot be read: {exc}") from exc


def _open(name: str, config: str | None) -> Any:
    """Return the builder of a data set, all of whose files are in its own repository or in the cache of `datasets`."""
    import datasets

    if Path(name).is_dir():
        raise UsageError(
            f"{name} is a folder here, which the library `datasets` would read instead of hf:{name}; write "
            f"./{name} for the folder, or run in another directory for the data set on the hub"
        )
    found = _ask_hub(name)
    if isinstance(found, Exception):
        _require_cached(name, Path(datasets.config.HF_DATASETS_CACHE), found)
        from datasets.packaged_modules.cache.cache import Cache

        return Cache(
            repo_id=name, dataset_name=name.rpartition("/")[2], config_name=config, version="auto", hash="auto"
        )
    _check_patterns(name, found)
    builder = datasets.load_dataset_builder(name, config, revision=found)
    for file in chain.from_iterable((builder.config.data_files or {}).values()):
        if not file.startswith(f"hf://datasets/{name}@{found}/"):
            raise _leads_elsewhere(name, file)
    return builder


def _check_patterns(name: str, commit: str) -> None:
    """Refuse a data set that names files elsewhere, before the library sends requests to look for them."""
    for file in ("README.md", ".huggingface.yaml"):
        try:
            path = hf_hub_download(name, file, repo_type="dataset", revision=commit)
        except RemoteEntryNotFoundError:
            continue
        for config in (_metadata(name, Path(path)) or {}).get("configs") or ():
            for pattern in _texts([config.get("data_files"), config.get("data_dir")]):
                if _ELSEWHERE.match(pattern):
                    raise _leads_elsewhere(name, pattern)


def _metadata(name: str, file: Path) -> Any:
    """Return the metadata in a file of a data set, unless it would fill the memory, here or in the library."""
    if file.stat().st_size <= _MOST_CARD:
        text = file.read_bytes().decode("utf-8")
        if file.suffix == ".md":
            block = REGEX_YAML_BLOCK.search(text)
            text = block[2] if block else ""
        if not _is_too_large(text):
            return yaml.safe_load(text)
    raise TableError(
        f"the data set {name} cannot be read: its {file.name} is larger than {_MOST_CARD >> 20} MiB (with all aliases "
        f"written out), is nested more than {MOST_DEPTH} levels deep, or has a number of more than "
        f"{_MOST_DIGITS:,} characters; use a copy of the data set with less metadata"
    )


def _is_too_large(text: str) -> bool:
    """Tell whether a YAML text is nested too deeply, or too long with all aliases written out, as merge keys do."""
    length, lengths = 0, dict[str, int]()  # up to the current event, and of each anchor's value
    begun: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (outer for outer, _ in begun):  # a value that holds itself has no end
                return True
            length += lengths.get(event.anchor or "", 0)  # `safe_load` refuses an alias of nothing
        elif isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, length))
            length += 1
        elif isinstance(event, yaml.ScalarEvent):
            begun.append((event.anchor, length))
            length += 1 + len(event.value)
            may_be_number = event.tag is not None or (event.style is None and event.value.startswith(_NUMBER))
            if may_be_number and len(event.value) > _MOST_DIGITS:
                return True
        if isinstance(event, (yaml.CollectionEndEvent, yaml.ScalarEvent)):
            anchor, before = begun.pop()
            if anchor is not None:
                lengths[anchor] = length - before
        if length > _MOST_CARD or len(begun) > MOST_DEPTH:
            return True
    return False


def _texts(values: list[object]) -> Iterator[str]:
    """Yield the texts in nested values, each value once, because YAML can repeat one without end through aliases."""
    seen, waiting = set[int](), [*values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (list, Mapping)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, Mapping) else value


def _leads_elsewhere(name: str, file: str) -> TableError:
    return TableError(
        f"the data set {name} names the data file {file!r:.200}, which is not in its own repository; name files of "
        f"the data set instead, such as hf://datasets/{name}/data/*.parquet"
    )


def _splits_of(builder: Any) -> list[str]:
    return [str(split) for split in builder.info.splits or builder.config.data_files or ()]


def _load(builder: Any, split: str) -> Any:
    """Load a split into the cache of `datasets`, with images as they are stored."""
    import datasets

    builder.download_and_prepare()
    found = builder.as_dataset(split=split)
    for column, feature in found.features.items():
        if isinstance(feature, datasets.Image):
            found = found.cast_column(column, datasets.Image(decode=False))
    return found


def _ask_hub(name: str) -> str | Exception:
    """Return a data set's commit on the hub, or the exception if the hub gives none within `PROBE_S` seconds."""
    try:
        return str(call_within(PROBE_S, lambda: HfApi().dataset_info(name, timeout=PROBE_S), name="hub-probe").sha)
    except Exception as exc:  # any exception of the hub's client is passed on as the reason
        return exc


def _require_cached(name: str, cache: Path, problem: Exception) -> None:
    # The cache's folders are named owner___set, with the set in snake case, so case and underscores are ignored.
    wanted = name.replace("/", "___")
    folders = cache.glob("*___*") if cache.is_dir() else ()
    if any(_plain(folder.name) == _plain(wanted) for folder in folders):
        return
    if isinstance(problem, (RepositoryNotFoundError, GatedRepoError, HFValidationError)):
        reason = str(problem).strip().splitlines()[-1]
        raise UsageError(f"{name} is neither a file or folder here nor a data set available on the hub: {reason}")
    raise TableError(
        f"the data set {name} is not in the local cache and the hub cannot be reached ({type(problem).__name__}).\n"
        "Your options:\n"
        "  local files:      a folder with train.parquet, validation.parquet and test.parquet, or one such file\n"
        "  a filled cache:   load the set with the library `datasets` on a machine with network access,\n"
        "                    then copy its HF_HOME here\n"
        "  your own table:   a CSV with the columns url and caption"
    ) from problem


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
