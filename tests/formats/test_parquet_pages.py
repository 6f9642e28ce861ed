"""Pages of Parquet files: what their headers demand is known before Arrow allocates it, whatever the footer says."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from text_image_similarity import TableError
from text_image_similarity.formats import parquet_encodings, parquet_file
from text_image_similarity.formats.page_headers import IncompleteHeaderError, PageHeader, read_header
from text_image_similarity.formats.parquet import ParquetTable
from text_image_similarity.formats.storage import open_bytes

LONG = 2 * 1024 * 1024


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_encodings, "_LARGE_GROUP", 1024 * 1024)


def varint(number: int) -> bytes:
    last = number < 128
    return bytes([number]) if last else bytes([number & 127 | 128]) + varint(number >> 7)


def number(value: int) -> bytes:
    return varint(value << 1)


def rows(path: Path | str, dropped: frozenset[str] = frozenset()) -> int:
    return sum(len(part.batch) for part in ParquetTable([str(path)], dropped).read(0, 100))


def write(path: Path, note: list[Any], claimed: int | None = None, **options: Any) -> None:
    """Write a table whose footer says that its column "note" has `claimed` bytes, uncompressed."""
    table = pa.table({"image": ["a.png"] * len(note), "note": note, "caption": ["a"] * len(note)})
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False, **options}
    pq.write_table(table, path, store_schema=False, **options)
    if claimed is None:
        return
    column = pq.read_metadata(path).row_group(0).column(1)
    data = path.read_bytes()
    length = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - length : -8]
    packed = b"\x16" + number(column.total_compressed_size)  # the next field, an i64
    true = number(column.total_uncompressed_size) + packed
    assert footer.count(true) == 1
    footer = footer.replace(true, number(claimed) + packed)
    footer = footer.replace(number(pq.read_metadata(path).row_group(0).total_byte_size), number(claimed + 200))
    path.write_bytes(data[: -8 - length] + footer + struct.pack("<I", len(footer)) + b"PAR1")
    assert pq.read_metadata(path).row_group(0).column(1).total_uncompressed_size == claimed


LIES: list[dict[str, Any]] = [
    {},
    {"data_page_version": "2.0"},
    {"use_dictionary": ["note"]},
    {"compression": "brotli"},
    {"compression": "gzip"},
]


@pytest.mark.parametrize("options", LIES, ids=str)
def test_a_footer_cannot_hide_the_size_of_a_page(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "in.parquet"
    write(path, ["x" * LONG] * 2, 1000, **options)
    before = pa.total_allocated_bytes()
    with pytest.raises(TableError, match=r"column 'note' of .* has a page of [24],\d+,\d+ bytes, compressed to \d"):
        rows(path)
    assert pa.total_allocated_bytes() - before < LONG
    assert rows(path, frozenset({"note"})) == 2, "columns that are not read are not checked"


def test_the_same_holds_for_a_file_in_a_store(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    write(path, ["x" * LONG] * 2, 1000)
    with fsspec.open("memory://pages/in.parquet", "wb") as file:
        file.write(path.read_bytes())
    with pytest.raises(TableError, match="has a page of 4,"):
        rows("memory://pages/in.parquet")


def test_pages_are_added_up(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    write(path, ["x" * (LONG // 10)] * 10, 1000, data_page_size=1, write_batch_size=1)
    with pytest.raises(TableError, match=r"has a page of 209,7\d\d bytes"):
        rows(path)


def test_a_footer_that_says_so_may_compress_a_lot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_encodings, "_MOST_COMPRESSED", 1_000_000)
    path = tmp_path / "in.parquet"
    write(path, ["x" * LONG] * 2)
    assert rows(path) == 2
    write(path, ["x" * LONG] * 2, 1000)  # more rows would be read at once
    with pytest.raises(TableError, match="has a page of 4,"):
        rows(path)


@pytest.mark.parametrize(
    "options", [*LIES, {"compression": "none"}, {"compression": "snappy"}, {"compression": "lz4"}], ids=str
)
@pytest.mark.parametrize("statistics", [False, True])
def test_honest_files_are_read(tmp_path: Path, options: dict[str, Any], statistics: bool) -> None:
    path = tmp_path / "in.parquet"
    note = [None if i % 3 == 0 else [f"{i}" * (i % 7), "b"] * (i % 2) for i in range(3000)]
    write(path, note, **{**options, "write_statistics": statistics}, row_group_size=700, data_page_size=50)
    assert rows(path) == 3000


def test_reading_takes_no_further_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.parquet"
    write(path, ["x" * 5000] * 3000, compression="none", row_group_size=1000, data_page_size=20_000)
    seen: list[int] = []

    def count(path: Path) -> Iterator[int]:
        for checked in (True, False):
            if not checked:
                monkeypatch.setattr(parquet_file._CheckedFile, "_walk", lambda *_: None)
            seen.clear()
            assert rows(path) == 3000
            yield sum(seen)

    class Counted:
        def __init__(self, raw: Any) -> None:
            self.raw = raw

        def read(self, count: int) -> bytes:
            seen.append(1)
            return bytes(self.raw.read(count))

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *_: object) -> None:
            self.raw.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.raw, name)

    monkeypatch.setattr(parquet_file, "open_bytes", lambda place: Counted(open_bytes(place)))
    with_check, without = count(path)
    assert with_check == without


def test_columns_do_not_share_their_bytes(tmp_path: Path) -> None:
    """Otherwise each of many columns could claim a share of the limit for the same few bytes."""
    path = tmp_path / "in.parquet"
    write(path, ["x" * 100] * 2)
    with parquet_file.open_parquet(str(path)) as reader:
        group = reader.metadata.row_group(0)
        column = group.column(1)

        class Repeated:
            num_columns = 1000

            def column(self, _: int) -> Any:
                return column

        with pytest.raises(TableError, match=r"the columns of a row group take [\d,]+ bytes, more than the file's"):
            reader.source.check(Repeated(), reader.metadata.schema, 1, None)


def rewritten(path: Path, *changes: tuple[bytes, bytes]) -> None:
    """Replace bytes of the footer, each of which occurs once."""
    data = path.read_bytes()
    length = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - length : -8]
    for old, new in changes:
        assert footer.count(old) == 1
        footer = footer.replace(old, new)
    path.write_bytes(data[: -8 - length] + footer + struct.pack("<I", len(footer)) + b"PAR1")


def test_a_footer_cannot_hide_a_dictionary(tmp_path: Path) -> None:
    """Otherwise many rows with the same long text would be read at once."""
    path = tmp_path / "in.parquet"
    write(path, ["x" * 1000] * 64, use_dictionary=["note"])
    column = pq.read_metadata(path).row_group(0).column(1)
    assert column.has_dictionary_page
    name = b"\x19\x18\x04note"  # the path, after the encodings and before the codec
    data = path.read_bytes()
    at = data.rindex(name)
    encodings = data[data.rindex(b"\x19", 0, at) : at]  # a list of numbers
    offsets = b"\x26" + number(column.data_page_offset)
    there = offsets + data.partition(offsets)[2][: len(number(column.dictionary_page_offset)) + 1]
    hidden = b"\x26" + number(column.dictionary_page_offset)
    rewritten(path, (encodings + name, b"\x19\x25\x00\x06" + name), (there, hidden))
    assert not pq.read_metadata(path).row_group(0).column(1).has_dictionary_page
    with pytest.raises(
        TableError, match=r"column 'note' of .* is damaged: it is stored in another way than the file's"
    ):
        rows(path)


def test_a_page_cannot_have_more_values_than_the_footer_says(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    write(path, ["x" * 1000] * 64)
    start = pq.read_metadata(path).row_group(0).column(1).data_page_offset
    header = path.read_bytes()[start : start + 40]
    data = bytearray(path.read_bytes())
    values = header.index(b"\x2c\x15" + number(64)) + 2
    data[start + values : start + values + len(number(64))] = number(65)
    path.write_bytes(data)
    with pytest.raises(TableError, match=r"column 'note' of .* is damaged: it has more values than the file's footer"):
        rows(path)


def test_a_column_has_a_value_in_each_row(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    write(path, ["x" * 1000] * 64)
    column = pq.read_metadata(path).row_group(0).column(1)
    sizes = b"\x16" + number(column.total_uncompressed_size)
    rewritten(path, (number(64) + sizes, number(65) + sizes))
    with pytest.raises(TableError, match=r"column 'note' of .* is damaged: it has 65 values in 64 rows"):
        rows(path)


@pytest.mark.parametrize(("length", "note"), [(33 * LONG, [None]), (2**16, [[None] * 20])])
def test_missing_values_of_fixed_length_take_memory_too(tmp_path: Path, length: int, note: list[Any]) -> None:
    path = tmp_path / "in.parquet"
    kind = pa.binary(16)
    write(path, pa.array(note, pa.list_(kind) if note[0] else kind))
    rewritten(path, (b"\x15\x0e\x15" + number(16), b"\x15\x0e\x15" + number(length)))
    with pytest.raises(
        TableError, match=rf"column 'note' of .* takes {length:,} bytes for each value, even a missing one"
    ):
        rows(path)


def test_values_of_fixed_length_may_be_missing_in_a_column_that_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    write(path, pa.array([None], pa.binary(33 * LONG)))
    with pytest.raises(TableError, match="even a missing one"):
        rows(path)
    assert rows(path, frozenset({"note"})) == 1


def test_too_many_pages_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "_MOST_PAGES", 50)
    path = tmp_path / "in.parquet"
    write(path, [1] * 1000, data_page_size=1, write_batch_size=1, compression="none", use_byte_stream_split=False)
    with pytest.raises(TableError, match=r"has too many pages, \d+ in "):
        rows(path)


def test_a_damaged_header_is_named(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    write(path, ["x" * 100] * 2)
    start = pq.read_metadata(path).row_group(0).column(1).data_page_offset
    data = bytearray(path.read_bytes())
    data[start] = 0xFF
    path.write_bytes(data)
    with pytest.raises(
        TableError, match=rf"column 'note' of .* is damaged: the header of its page at byte {start} is not valid"
    ):
        rows(path)


PAGE = b"\x15\x00\x15" + number(300) + b"\x15" + number(200)
VALUES = b"\x2c\x15" + number(7) + b"\x15\x00\x15\x06\x15\x06"


def test_a_header_is_read() -> None:
    found = read_header(memoryview(PAGE + VALUES + b"\x00\x00rest"))
    assert found == PageHeader(len(PAGE + VALUES) + 2, 200, 300, 7)
    skipped = (
        b"\x18\x03abc"
        + b"\x19\x25\x02\x04"
        + b"\x1b\x01\x58\x02\x01z"
        + b"\x17"
        + b"8" * 8
        + b"\x16\x80\x01"
        + b"\x13b\x11\x12"
    )
    assert read_header(memoryview(PAGE + VALUES + b"\x00" + b"\x78\x00" + skipped + b"\x00")).uncompressed == 300
    for end in range(len(PAGE + VALUES) + 2):
        with pytest.raises(IncompleteHeaderError):
            read_header(memoryview((PAGE + VALUES + b"\x00\x00")[:end]))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x00", "a required number is missing"),
        (b"\x15\x00\x16\x04\x15\x04\x00", "a required number is missing"),  # of another type, which Thrift skips
        (PAGE + b"\x00", "the number of values or the encoding is missing"),
        (PAGE + VALUES + b"\x00\x05\x04\x02\x00", "a field occurs twice"),
        (b"\x15\x00\x15" + varint(1 << 33) + b"\x15\x02", "does not fit its type"),  # Thrift takes the last 32 bits
        (b"\x15\x00\x15\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "does not fit its type"),
        (b"\x15\x00\x15\x01\x15\x02" + VALUES + b"\x00\x00", "a number is negative"),
        (b"\x05\x01\x02", "has an invalid number"),
        (b"\x1c" * 100, "nested too deeply"),
        (PAGE + b"\x59" + b"\x19" * 100, "nested too deeply"),
        (PAGE + b"\x59\xf3\xff\xff\x03" + b"\x00" * 1000, "has too many fields"),
        (PAGE + b"\x58\xff\xff\xff\x7f", "is too long"),
        (b"\x1e", "a field has an unknown type"),
    ],
)
def test_other_headers_are_errors(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_header(memoryview(data))
