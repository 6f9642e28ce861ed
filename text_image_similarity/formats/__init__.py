"""Table files: CSV, TSV, JSON Lines and Parquet, local or at any fsspec URL, read some rows at a time.

`open_table` reads a file, a folder or a pattern as one table; `output_for` writes the format that a suffix names.
"""

from __future__ import annotations

from .arrow_types import each_value, holds_texts
from .captions import is_captions_file, read_captions
from .columns import check_columns, check_no_columns, check_types, list_columns
from .defaults import choose_columns, image_candidates
from .delimited import is_ambiguous
from .hashing import HashedWriter
from .names import TableKind, ending_of, format_of, part_ending_of
from .output import SCORE_FIELDS, Output, open_output, output_for, score_arrays, score_cells, writer_for
from .overlap import check_apart
from .rows import PART_SIZE, ArrowRows, JsonRows, Rows, dump
from .shards import IMAGE, KEY, SampleTable, check_captions, is_image_folder
from .storage import (
    check_writable,
    content_of,
    folder_of,
    has_content,
    is_url,
    list_folder,
    local_path,
    open_bytes,
    reading,
    state_of,
    upload,
    with_base_dir,
    with_folder,
)
from .table import Table, cells_of, check_images, columns_of, list_columns_of, open_files, open_table, read_rows

__all__ = [
    "IMAGE",
    "KEY",
    "PART_SIZE",
    "SCORE_FIELDS",
    "ArrowRows",
    "HashedWriter",
    "JsonRows",
    "Output",
    "Rows",
    "SampleTable",
    "Table",
    "TableKind",
    "cells_of",
    "check_apart",
    "check_captions",
    "check_columns",
    "check_images",
    "check_no_columns",
    "check_types",
    "check_writable",
    "choose_columns",
    "columns_of",
    "content_of",
    "dump",
    "each_value",
    "ending_of",
    "folder_of",
    "format_of",
    "has_content",
    "holds_texts",
    "image_candidates",
    "is_ambiguous",
    "is_captions_file",
    "is_image_folder",
    "is_url",
    "list_columns",
    "list_columns_of",
    "list_folder",
    "local_path",
    "open_bytes",
    "open_files",
    "open_output",
    "open_table",
    "output_for",
    "part_ending_of",
    "read_captions",
    "read_rows",
    "reading",
    "score_arrays",
    "score_cells",
    "state_of",
    "upload",
    "with_base_dir",
    "with_folder",
    "writer_for",
]
