"""One table of texts in each form that can be read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import fsspec
import pyarrow as pa

FORMS = ("tsv", "ndjson", "jsonl.gz", "csv.zst", "utf-16", "pattern", "folder", "file URL", "memory URL")


def write_form(form: str, folder: Path, rows: Sequence[dict[str, str]]) -> str:
    """Write rows into a folder in one of `FORMS`, and return what names them."""
    match form:
        case "utf-16":
            (folder / "in.csv").write_bytes(_delimited(rows, ",").encode("utf-16"))
            return str(folder / "in.csv")
        case "pattern" | "folder":
            parts = folder if form == "pattern" else folder / "parts"
            parts.mkdir(exist_ok=True)
            for number, half in enumerate((rows[: len(rows) // 2], rows[len(rows) // 2 :])):
                (parts / f"pairs-{number}.csv").write_text(_delimited(half, ","))
            return str(parts / "pairs-*.csv") if form == "pattern" else str(parts)
        case "file URL":
            (folder / "in.csv").write_text(_delimited(rows, ","))
            return (folder / "in.csv").as_uri()
        case "memory URL":
            url = f"memory://{folder.name}/in.csv"
            fsspec.filesystem("memory").pipe_file(url, _delimited(rows, ",").encode())
            return url
    path = folder / f"in.{form}"
    if "json" in form:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = _delimited(rows, "\t" if form == "tsv" else ",")
    with pa.output_stream(str(path), compression={"gz": "gzip", "zst": "zstd"}.get(form.rpartition(".")[2])) as file:
        file.write(text.encode())
    return str(path)


def _delimited(rows: Sequence[dict[str, str]], delimiter: str) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
