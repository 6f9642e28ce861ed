"""References of a table lead under one folder, and what they lead to elsewhere is not told."""

from __future__ import annotations

from pathlib import Path

import pytest

from text_image_similarity import Config
from text_image_similarity.client.pairs import Pairs
from text_image_similarity.decode.formats import sniff
from text_image_similarity.errors import ErrorCode, RowError, UsageError
from text_image_similarity.fetch import Fetcher
from text_image_similarity.formats import with_base_dir
from text_image_similarity.records import Record, ScoreResult
from text_image_similarity.tables.failures import FailureWatch

SECRET = b"the secret of this machine"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "table"
    (folder / "in").mkdir(parents=True)
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (folder / "in" / "near.txt").write_bytes(SECRET)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder / "pairs.csv"


def references(table: Path) -> list[str]:
    outside = table.parents[1] / "secret.txt"
    return [
        "../secret.txt",
        "in/../../secret.txt",
        str(outside),
        outside.as_uri(),
        "../table/../nothing.txt",
        "../nothing.txt",
    ]


@pytest.mark.parametrize("number", range(6))
def test_a_reference_that_leaves_the_tables_folder_is_refused(table: Path, number: int) -> None:
    fetcher = Fetcher(with_base_dir(Config(files_under=table.parent), str(table)))
    with pytest.raises(RowError, match="--files-under") as caught:
        fetcher.fetch(references(table)[number])
    assert caught.value.code is ErrorCode.FILE_NOT_FOUND
    assert "secret of" not in str(caught.value)


def test_another_root_allows_them_and_the_folder_itself_is_allowed(table: Path) -> None:
    fetcher = Fetcher(with_base_dir(Config(files_under=table.parent), str(table)))
    inside = [
        "in/near.txt",
        "in/../in/near.txt",
        str(table.parent / "in" / "near.txt"),
        "link.txt",
    ]  # a link is the folder's owner's
    assert [fetcher.fetch(each) for each in inside] == [SECRET] * 4
    elsewhere = Fetcher(with_base_dir(Config(files_under=table.parents[1]), str(table)))
    assert [elsewhere.fetch(each) for each in references(table)[:4]] == [SECRET] * 4


def test_content_is_not_quoted_and_goes_to_no_service(table: Path) -> None:
    with pytest.raises(RowError) as caught:
        sniff(SECRET)
    assert "secret" not in str(caught.value)
    result = Pairs(with_base_dir(Config(files_under=table.parent), str(table))).pair(Record("in/near.txt", "a caption"))
    assert isinstance(result, ScoreResult)
    assert result.error == "not_an_image: the content is text"


def test_a_job_whose_first_rows_may_not_be_read_ends(table: Path) -> None:
    config = with_base_dir(Config(files_under=table.parent), str(table))
    results = []
    for reference in references(table):
        with pytest.raises(RowError) as caught:
            Fetcher(config).fetch(reference)
        results.append(ScoreResult.failed(caught.value))
    with pytest.raises(UsageError, match="--files-under"):
        FailureWatch(config, ("url", "caption")).look_at(results)
    FailureWatch(config, ("url", "caption")).look_at([*results, ScoreResult(similarity=0.5)])
