"""Check a table's shape and the columns of a task, before anything expensive starts."""

from __future__ import annotations

import logging
from typing import Any

from ..config import Config
from ..dataset import open_source
from ..errors import UsageError
from ..formats import (
    SampleTable,
    Table,
    check_captions,
    check_columns,
    check_images,
    check_no_columns,
    check_types,
    image_candidates,
    list_columns,
    list_columns_of,
    state_of,
)
from .options import TableOptions
from .task import R, Task

logger = logging.getLogger("text_image_similarity")

_URL = "url"  # default column of images
# The command line's options for columns, with Python's parameters.
_NAMED = {"--url-col": "--url-col (col_url)", "--caption-col": "--caption-col (col_text)", "--col": "--col (col)"}


def check_table(source: str, task: Task[R], config: Config, options: TableOptions) -> tuple[Table, Task[R], list[str]]:
    """Open and check a table; return the table, the task for its columns, and the states of its files before the scan.

    Raises:
        UsageError: A column is missing, occurs twice, already exists, or cannot be scored.
        TableError: The table is damaged.
    """
    dropped = frozenset(task.added_names) if options.overwrite_column else frozenset[str]()
    table = open_source(source, dialect=config.dialect, dropped=dropped, max_bytes=config.limits.max_bytes)
    if task.columns[1] is not None:
        check_captions(table, source)
    states = [state_of(file) for file in table.files]
    if table.columns:  # the columns of JSON Lines and shards are known only after reading
        task = task.of_table(table)
        _check_columns(table, task, options, source)
        if (images := task.columns[0]) is not None:
            check_images(table, images, source)
    table.scan()
    task = task.of_table(table)
    if isinstance(table, SampleTable):  # any sample of any shard may have such a field
        _leave_out_fields(table, task, options, source)
    _check_columns(table, task, options, source)
    return table, task, states


def _leave_out_fields(table: SampleTable, task: Task[Any], options: TableOptions, source: str) -> None:
    taken = table.leave_out(name for name in task.added_names if name not in options.drop_columns)
    if taken:
        logger.warning(
            "%s: members in the samples' JSON with the names of output columns are left out: %s",
            source,
            list_columns(taken),
        )


def _check_columns(table: Table, task: Task[Any], options: TableOptions, source: str) -> None:
    images, texts = task.columns
    images = None if images == table.images else images
    texts_read = [name for name in (texts, *task.further) if name is not None]
    for_images, for_texts = (_NAMED.get(option, option) for option in task.options)
    if images == _URL and _URL not in table.columns and (found := image_candidates(table)):
        others = [name for name in texts_read if name not in table.columns]
        too = f", and another one for {', '.join(map(repr, others))} with {for_texts}" if others else ""
        raise UsageError(
            f"column {_URL!r} is missing from {source}; {list_columns(found)} may contain the images: name the column with {for_images}{too}"
        )
    read = [name for name in (images, *texts_read, *task.references) if name is not None]
    lacking = [name for name in read if name not in table.columns]
    of_missing = [for_images] * (images in lacking) + [for_texts] * (lacking != [images])
    check_columns(table.columns, read, source, options=" or ".join(dict.fromkeys(of_missing)))
    for name in options.drop_columns:
        if name not in table.columns:
            check_columns(table.columns, [name], source)
    hint = "replace it with --overwrite-column (overwrite_column=True), or rename it"
    kept = [name for name in table.columns if name not in options.drop_columns]
    check_no_columns(kept, task.added_names, source, hint)
    lists = list_columns_of(table)
    for name in (*task.captions, *task.references):
        if name not in lists:
            check_types(table.schema, (None, name), source)
    check_types(table.schema, (images, None), source)
