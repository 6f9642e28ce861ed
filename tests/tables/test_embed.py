"""embed_table: the vectors that scores are made of, with ids and errors, in parts that a stopped run keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.cli.test_cli import command
from tests.support.images import make_png
from text_image_similarity import (
    Config,
    ConfigError,
    LocalEngine,
    StoppedError,
    TableError,
    TableOptions,
    UsageError,
    embed_table,
    score_csv,
)
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.tables import EmbeddedSide, write_matrix

ENCODER = ColourEncoder()
CONFIG = Config(chunk_size=2, batch_size=2, retries=0)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for colour in ("red", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(make_png(colour))
    path = tmp_path / "in.csv"
    rows = ["1,,red", "2,red.png,red and blue", "3,none.png,red", "4,blue.png,", "5,blue.png,green", "6,,blue"]
    path.write_text("\n".join(["id,url,caption", *rows]) + "\n")
    return path


def test_vectors_are_those_that_scores_compare(table: Path) -> None:
    images, captions = table.with_name("images.parquet"), table.with_name("captions.jsonl")
    summary = embed_table(table, images, CONFIG, encoder=ENCODER)
    assert (summary.rows, summary.scored) == (6, 3)
    assert summary.failures == {"file_not_found": 1, "invalid_url": 2}
    embed_table(table, captions, CONFIG, side="captions", encoder=ENCODER)
    score_csv(table, table.with_name("scored.parquet"), CONFIG, engine=LocalEngine(encoder=ENCODER))
    scored = pq.read_table(table.with_name("scored.parquet")).to_pylist()
    left = pq.read_table(images).to_pylist()
    right = [json.loads(line) for line in captions.read_text().splitlines()]
    assert [row["id"] for row in left] == [row["id"] for row in right] == list("123456")
    for image, caption, row in zip(left, right, scored, strict=True):
        if row["error"] is None:
            assert np.dot(image["embedding"], caption["embedding"]) == pytest.approx(row["similarity"], abs=1e-6)
        else:
            assert row["error"] in (image["error"], caption["error"])
    assert sum(row["error"] is None for row in scored) == 2
    assert [row["embedding"] is None for row in left] == [row["error"] is not None for row in left]


def test_images_in_a_folder_need_no_captions(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("red.png", "more/blue.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(make_png(Path(name).stem))
    out = tmp_path / "out.parquet"
    assert embed_table(photos, out, CONFIG, encoder=ENCODER).scored == 2
    assert [row["__key__"] for row in pq.read_table(out).to_pylist()] == ["red", "more/blue"]
    calls: list[Callable[[], object]] = [
        lambda: embed_table(photos, out, CONFIG, side="captions", encoder=ENCODER),
        lambda: score_csv(photos, tmp_path / "scored.csv", CONFIG, engine=LocalEngine(encoder=ENCODER)),
    ]
    for call in calls:
        with pytest.raises(
            UsageError, match=r"photos holds images without captions; put each caption next to its image"
        ):
            call()
    (photos / "more" / "pairs.csv").write_text("url,caption\nblue.png,blue\n")  # a table, which a pattern can name
    with pytest.raises(UsageError, match=r'contains the folder .*more; name the files with a pattern such as ".*csv"'):
        embed_table(photos, out, CONFIG, encoder=ENCODER)


@pytest.mark.parametrize("side", ["images", "captions"])
def test_large_rows_are_embedded_a_few_at_a_time(
    table: Path, side: EmbeddedSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, by_part = table.with_name("whole.jsonl"), table.with_name("by_part.jsonl")
    embed_table(table, whole, CONFIG, side=side, encoder=ENCODER)
    monkeypatch.setattr("text_image_similarity.tables.job._UNDER_WAY", 1)
    embed_table(table, by_part, CONFIG, side=side, encoder=ENCODER)
    assert by_part.read_bytes() == whole.read_bytes()


def test_a_stopped_run_resumes(table: Path) -> None:
    whole, out = table.with_name("whole.parquet"), table.with_name("out.parquet")
    embed_table(table, whole, CONFIG, encoder=ENCODER)
    asked = count()
    with pytest.raises(StoppedError, match="2 of 6 rows kept"):
        embed_table(table, out, CONFIG, encoder=ENCODER, stop=lambda: next(asked) > 0)
    seen: list[int] = []
    embed_table(table, out, CONFIG, encoder=ENCODER, progress=lambda done, *_: seen.append(done))
    assert seen[0] == 2
    assert pq.read_table(out).equals(pq.read_table(whole))
    asked = count()
    with pytest.raises(StoppedError):
        embed_table(table, out, CONFIG, encoder=ENCODER, stop=lambda: next(asked) > 0)
    with pytest.raises(UsageError, match="captions"):  # what was kept of another run is not taken for it
        embed_table(table, out, CONFIG, side="captions", encoder=ENCODER)


def test_a_matrix_has_a_row_for_each(table: Path) -> None:
    out, matrix = table.with_name("out.parquet"), table.with_name("out.npy")
    embed_table(table, out, CONFIG, encoder=ENCODER)
    assert write_matrix(str(out), matrix, 6) == (6, 3)
    found = np.load(matrix)
    assert found.dtype == np.float32
    expected = [row or [np.nan] * 3 for row in pq.read_table(out)["embedding"].to_pylist()]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    with pytest.raises(TableError, match="cannot be written"):
        write_matrix(str(out), table.with_name("none") / "out.npy", 6)
    table.write_text("url\nnone.png\n")
    embed_table(table, out, CONFIG, encoder=ENCODER)
    with pytest.raises(TableError, match="contains no embedding"):
        write_matrix(str(out), table.with_name("other.npy"), 1)


def test_wrong_settings_are_refused(table: Path) -> None:
    with pytest.raises(ConfigError, match="images, captions"):
        embed_table(table, table.with_name("out.csv"), CONFIG, side="both", encoder=ENCODER)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="start='restart'"):
        embed_table(table, table.with_name("out.csv"), CONFIG, options=TableOptions(start="retry_failed"))


def test_the_command_says_what_it_wrote(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, matrix = table.with_name("out.parquet"), table.with_name("out.npy")
    victim = table.with_name("victim")
    victim.write_text("precious")
    matrix.with_name(".out.npy.part").symlink_to(victim)  # a predictable name would be written through
    assert command("embed", table, out, "--model", "mini", "--npy", matrix) == 0
    assert victim.read_text() == "precious"
    said = capsys.readouterr().out
    for line in ("embedded                3", "failed: invalid_url     2", "6 x 256"):
        assert line in said
    matrix.write_text("mine")
    assert command("embed", table, out, "--model", "mini", "--npy", matrix) == 2
    assert matrix.read_text() == "mine"
    table.write_text("url\nnone.png\n")
    assert command("embed", table, out, "--model", "mini", "--quiet") == 4
    assert command("embed", table, table.parent, "--model", "mini") == 2


def test_a_probability_is_refused(table: Path) -> None:
    with pytest.raises(UsageError, match="embed_table writes none"):
        embed_table(
            table, table.with_name("out.parquet"), CONFIG, encoder=ENCODER, options=TableOptions(probability=True)
        )
