"""The format of a file by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError

TableKind = Literal["csv", "tsv", "jsonl", "parquet", "tar"]
Codec = Literal["gzip", "zstd"]

_KINDS: dict[str, TableKind] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tar": "tar",
}
_SHORT = {".tgz": ".tar.gz"}
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
TEXT_ENDINGS = ("txt", "caption", "json")  # suffixes of caption files next to images
_OTHERS = {
    ".json": "if it has one object per line, give it the extension .jsonl; if it contains an array, first write one object per line, for example with jq -c '.[]'",
    ".txt": "give it the extension .csv or .tsv, depending on its delimiter",
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "use CSV instead, and save sheets as CSV UTF-8"),
    ".bz2": "decompress it, or compress it with gzip or zstd",
    ".xz": "decompress it, or compress it with gzip or zstd",
    ".zip": "unpack it",
    ".arrow": "write it as Parquet",
    ".feather": "write it as Parquet",
    ".orc": "write it as Parquet",
    ".avro": "write it as Parquet",
    ".pkl": "write it as Parquet",
    ".npy": "vectors are a column of a table, such as vectors.parquet; with --npy FILE, `embed` also writes them as a matrix",
}
_CODECS: dict[str, Codec] = {".gz": "gzip", ".zst": "zstd"}
_ENDING = re.compile(
    rf"(({'|'.join(_KINDS)})({'|'.join(_CODECS)})?|{'|'.join(_SHORT)})$".replace(".", r"\."), re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Format:
    """The format of a table's file.

    Args:
        kind: Format of the table.
        codec: Compression of the whole file, or None.
    """

    kind: TableKind
    codec: Codec | None = None


def format_of(place: str) -> Format:
    """Return the format for a name's suffix.

    Raises:
        UsageError: The suffix is not that of a supported format.
    """
    name = place.rstrip("/").lower()
    if name.startswith(("http://", "https://")):
        name = name.partition("?")[0]
    for short, long in _SHORT.items():
        if name.endswith(short):
            name = name.removesuffix(short) + long
    for ending, codec in _CODECS.items():
        if name.endswith(ending):
            inner = format_of(name.removesuffix(ending))
            if inner.kind == "tar" and codec != "gzip":
                raise UsageError(
                    f"{place}: gzip is the only compression supported for tar files; decompress it, or name it .tar.gz"
                )
            if inner.kind == "parquet":
                raise UsageError(f"{place}: Parquet files are compressed internally; use the extension .parquet")
            return Format(inner.kind, codec)
    for ending, kind in _KINDS.items():
        if name.endswith(ending):
            return Format(kind)
    known = f"use one of the extensions {', '.join(_KINDS)}; text formats may add .gz or .zst"
    hint = next((hint for ending, hint in _OTHERS.items() if name.endswith(ending)), known)
    raise UsageError(f"cannot tell the format of {place}; {hint}")


def is_image(place: str) -> bool:
    """Tell from its name whether a file is an image."""
    return place.lower().rpartition(".")[2] in IMAGE_ENDINGS


def part_ending_of(place: str) -> str:
    """Return the suffix of a table's parts; the parts of a Parquet table are Arrow streams."""
    kind = format_of(place).kind
    return "arrow" if kind == "parquet" else kind


def ending_of(name: str) -> str:
    """Return the suffix of a table's name, such as `.csv.gz`; empty for any other name."""
    found = _ENDING.search(name)
    return found.group() if found else ""
