"""Jobs whose rows fail: refused before the run where none can succeed, warned of early, ended where too many fail."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.images import inline, make_png
from text_image_similarity import (
    Config,
    ConfigError,
    LocalEngine,
    TableOptions,
    TooManyFailuresError,
    UsageError,
    score_csv,
)
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import ErrorCode
from text_image_similarity.tables import Summary, explain_failures

RED = inline("red")


def score(source: Path, target: Path, config: Config | None = None, **options: Any) -> Summary:
    engine = LocalEngine(encoder=ColourEncoder())
    return score_csv(source, target, config or Config(), engine=engine, options=TableOptions(**options))


def write(folder: Path, rows: list[tuple[str, str]]) -> Path:
    with (folder / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("url", "caption"), *rows])
    return folder / "in.csv"


class TestTypes:
    @pytest.mark.parametrize(
        ("column", "reason"),
        [
            (pa.array([b"a.jpg"]), r"contains (bytes, not text|text stored as bytes).*\(binary\)"),
            (
                pa.array([b"a.jpg"], pa.large_binary()),
                r"contains (bytes, not text|text stored as bytes).*\(large_binary\)",
            ),
            (pa.array([b"a.jpg"]).dictionary_encode(), "contains (bytes, not text|text stored as bytes)"),
            (pa.array([[1, 2]]), r"has several values per row; .* \(list"),
            (pa.array([{"url": "a.png"}]), r"has several values per row; .* \(struct"),
            (pa.array([True]), r"contains neither text nor numbers; cast it to strings \(bool\)"),
            (pa.array([0], pa.timestamp("s")), r"contains neither text nor numbers"),
        ],
    )
    @pytest.mark.parametrize("name", ["url", "caption"])
    def test_a_column_that_no_row_can_be_scored_with_is_refused(
        self, tmp_path: Path, column: pa.Array, reason: str, name: str
    ) -> None:
        columns = {"url": pa.array([RED]), "caption": pa.array(["red"]), name: column}
        pq.write_table(pa.table(columns), tmp_path / "in.parquet")
        with pytest.raises(UsageError, match=f"column '{name}' of .*in.parquet {reason}"):
            score(tmp_path / "in.parquet", tmp_path / "out.parquet")
        assert not (tmp_path / "out.parquet").exists()

    @pytest.mark.parametrize(
        "column",
        [
            pa.array(["red"], pa.large_string()),
            pa.array(["red"], pa.string_view()),
            pa.array(["red"]).dictionary_encode(),
            pa.array([7], pa.uint8()),
            pa.array([0.5], pa.float32()),
            pa.array([1], pa.decimal128(5, 2)),
        ],
    )
    def test_text_and_numbers_of_any_type_are_captions(self, tmp_path: Path, column: pa.Array) -> None:
        pq.write_table(pa.table({"url": [RED], "caption": column}), tmp_path / "in.parquet")
        assert score(tmp_path / "in.parquet", tmp_path / "out.parquet").scored == 1

    def test_a_column_of_json_that_is_true_or_false_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "in.jsonl").write_text('{"url": "a.jpg", "caption": true}\n')
        with pytest.raises(UsageError, match=r"column 'caption' of .* contains neither text nor numbers"):
            score(tmp_path / "in.jsonl", tmp_path / "out.jsonl")


class TestWarning:
    def test_most_rows_of_the_first_part_failing_is_warned_of_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = [("gone.png", "red"), ("gone.png", "red"), (RED, "red")] * 4
        with caplog.at_level(logging.WARNING):
            score(write(tmp_path, rows), tmp_path / "out.csv", Config(chunk_size=3))
        (record,) = caplog.records
        said = record.getMessage()
        assert said.startswith("2 of the first 3 rows failed, 2 with file_not_found, the first of them: ")
        assert (
            f"relative paths start from {tmp_path}; if the files are elsewhere, name their folder with --base-dir"
            in said
        )

    def test_half_of_the_rows_failing_is_not(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            score(write(tmp_path, [("gone.png", "red"), (RED, "red")]), tmp_path / "out.csv")
        assert not caplog.records

    def test_a_shard_has_no_column_of_references(self) -> None:
        said = explain_failures({"invalid_url": 2}, Config(), (None, "caption"))
        assert said == "2 with invalid_url"

    @pytest.mark.parametrize("code", list(ErrorCode))
    def test_every_code_can_be_explained(self, code: ErrorCode) -> None:
        said = explain_failures({code.value: 1000}, Config(base_dir="/data"), ("link", "title"))
        assert said.startswith(f"1,000 with {code.value}")
        assert "{" not in said

    def test_a_proxy_that_is_there_is_not_asked_for(self) -> None:
        for proxy, hint in ((None, "set it with --proxy"), ("http://proxy.example:3128", "are the proxy's address")):
            assert hint in explain_failures({"connect_error": 2}, Config(proxy=proxy), ("url", "caption"))


class TestLimit:
    @pytest.mark.parametrize(("limit", "scored"), [(2, 6), ("10%", 3), ("2", 6), (0, 3)])
    def test_a_run_ends_when_more_rows_failed_than_may_and_goes_on_with_another_limit(
        self, tmp_path: Path, limit: int | str, scored: int
    ) -> None:
        source = write(tmp_path, [(RED, "red"), (RED, "red"), ("gone.png", "red")] * 4)
        config, out = Config(chunk_size=3), tmp_path / "out.csv"
        with pytest.raises(
            TooManyFailuresError, match=rf"max_failures={limit} allows.*file_not_found.*resumes"
        ) as raised:
            score(source, out, config, max_failures=limit)
        done = {2: 9, "2": 9, "10%": 3, 0: 3}[limit]
        assert f"{done // 3} of {done} rows failed" in str(raised.value)
        assert not out.exists()
        with pytest.raises(TooManyFailuresError, match=f"of {done} rows"):
            score(source, out, config, max_failures=limit)
        assert score(source, out, config, max_failures="34%").rows == 12
        assert scored

    def test_as_many_as_may_fail_are_none_too_many(self, tmp_path: Path) -> None:
        source = write(tmp_path, [(RED, "red"), ("gone.png", "red")])
        for limit in (1, "50%", "100%", None):
            assert score(source, tmp_path / "out.csv", max_failures=limit).scored == 1

    @pytest.mark.parametrize("limit", ["5 %", "-1", -1, "x", "101%", 0.5, True, "", "٣"])
    def test_a_limit_that_is_none_is_a_config_error(self, limit: Any) -> None:
        with pytest.raises(ConfigError, match="max_failures"):
            TableOptions(max_failures=limit)


def test_a_table_whose_pictures_are_elsewhere_is_told_at_once_how_they_are_allowed(tmp_path: Path) -> None:
    folder, out = tmp_path / "given", tmp_path / "out.csv"
    folder.mkdir()
    (tmp_path / "red.png").write_bytes(make_png("red"))
    source = write(folder, [("../red.png", "red")] * 3)
    with pytest.raises(UsageError, match=r"no image in the first 2 rows .*--files-under FOLDER .* is not under"):
        score(source, out, Config(chunk_size=2))
    assert not out.exists()
    assert score(source, out, Config(chunk_size=2, files_under="/")).scored == 3


def test_no_cell_of_ours_begins_like_a_formula(tmp_path: Path) -> None:
    """Spreadsheets calculate cells that begin with `= + - @`; whatever a table or a server says stands behind an error's code."""
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "http://=1/", "data:=1", "=1://h", "", "[=1", "http://[=1"]
    source = write(tmp_path, [*((text, "red") for text in formulas), (RED, "")])
    summary = score(source, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        errors = [row["error"] for row in csv.DictReader(file)]
    assert (summary.rows, summary.scored) == (12, 0)
    assert all(ErrorCode(error.partition(":")[0]).value[0].isalpha() for error in errors)
