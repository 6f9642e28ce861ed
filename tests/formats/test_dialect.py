"""CSV and TSV in the dialects that people have, and files that are not what their names say."""

from __future__ import annotations

import gzip
import json
import logging
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.images import inline
from text_image_similarity import Config, Dialect, LocalEngine, TableError, TableOptions, UsageError, score_csv
from text_image_similarity.config import Quoting
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import ConfigError
from text_image_similarity.formats import delimited, open_table, read_rows
from text_image_similarity.formats.output import DelimitedOutput
from text_image_similarity.formats.rows import TextRows
from text_image_similarity.tables import Summary

RED = inline("red")
TOKEN = re.compile(r'\\["\\]|"|[^"\\]+|\\')
ALIEN = 'url\tcaption\na.jpg\t"Alien vs\nb.jpg\ta dog\nc.jpg\tTV 42"'


def token_by_token(lines: list[str], delimiter: str) -> Iterator[str]:
    """Yield what `_without_backslashes` must yield, from the definition of its tokens."""
    inside = False
    for line in lines:
        changed, starts, closed = "", not inside, False
        for token in TOKEN.findall(line):
            if inside and token in ('\\"', "\\\\"):
                changed += '""' if token == '\\"' else "\\"
                continue
            if token == '"' and (inside or starts or closed):
                inside = not inside
            closed = token == '"' and not inside
            starts = not inside and token.endswith(delimiter)
            changed += token
        yield changed


def read(path: Path, dialect: Dialect | None = None) -> list[tuple[str, ...]]:
    table = open_table(str(path), dialect=dialect)
    table.scan()
    rows = [
        row for part in table.read(0, 100) for row in zip(*(part.column(name) for name in table.columns), strict=True)
    ]
    assert table.row_count == len(rows)
    return rows


def score(source: Path, target: Path, dialect: Dialect | None = None, **options: Any) -> Summary:
    config = Config(dialect=dialect or Dialect())
    return score_csv(
        source, target, config, engine=LocalEngine(encoder=ColourEncoder()), options=TableOptions(**options)
    )


def write(path: Path, text: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


class TestQuoting:
    def test_quotation_marks_in_a_tsv_merge_no_rows(self, tmp_path: Path) -> None:
        place = write(tmp_path / "in.tsv", ALIEN)
        with pytest.raises(
            TableError, match=r"row 1 of .* \(on line 2\) has a field that begins with a quotation mark.*none.*minimal"
        ):
            read(place)
        expected = [("a.jpg", '"Alien vs'), ("b.jpg", "a dog"), ("c.jpg", 'TV 42"')]
        assert read(place, Dialect(quoting="none")) == expected
        assert len(read(place, Dialect(quoting="minimal"))) == 1

    def test_a_csv_with_tabs_is_as_doubtful_as_a_tsv(self, tmp_path: Path) -> None:
        place = write(tmp_path / "in.csv", ALIEN)
        with pytest.raises(TableError, match="begins with a quotation mark"):
            read(place, Dialect(delimiter="tab"))
        assert len(read(place, Dialect(delimiter="tab", quoting="none"))) == 3

    def test_a_quoted_header_of_a_tsv_is_doubtful(self, tmp_path: Path) -> None:
        with pytest.raises(TableError, match=r"the header of .* begins with a quotation mark"):
            read(write(tmp_path / "in.tsv", '"url"\t"caption"\na\tb\n'))

    def test_marks_inside_a_field_are_text_in_a_tsv(self, tmp_path: Path) -> None:
        text = 'url\tcaption\na.jpg\tTV 42"\nb.jpg\ta "big" dog\\\n'
        assert read(write(tmp_path / "in.tsv", text)) == [("a.jpg", 'TV 42"'), ("b.jpg", 'a "big" dog\\')]

    def test_a_row_of_a_tsv_that_is_too_long_names_the_way_out(self, tmp_path: Path) -> None:
        with pytest.raises(TableError, match=r"row 1 .* has 3 fields.*a field cannot contain a delimiter"):
            read(write(tmp_path / "in.tsv", "url\tcaption\na\tb\tc\n"))

    @pytest.mark.parametrize("rows", ['a.jpg,"he said \\"hi\\" now"\n', 'a.jpg,"5\\""\nb.jpg,6"\n', 'a,"b\\", c"\n'])
    def test_marks_escaped_with_backslashes_are_told_of_not_misread(self, tmp_path: Path, rows: str) -> None:
        place = write(tmp_path / "in.csv", "url,caption\n" + rows)
        with pytest.raises(TableError, match=r"row 1 .*escaped with backslashes, add --quoting backslash"):
            read(place)
        captions = [caption for _, caption in read(place, Dialect(quoting="backslash"))]
        assert captions == {"h": ['he said "hi" now'], "5": ['5"', '6"'], "b": ['b", c']}[rows.partition('"')[2][0]]

    def test_only_marks_and_backslashes_are_escaped_and_only_inside_quotes(self, tmp_path: Path) -> None:
        text = r"""url,caption
C:\dir\a.jpg,"x\n \"y\" \\"
plain \N,"one
\"two\"",
"a ""b"" \", c",5\"
""".replace('\\"",\n', '\\""\n')
        assert read(write(tmp_path / "in.csv", text), Dialect(quoting="backslash")) == [
            ("C:\\dir\\a.jpg", 'x\\n "y" \\'),
            ("plain \\N", 'one\n"two"'),
            ('a "b" ", c', '5\\"'),
        ]

    @given(st.lists(st.text('""\\\\,a\r', max_size=40), max_size=4), st.integers(1, 9))
    def test_backslashes_are_read_token_by_token(self, lines: list[str], piece: int) -> None:
        with mock.patch.object(delimited, "_PIECE", piece):
            assert [*delimited._without_backslashes(lines, ",")] == [*token_by_token(lines, ",")]

    @pytest.mark.parametrize("token", ["\\\\", '\\"', '""', "\\\\a", '\\"\\\\'])
    def test_a_long_row_of_backslashes_takes_little_memory(self, token: str) -> None:
        line = '"' + token * (2_000_000 // len(token)) + '",a\n'
        tracemalloc.start()
        (found,) = delimited._without_backslashes([line], ",")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found.endswith('",a\n')
        assert peak < 4 * len(line) + (8 << 20)

    def test_lines_that_look_like_rows_are_warned_of(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        place = write(tmp_path / "in.csv", ALIEN.replace("\t", ","))
        with caplog.at_level(logging.WARNING):
            assert len(read(place)) == 1
        assert caplog.text.count("row 1 of") == 1  # though the table was read twice
        assert "--quoting none" in caplog.text
        caplog.clear()
        read(write(place, ALIEN.replace("\t", ",").replace("vs\n", "vs\n\n")))
        assert "row 1 of" in caplog.text
        caplog.clear()
        write(place, ALIEN.replace("\t", ","))
        assert len(list(read_rows(open_table(str(place)), ["url"]))) == 1  # as `evaluate` and `train` read
        assert "row 1 of" in caplog.text
        caplog.clear()
        read(place, Dialect(quoting="minimal"))
        read(write(place, 'url,caption\na,"one\ntwo"\n'))
        assert not caplog.text

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n\0"), min_size=1)),
        st.sampled_from([Dialect(quoting="none"), Dialect(quoting="none", delimiter="\t")]),
    )
    def test_without_quoting_every_text_comes_out_as_it_was(
        self, tmp_path: Path, texts: list[str], dialect: Dialect
    ) -> None:
        text = "".join(f"{RED}\t{caption}\n" for caption in ["red", *texts])
        source = write(tmp_path / "in.tsv", "url\tcaption\n" + text)
        score(source, tmp_path / "out.tsv", dialect)
        lines = (tmp_path / "out.tsv").read_bytes().decode().split("\n")[1:-1]
        assert ["\t".join(line.split("\t")[:2]) for line in lines] == text.split("\n")[:-1]
        assert [row[:2] for row in read(tmp_path / "out.tsv", dialect)] == read(source, dialect)


class TestOutput:
    def test_an_output_of_the_same_format_is_written_in_the_same_dialect(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.csv", f"url;caption\n{RED.replace(';', ':')};a red, dot\n")
        score(source, tmp_path / "out.csv", Dialect(delimiter=";"))
        assert (tmp_path / "out.csv").read_text().startswith("url;caption;similarity;error\n")
        score(source, tmp_path / "out.tsv", Dialect(delimiter=";"))
        assert (tmp_path / "out.tsv").read_text().startswith("url\tcaption\tsimilarity\terror\n")

    def test_output_is_utf_8_whatever_the_input_was(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.csv", "url,caption\nnone.jpg,café\n", "cp1252")
        score(source, tmp_path / "out.csv", Dialect(encoding="cp1252"))
        assert "café" in (tmp_path / "out.csv").read_text("utf-8")

    def test_only_fields_that_need_it_are_quoted_in_a_tsv(self, tmp_path: Path) -> None:
        captions = ['TV 42"', '"Alien" poster', "two\tfields", "two\nlines", "plain"]
        pq.write_table(pa.table({"url": [RED] * 5, "caption": captions}), tmp_path / "in.parquet")
        score(tmp_path / "in.parquet", tmp_path / "out.tsv")
        text = (tmp_path / "out.tsv").read_text()
        for field in ('TV 42"', '"""Alien"" poster"', '"two\tfields"', '"two\nlines"', "plain"):
            assert f"{RED}\t{field}\t" in text
        assert [row[1] for row in read(tmp_path / "out.tsv", Dialect(quoting="minimal"))] == captions

    def test_a_field_that_cannot_be_written_without_quoting_is_refused(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.tsv", f"url\tcaption\tnote\n{RED}\ta red dot\tone\rtwo\n")
        with pytest.raises(TableError, match=r"row 1 .* has 3 fields|row 2 .* has 1 fields"):
            score(source, tmp_path / "out.tsv", Dialect(quoting="none"))
        rows = TextRows(["url"], [["a;b"]])
        with pytest.raises(TableError, match="cannot be written without quoting: 'a;b'"):
            DelimitedOutput(["url"], Dialect(quoting="none", delimiter=";"), None).part(rows, [(0.5,), (None,)])

    @pytest.mark.parametrize("quoting", ["auto", "none", "minimal"])
    def test_failures_are_retried_in_the_dialect_of_the_output(self, tmp_path: Path, quoting: Quoting) -> None:
        dialect = Dialect(quoting=quoting)
        source = write(tmp_path / "in.tsv", f'url\tcaption\n{RED}\tTV 42"\nnone.jpg\ta dog\n')
        score(source, tmp_path / "out.tsv", dialect)
        before = (tmp_path / "out.tsv").read_bytes()
        score(source, tmp_path / "out.tsv", dialect, start="retry_failed")
        assert (tmp_path / "out.tsv").read_bytes() == before


class TestHints:
    @pytest.mark.parametrize(
        ("text", "option", "dialect"),
        [
            ("url;caption\na;b\n", "--delimiter ';'", Dialect(delimiter=";")),
            ("url;caption;size, cm\na;b;1\n", "--delimiter ';'", Dialect(delimiter=";")),
            ("url|caption\na|b\n", "--delimiter '|'", Dialect(delimiter="|")),
            ('"url";"caption"\n"a";"b"\n', "--delimiter ';'", Dialect(delimiter=";")),
            ('"url"\t"caption"\na\tb\n', "--delimiter tab", Dialect(delimiter="TAB", quoting="minimal")),
            ("url\tcaption\na\tb\n", "--delimiter tab", Dialect(delimiter="tab")),
        ],
    )
    def test_another_delimiter_is_named_and_works(
        self, tmp_path: Path, text: str, option: str, dialect: Dialect
    ) -> None:
        source = write(tmp_path / "in.csv", text)
        with pytest.raises((UsageError, TableError)) as raised:
            score(source, tmp_path / "out.csv")
        assert f"add {option} " in str(raised.value)
        assert [row[:2] for row in read(source, dialect)] == [("a", "b")]

    @pytest.mark.parametrize(
        ("name", "content", "hint"),
        [
            ("in.csv", b"sep=,\nurl,caption\n", "delete the first line"),
            ("in.csv", b"sep=;\nurl;caption\n", "delete the first line"),
            ("in.csv", b'{"url": "a", "caption": "b"}\n', "give it the extension .jsonl"),
            ("in.csv", b"URL,TEXT\na,b\n", "if you mean 'URL'"),
            ("in.jsonl", b'[{"url": "a"}]', "the file contains an array.*jq -c"),
            ("in.jsonl", b'[\n{"url": "a"}\n]', "the file contains an array.*jq -c"),
            ("in.jsonl", b'{\n"url": "a"\n}', "each object must be on one line"),
            ("in.jsonl", b'{"url": "a"},\n{"url": "b"}\n', "remove the comma at the end of each line"),
            ("in.jsonl", b"{'url': 'a'}\n", r"is not valid JSON: [^;]*$"),
            (
                "in.jsonl",
                b'{"url": ' + b"7" * 5000 + b"}\n",
                r"a number in it has more than 308 digits; write it as a string$",
            ),
            ("in.csv", "url,caption\na,b\n".encode("utf-16-be"), "--encoding utf-16-be"),
            ("in.csv", b"\xff\xd8\xff\xe0" + bytes(60), "is a JPEG image"),
            ("in.jsonl", b"url,caption\na,b\n", "if it is a CSV or TSV file"),
            ("in.json", b'{"url": "a"}\n', "give it the extension .jsonl"),
            ("in.xlsx", b"", "use CSV instead, and save sheets as CSV UTF-8"),
            ("in.csv", b"PK\x03\x04" + bytes(60), "is an Excel workbook or another ZIP archive"),
            ("in.tsv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(60), "is an Excel workbook"),
            ("in.jsonl", b"PAR1\x15\x04" + bytes(60), "is a Parquet file; give it the extension .parquet"),
            ("in.csv", gzip.compress(b"url,caption\n", mtime=0), "is compressed with gzip; add .gz to its name"),
            ("in.csv", b"\n<!DOCTYPE html>\n<html>", "is a web page"),
            ("in.parquet", b'{"url": "a"}\n', "is a JSON file; give it the extension .jsonl"),
            ("in.parquet", b"PK\x03\x04" + bytes(60), "is an Excel workbook or another ZIP archive"),
            (
                "in.csv",
                "url,caption\na,é\n".encode("cp1252"),
                "column 'caption' in row 1 .* is not UTF-8; .*--encoding cp1252",
            ),
            ("in.csv", "url,caption\na,b\n".encode("utf-16-le"), "--encoding utf-16-le"),
        ],
    )
    def test_a_file_that_is_something_else_is_named_with_the_way_out(
        self, tmp_path: Path, name: str, content: bytes, hint: str
    ) -> None:
        with pytest.raises((UsageError, TableError), match=hint):
            score(write(tmp_path / name, content), tmp_path / "out.csv")

    def test_text_that_begins_like_a_signature_is_text(self, tmp_path: Path) -> None:
        assert read(write(tmp_path / "in.csv", "PAR1,BZh\nPK,caption\n")) == [("PK", "caption")]

    @pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-32", "utf-8", "gb18030"])
    def test_an_encoding_that_is_named_is_read(self, tmp_path: Path, encoding: str) -> None:
        place = write(tmp_path / "in.csv", "url,caption\na,é\n", encoding)
        assert read(place, Dialect(encoding=encoding)) == [("a", "é")]

    def test_a_byte_order_mark_counts_where_utf_8_is_named(self, tmp_path: Path) -> None:
        place = write(tmp_path / "in.csv", b"\xef\xbb\xbfurl,caption\na,b\n")
        assert open_table(str(place), dialect=Dialect(encoding="UTF8")).columns == ["url", "caption"]

    def test_a_dialect_is_for_csv_and_tsv(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="are for CSV and TSV only"):
            read(write(tmp_path / "in.jsonl", json.dumps({"url": "a"})), Dialect(delimiter=";"))


@pytest.mark.parametrize(
    "given",
    [
        {"delimiter": ""},
        {"delimiter": "::"},
        {"delimiter": '"'},
        {"delimiter": "\n"},
        {"quoting": "all"},
        {"encoding": "utf-7b"},
        {"encoding": "rot13"},
    ],
)
def test_a_wrong_dialect_is_a_config_error(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        Dialect(**given)  # type: ignore[arg-type]


def test_the_check_of_quoting_reads_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("url,caption\n")
    table = delimited.DelimitedTable([str(tmp_path / "in.csv")])
    row = ["red.png", "\u0100\n" * 200_000]  # the lines take over 10 MB as a list
    tracemalloc.start()
    table._check_quotes("row 1", row)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000
