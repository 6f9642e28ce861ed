from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from text_image_similarity import Config, Record, Scorer, score_pairs
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.pipeline import portable
from text_image_similarity.pipeline.arrow import score_batches

RED = "data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs="
ROWS = [(RED, "red"), (RED, "a red dot"), ("no-such-file.png", "red"), (RED, " "), (None, "red"), (RED, None)] * 7


def batches(*sizes: int) -> list[pa.RecordBatch]:
    rows = iter(ROWS)
    found = []
    for size in sizes:
        chunk = [next(rows) for _ in range(size)]
        found.append(
            pa.record_batch(
                {
                    "id": pa.array(range(size), pa.int32()),
                    "picture": pa.array([url for url, _ in chunk], pa.string()),
                    "words": pa.array([text for _, text in chunk], pa.string()),
                }
            )
        )
    return found


@pytest.mark.parametrize("sizes", [(42,), (0, 5, 0, 0, 30, 7, 0), (1,) * 42, (), (0, 0)])
def test_batches_come_back_whole_whatever_their_sizes(sizes: tuple[int, ...]) -> None:
    given = batches(*sizes)
    config = Config(batch_size=4, chunk_size=9)
    with Scorer(config, encoder=ColourEncoder()) as scorer:
        scored = list(score_batches(given, scorer, ("picture", "words")))
    given.sort(key=lambda batch: batch.num_rows == 0)  # those without rows come last
    assert [batch.select(["id", "picture", "words"]) for batch in scored] == given
    expected = list(score_pairs([Record.of(*row) for row in ROWS[: sum(sizes)]], config, encoder=ColourEncoder()))
    found = [row for batch in scored for row in batch.to_pylist()]
    assert [row["error"] for row in found] == [result.error for result in expected]
    assert [row["similarity"] for row in found] == [
        None if result.error is not None else result.similarity for result in expected
    ]


def test_a_stream_ends_only_where_it_ends() -> None:
    asked: list[int] = []

    def endless() -> Iterator[pa.RecordBatch]:
        for number in range(10_000):
            asked.append(number)
            yield from batches(6)

    with Scorer(Config(batch_size=4), encoder=ColourEncoder()) as scorer:
        scored = score_batches(endless(), scorer, ("picture", "words"))
        next(scored)
        scored.close()
    assert 1 < len(asked) < 100


def test_numbers_count_as_text_and_what_is_no_text_has_no_caption() -> None:
    batch = pa.record_batch({"url": [RED, RED], "caption": pa.array([7, None], pa.int64())})
    with Scorer(Config(), encoder=ColourEncoder()) as scorer:
        (scored,) = score_batches([batch], scorer, ("url", "caption"))
    assert scored.column("similarity").is_valid().to_pylist() == [True, False]
    assert scored.column("error")[1].as_py().startswith("empty_caption")


def test_an_error_is_text_whatever_the_path_holds() -> None:
    (result,) = score_pairs([Record("no\udcff.png", "red")], Config(), encoder=ColourEncoder())
    assert "\\udcff" in (result.error or "")


def test_portable_settings_mean_the_same_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    config = portable(Config(model="own", model_cache="c", embedding_cache="e.sqlite", base_dir="pictures"))
    assert (config.model, config.base_dir) == (str(tmp_path / "own"), tmp_path / "pictures")
    assert (config.model_cache, config.embedding_cache) == (tmp_path / "c", tmp_path / "e.sqlite")
    assert portable(Config()).base_dir == tmp_path
    assert portable(Config()).model == Config().model
    (tmp_path / "mini").mkdir()
    assert portable(Config(model="mini")).model == "mini"
