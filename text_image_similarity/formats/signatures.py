"""Recognise files by their first bytes, if their name is wrong."""

from __future__ import annotations

_SIGNATURES = {
    b"PAR1\x15": "a Parquet file; give it the extension .parquet",
    b"PK\x03\x04": "an Excel workbook or another ZIP archive; save the sheet as CSV UTF-8, or unpack it",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an Excel workbook (.xls); save the sheet as CSV UTF-8",
    b"\x1f\x8b": "compressed with gzip; add .gz to its name",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; add .zst to its name",
    b"BZh91AY&SY": "compressed with bzip2; decompress it",
    b"\xfd7zXZ\x00": "compressed with xz; decompress it",
    b"ARROW1\x00": "an Arrow file; write it as Parquet",
    b"Obj\x01": "an Avro file; write it as Parquet",
    b"SQLite format 3\x00": "an SQLite database; export the table as CSV",
    b"\x89HDF": "an HDF5 file; write it as Parquet",
    b"\x80\x04\x95": "a Python pickle; write it as Parquet",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive; unpack it",
    b"\x93NUMPY": "a NumPy array; write it as Parquet",
    b"\xff\xd8\xff": "a JPEG image, not a table",
    b"\x89PNG\r\n\x1a\n": "a PNG image, not a table",
    b"{\\rtf": "a document in RTF; save it as plain text",
    b"%PDF-": "a PDF document, not a table",
}
_HTML = (b"<!doctype html", b"<html")
LONGEST = 64  # bytes to look at


def other_format(head: bytes) -> str | None:
    """Return the format of a file by its first bytes, and what to do about it; None if it may be text."""
    for signature, found in _SIGNATURES.items():
        if head.startswith(signature):
            return found
    if head.lstrip().lower().startswith(_HTML):
        return "a web page, perhaps the error page of a failed download; open it in an editor"
    return None


def text_format(head: bytes) -> str:
    """Return the apparent format of a file that should be Parquet, and what to do about it; empty if unknown."""
    if found := other_format(head):
        return found
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith((b"{", b"[")):
        return "a JSON file; give it the extension .jsonl if it has one object per line"
    if start and all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return "a text file; give it the extension .csv or .tsv, depending on its delimiter"
    return ""
