"""A table of queries answered by a catalogue: what rows get, and the guarantees that scored tables have."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.images import inline, make_png
from tests.support.shop import product, shop
from text_image_similarity import Catalog, Config, Matches, Query, RowError, StoppedError, Term, UsageError
from text_image_similarity.search.ledger import Generation
from text_image_similarity.search.table_answers import MATCH_FIELDS, BestMatch, MatchEngine
from text_image_similarity.tables import Summary, TableOptions, Task, run_table

COLOURS = ("red", "green", "blue", "yellow", "cyan")


@pytest.fixture
def catalog() -> Iterator[Catalog]:
    with shop() as opened:
        opened.add(product(colour, colour, price=len(colour)) for colour in ("red", "green", "blue"))
        yield opened


class Counting:
    """A catalogue that counts the queries it answers."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog, self.answered = catalog, 0

    @property
    def generations(self) -> list[Generation]:
        return self._catalog.generations

    def match_many(self, queries: Iterable[str | Query]) -> list[Matches | RowError]:
        given = list(queries)
        self.answered += len(given)
        return self._catalog.match_many(given)


def answer(
    engine: MatchEngine,
    table: Path,
    out: Path,
    columns: tuple[str | None, str | None] = (None, "text"),
    *,
    stop: Callable[[], bool] = lambda: False,
    start: str = "resume",
    files_under: str | None = None,
) -> Summary:
    task = Task(columns, MATCH_FIELDS, BestMatch.cells, engine.identity("shop"), ("--image-col", "--text-col"))
    config = Config(model="mini", chunk_size=2, files_under=files_under)
    options = TableOptions(start=start)  # type: ignore[arg-type]
    return run_table((table, out), config, task, engine, options=options, stop=stop)


def texts(path: Path) -> Path:
    path.write_text("text\n" + "".join(f"something {colour}\n" for colour in COLOURS))
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_row_gets_what_the_catalogue_finds(tmp_path: Path, catalog: Catalog) -> None:
    table, out = texts(tmp_path / "in.csv"), tmp_path / "out.csv"
    summary = answer(MatchEngine(catalog), table, out)
    assert (summary.rows, summary.scored, summary.failures) == (5, 5, {})
    for row in rows(out):
        (best,) = catalog.match(Query(row["text"], top_k=1))
        assert (row["product_id"], row["product_name"]) == (best.product.id, best.product.name)
        assert (float(row["similarity"]), row["probability"], row["error"]) == (best.similarity, "", "")


def test_a_row_asks_with_its_text_its_picture_or_both(tmp_path: Path, catalog: Catalog) -> None:
    given = {
        "text": ["red", "red", None, None, "red"],
        "image": [None, inline("blue"), inline("green"), "  ", "gone.png"],
        "kept": pa.array([1, 2, 3, 4, 5], pa.int8()),
    }
    pq.write_table(pa.table(given), tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    summary = answer(MatchEngine(catalog), tmp_path / "in.parquet", out, ("image", "text"))
    assert summary.failures == {"empty_caption": 1, "file_not_found": 1}
    found = pq.read_table(out)
    assert found.schema.types[-5:] == [field.type for field in MATCH_FIELDS]
    assert found["kept"].type == pa.int8()
    assert found["product_id"].to_pylist()[2:] == ["green", None, None]
    assert found["similarity"].to_pylist()[::2] == [1.0, 1.0, None]
    assert found["similarity"][1].as_py() == pytest.approx(0.5**0.5)
    assert found["error"][3].as_py() == "empty_caption: the row has neither a text nor an image"
    assert found["error"][4].as_py().startswith(f"file_not_found: {tmp_path / 'gone.png'}")


def test_a_picture_elsewhere_needs_leave(tmp_path: Path, catalog: Catalog) -> None:
    folder, out = tmp_path / "given", tmp_path / "out.csv"
    folder.mkdir()
    (tmp_path / "red.png").write_bytes(make_png("red"))
    (folder / "in.csv").write_text("image\n../red.png\n")
    engine = MatchEngine(catalog)
    with pytest.raises(UsageError, match=r"no image in the first row may be read: .*--files-under / for any"):
        answer(engine, folder / "in.csv", out, ("image", None))
    answer(engine, folder / "in.csv", out, ("image", None), files_under="/")
    assert [row["product_id"] for row in rows(out)] == ["red"]


def test_filters_and_the_least_similarity_hold_for_every_row(tmp_path: Path, catalog: Catalog) -> None:
    table, out = texts(tmp_path / "in.csv"), tmp_path / "out.csv"
    engine = MatchEngine(catalog, Query(where="price < 5"), away=[Term("green", weight=-0.5)], min_similarity=0.5)
    assert answer(engine, table, out).failures == {}
    assert [row["product_id"] for row in rows(out)] == ["red", "", "blue", "red", "blue"]


def test_a_run_that_was_stopped_is_resumed(tmp_path: Path, catalog: Catalog) -> None:
    table = texts(tmp_path / "in.csv")
    answer(MatchEngine(catalog), table, tmp_path / "whole.csv")
    asked = iter([False, True])
    counting = Counting(catalog)
    with pytest.raises(StoppedError, match="stopped on request with 2 of 5 rows kept"):
        answer(MatchEngine(counting), table, tmp_path / "out.csv", stop=lambda: next(asked))
    before = counting.answered
    answer(MatchEngine(counting), table, tmp_path / "out.csv")
    assert counting.answered - before == 3
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_only_the_same_run_goes_on(tmp_path: Path, catalog: Catalog) -> None:
    table, out = texts(tmp_path / "in.csv"), tmp_path / "out.csv"
    asked = iter([False, True])
    with pytest.raises(StoppedError):
        answer(MatchEngine(catalog), table, out, stop=lambda: next(asked))
    for other in (
        MatchEngine(catalog, Query(where="price < 5")),
        MatchEngine(catalog, min_similarity=0.1),
        MatchEngine(catalog, away=[Term("green", weight=-0.5)]),
    ):
        with pytest.raises(UsageError, match="--restart"):
            answer(other, table, out)
    assert answer(MatchEngine(catalog, min_similarity=0.9), table, out, start="restart").rows == 5


def test_what_leads_away_is_told_apart_to_its_end(catalog: Catalog) -> None:
    long = "very " * 100
    away = [
        (),
        *((Term(long + colour, weight=-0.5),) for colour in ("red", "blue")),
        (Term(long + "red", weight=-0.4),),
        (Term(image=inline("red"), weight=-0.5),),
        (Term(image=inline("blue"), weight=-0.5),),
        (Term(image=b"red", weight=-0.5),),
        (Term(vector=np.array([1.0, 0.0]), weight=-0.5),),
        (Term(vector=np.array([0.0, 1.0]), weight=-0.5),),
    ]
    found = [MatchEngine(catalog, away=terms).identity("c") for terms in away]
    assert all(one != other for number, one in enumerate(found) for other in found[:number])
    assert found == [MatchEngine(catalog, away=terms).identity("c") for terms in away]


def test_an_output_of_somebody_else_stays(tmp_path: Path, catalog: Catalog) -> None:
    table, out = texts(tmp_path / "in.csv"), tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.raises(UsageError, match="was not written by this command"):
        answer(MatchEngine(catalog), table, out)
    assert out.read_text() == "mine"
    (tmp_path / "again.csv").write_text("text,product_id\nred,1\n")
    with pytest.raises(UsageError, match="already has a column 'product_id'"):
        answer(MatchEngine(catalog), tmp_path / "again.csv", tmp_path / "other.csv")
