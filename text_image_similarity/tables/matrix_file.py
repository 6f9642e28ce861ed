"""Write a table's vectors as one matrix to a `.npy` file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..config import Config
from ..dataset import open_source
from ..errors import TableError
from ..files import whole_file
from ..formats import cells_of


def write_matrix(embedded: str, path: Path, rows: int, config: Config | None = None) -> tuple[int, int]:
    """Write the column `embedding` of a table as a matrix; the file appears complete or not at all.

    Args:
        embedded: The table written by `embed_table`.
        path: The file to write: float32, shape (rows, embed_dim), in the order of the table; rows that failed are NaN.
        rows: Number of rows of the table.
        config: Settings; only `dialect` is used.

    Returns:
        The shape of the matrix.

    Raises:
        TableError: No row has a vector, or the file cannot be written.
    """
    table = open_source(embedded, dialect=(config or Config()).dialect)
    first = next((cell for (cell,) in cells_of(table, ("embedding",)) if cell is not None), None)
    if first is None:
        raise TableError(f"{embedded} contains no embedding, so {path} was not written")
    shape = (rows, len(first))
    try:
        with whole_file(path) as part:
            matrix = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
            for number, (cell,) in enumerate(cells_of(table, ("embedding",))):
                matrix[number] = np.nan if cell is None else cell
            matrix.flush()
            del matrix
    except OSError as exc:
        raise TableError(f"{path} cannot be written: {exc.strerror or exc}") from exc
    return shape
