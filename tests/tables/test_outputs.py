"""What may be replaced: what an earlier run wrote, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.support.images import inline
from text_image_similarity import Config, LocalEngine, TableError, TableOptions, UsageError, score_csv
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.tables import Summary


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text(f'url,caption\n"{inline("red")}",red\n')
    return path


def score(source: Path, target: Path | str, **options: Any) -> Summary:
    return score_csv(
        source, target, Config(), engine=LocalEngine(encoder=ColourEncoder()), options=TableOptions(**options)
    )


@pytest.mark.parametrize("start", ["resume", "restart"])
def test_a_file_that_is_not_ours_is_kept(source: Path, start: str) -> None:
    out = source.with_name("precious.csv")
    out.write_text("precious\n")
    with pytest.raises(UsageError, match=r"precious\.csv was not written by this command; .*--force"):
        score(source, out, start=start)
    assert out.read_text() == "precious\n"
    assert sorted(path.name for path in source.parent.iterdir()) == ["in.csv", "precious.csv"]
    score(source, out, start=start, force=True)
    assert out.read_text().startswith("url,caption,similarity,error\n")


def test_an_output_of_ours_is_replaced_unless_it_was_changed(source: Path) -> None:
    out = source.with_name("out.csv")
    score(source, out)
    before = out.read_text()
    score(source, out)
    assert out.read_text() == before
    out.write_text(before + "mine,too,,\n")
    with pytest.raises(UsageError, match=r"out\.csv was changed after it was written; .*--force"):
        score(source, out)
    assert out.read_text().endswith("mine,too,,\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cat.JPG", r"the folder .*out contains images, such as cat\.JPG; name a new folder, or .* --force"),
        ("a.csv", r"a\.csv was not written by this command; name another output, or .*--force"),
    ],
)
def test_a_folder_of_other_files_is_refused_before_anything_is_written(tmp_path: Path, name: str, message: str) -> None:
    (tables := tmp_path / "tables").mkdir()
    for table in ("a.csv", "b.csv"):
        (tables / table).write_text(f'url,caption\n"{inline("red")}",red\n')
    (out := tmp_path / "out").mkdir()
    (out / name).write_text("precious\n")
    with pytest.raises(UsageError, match=message):
        score(tables, out)
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "precious\n"
    (out / name).unlink()
    for other in (".hidden", "_SUCCESS", "run.log"):
        (out / other).touch()
    assert score(tables, out).scored == 2
    assert score(tables, out).scored == 2  # a folder of an earlier run


@pytest.mark.parametrize("text", ["precious", "[]", "{}", '{"output_content": 7, "mine": 1}'])
def test_a_summary_that_is_not_ours_is_kept(source: Path, text: str) -> None:
    out, note = source.with_name("out.csv"), source.with_name("out.csv.summary.json")
    note.write_text(text)
    with pytest.raises(UsageError, match=r"out\.csv\.summary\.json was not written by this command"):
        score(source, out)
    assert note.read_text() == text
    assert not out.exists()


def test_a_file_that_appears_while_rows_are_scored_is_kept(source: Path) -> None:
    out = source.with_name("out.csv")
    engine = LocalEngine(encoder=ColourEncoder())

    def write(done: int, *_: int) -> None:
        if done:
            out.write_text("precious\n")

    with pytest.raises(UsageError, match=r"out\.csv was not written by this command"):
        score_csv(source, out, Config(), engine=engine, progress=write)
    assert out.read_text() == "precious\n"
    with pytest.raises(UsageError, match=r"out\.csv was not written by this command"):
        score(source, out)
    out.unlink()
    assert score(source, out).scored == 1
    assert sorted(path.name for path in source.parent.iterdir()) == ["in.csv", "out.csv", "out.csv.summary.json"]


def test_a_folder_that_appears_while_rows_are_scored_is_told_with_what_is_kept(source: Path) -> None:
    out = source.with_name("out.csv")
    engine = LocalEngine(encoder=ColourEncoder())

    def make(done: int, *_: int) -> None:
        if done:
            out.mkdir()

    with pytest.raises(TableError, match=r"out\.csv cannot be written: .*; all its parts are kept"):
        score_csv(source, out, Config(), engine=engine, progress=make)
    out.rmdir()
    assert score(source, out).scored == 1


def test_an_output_is_not_put_over_the_embedding_cache(source: Path) -> None:
    out = source.with_name("out.csv")
    with pytest.raises(UsageError, match=r"out\.csv is the embedding cache"):
        score_csv(source, out, Config(embedding_cache=out), engine=LocalEngine(encoder=ColourEncoder()))
    assert not out.exists()


def test_an_empty_file_is_replaced(source: Path) -> None:
    out = source.with_name("out.csv")
    out.touch()
    assert score(source, out).scored == 1


def test_an_output_that_was_put_in_place_without_its_summary_is_ours(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = source.with_name("out.csv")
    moved: list[Path] = []

    def stop_after_the_table(*paths: Path) -> None:
        if moved:
            raise KeyboardInterrupt
        moved.append(paths[1])
        paths[0].replace(paths[1])

    with monkeypatch.context() as patch:
        patch.setattr("text_image_similarity.files.move_durably", stop_after_the_table)
        with pytest.raises(KeyboardInterrupt):
            score(source, out)
    assert out.exists()
    assert not source.with_name("out.csv.summary.json").exists()
    assert score(source, out).scored == 1
    assert json.loads(source.with_name("out.csv.summary.json").read_text())["scored"] == 1


def test_a_file_at_a_url_is_kept_too(source: Path) -> None:
    url = f"memory://{source.parent.name}/out.csv"
    files = fsspec.filesystem("memory")
    files.pipe_file(url, b"precious")
    with pytest.raises(UsageError, match="was not written by this command"):
        score(source, url)
    assert files.cat_file(url) == b"precious"
    score(source, url, force=True)
    assert score(source, url).scored == 1
