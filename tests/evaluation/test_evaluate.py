"""Evaluating a model on a data set and against ratings, from Python and from the command line."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.images import make_png
from tests.support.server import Server, response
from tests.support.tables import FORMS, write_form
from text_image_similarity import Config, Limits, TableError, UsageError, cli, load_encoder
from text_image_similarity.encoders import model_folder
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.evaluation import (
    Evaluation,
    RatingEvaluation,
    calibration_folder,
    evaluate,
    evaluate_ratings,
)
from text_image_similarity.files import write_whole
from text_image_similarity.metrics import Calibration

COLOUR = ColourEncoder()
# A set whose every cosine a person can tell: pictures are one colour, captions name colours.
PHOTOS = {"red": ("a red square", "red"), "blue": ("something blue", "magenta"), "yellow": ("yellow", "green")}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = before


def photo(data: bytes, *captions: str) -> dict[str, object]:
    return {"image": {"bytes": data, "path": None}} | {f"caption_{i}": text for i, text in enumerate(captions)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    path = tmp_path / "photos.parquet"
    pq.write_table(pa.Table.from_pylist([photo(make_png(name), *texts) for name, texts in PHOTOS.items()]), path)
    return path


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    for name in ("red", "green"):
        (tmp_path / f"{name}.png").write_bytes(make_png(name))
    path = tmp_path / "rated.csv"
    path.write_text(
        "url,caption,rating,second\n"
        "red.png,red,4,4\n"  # cosine 1
        "red.png,yellow,3,2\n"  # 0.7071
        "red.png,white,3,\n"  # 0.5774
        "green.png,red,1,1\n"  # 0
        "green.png,blue,,2\n"  # 0
        "none.png,blue,4,4\n"
        "red.png,yellow,,\n"
    )
    return path


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_an_evaluation_worked_by_hand(photos: Path) -> None:
    seen: list[tuple[int, int, int]] = []
    found = evaluate(photos, Config(), encoder=COLOUR, progress=lambda *at: seen.append(at))
    assert (found.images, found.captions, found.failures) == (3, 6, {})
    assert (found.source, found.split, found.info.model, found.info.device) == (str(photos), None, "colour", "cpu")
    # Cosines with red, blue, yellow (r2 = 0.7071): red 1 0 r2 (twice), blue 0 1 0, magenta r2 r2 0 (a tie of its own
    # with red: rank 2), yellow r2 0 1, green 0 0 r2.
    there, back = found.retrieval.text_to_image, found.retrieval.image_to_text
    assert there.recall[1] == pytest.approx(5 / 6)
    assert there.mean_rank == pytest.approx(7 / 6)
    assert back.recall[1] == 1.0
    # Matching: 1 1 1 r2 1 r2; mismatching: 0 r2 twice, 0 0, r2 0, r2 0, 0 0. Each 1 beats 12; each r2 beats 8, ties 4.
    assert found.pairs.auc == pytest.approx((4 * 12 + 2 * (8 + 4 / 2)) / (6 * 12))
    assert seen == [(i, 0, 3) for i in range(4)]


def test_the_report_is_json_and_can_be_read(photos: Path, tmp_path: Path) -> None:
    found = evaluate(photos, Config(), encoder=COLOUR)
    assert found.seconds == {stage: round(seconds, 3) for stage, seconds in found.seconds.items()}
    assert list(found.seconds) == ["images", "captions", "figures"]
    found.write(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == found.as_dict()
    assert report["retrieval"]["text_to_image"]["recall"]["1"] == pytest.approx(5 / 6)
    assert report["calibration"]["model"] == "colour"
    lines = found.table().splitlines()
    assert "recall@1               83.3 %           100.0 %" in lines
    assert "images    3" in lines
    assert any(line.startswith("AUC") for line in lines)


def test_json_holds_null_for_what_is_no_number(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([photo(make_png("red"), "red")]), tmp_path / "one.parquet")
    found = evaluate(tmp_path / "one.parquet", Config(), encoder=COLOUR)
    assert math.isnan(found.pairs.auc)
    assert found.calibration is None
    found.write(tmp_path / "report.json")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert report["pairs"]["auc"] is None
    assert report["calibration"] is None
    assert "recall@1" in found.table()


def test_pictures_that_cannot_be_read_are_left_out_with_their_captions(tmp_path: Path) -> None:
    rows = [photo(make_png("red"), "red"), photo(b"\xffno picture", "green"), photo(make_png("blue"), "blue")]
    rows.append(photo(make_png("cyan")[:60], "cyan"))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "photos.parquet")
    seen: list[tuple[int, int, int]] = []
    found = evaluate(tmp_path / "photos.parquet", Config(), encoder=COLOUR, progress=lambda *at: seen.append(at))
    assert (found.images, found.captions) == (2, 2)
    assert found.failures == {"not_an_image": 1, "truncated": 1}
    assert found.retrieval.text_to_image.recall[1] == 1.0  # the owners are still the right ones
    assert seen[-1] == (4, 2, 4)
    assert "left out: truncated     1" in found.table()


def test_rows_without_a_reference_or_a_caption_are_counted_beside_the_others(tmp_path: Path) -> None:
    for name in ("red", "blue"):
        (tmp_path / f"{name}.png").write_bytes(make_png(name))
    table = tmp_path / "pairs.csv"
    table.write_text("url,caption\nred.png,red\n,a cat\nblue.png,blue\nblue.png,\n,\nnone.png,lost\nftp://h/a,far\n")
    found = evaluate(table, Config(), encoder=COLOUR)
    assert (found.images, found.captions) == (2, 2)
    assert found.failures == {"empty_caption": 2, "file_not_found": 1, "invalid_url": 1, "unsupported_scheme": 1}
    assert found.retrieval.text_to_image.recall[1] == 1.0


def test_the_reason_of_the_first_failure_of_each_code_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.png").write_bytes(make_png("red"))
    (tmp_path / "rated.csv").write_text("url,caption,stars\na.png,red,1\n~/a.png,red,2\n~/b.png,red,3\nA.png,red,4\n")
    evaluate(tmp_path / "rated.csv", Config(), encoder=COLOUR)
    evaluate_ratings(tmp_path / "rated.csv", Config(), "stars", encoder=COLOUR)
    assert len(caplog.messages) == 2
    for message in caplog.messages:
        assert message.startswith("left out: file_not_found: ")
        assert "~ does not stand for the home folder here" in message


@pytest.mark.parametrize("form", FORMS)
def test_every_form_that_score_reads(form: str, tmp_path: Path) -> None:
    for name in ("red", "blue", "green"):
        (tmp_path / f"{name}.png").write_bytes(make_png(name))
    rows = [
        {"url": str(tmp_path / f"{name}.png"), "caption": caption, "rating": rating}
        for name, caption, rating in (("red", "red", "4"), ("blue", "magenta", "3"), ("green", "red", "1"))
    ]
    source = write_form(form, tmp_path, rows)
    config = Config(files_under=tmp_path)
    assert evaluate(source, config, encoder=COLOUR).images == 3
    rated = evaluate_ratings(source, config, encoder=COLOUR)
    assert (rated.rows, rated.agreement.pairs, rated.agreement.kendall_tau_b) == (3, 3, 1.0)
    write_form(form, tmp_path, [{**row, "url": Path(row["url"]).name} for row in rows])
    assert evaluate(source, Config(base_dir=tmp_path), encoder=COLOUR).images == 3
    assert evaluate_ratings(source, Config(base_dir=tmp_path), encoder=COLOUR).agreement.pairs == 3


@pytest.mark.parametrize("kind", ["captions", "ratings"])
def test_pictures_are_fetched_as_the_config_says(kind: str, tmp_path: Path) -> None:
    def measure(**settings: Any) -> dict[str, int]:
        config = Config(**settings)
        found = (evaluate if kind == "captions" else evaluate_ratings)(tmp_path / "in.csv", config, encoder=COLOUR)
        return found.failures

    with Server() as server:
        server.routes |= {f"/{name}.png": response(make_png(name)) for name in ("red", "blue")}
        server.routes["/busy.png"] = response(status="503 Busy")
        urls = [server.url(f"/{name}.png") for name in ("red", "blue", "busy")]
        rows = [{"url": url, "caption": "red", "rating": "1"} for url in (*urls, str(tmp_path / "red.png"))]
        write_form("csv", tmp_path, rows)
        (tmp_path / "red.png").write_bytes(make_png("red", (8, 8)))
        assert evaluate_ratings(tmp_path / "in.csv", Config(), encoder=COLOUR).failures == {"blocked_address": 3}
        near: dict[str, Any] = {"allow_private_addresses": True}
        assert measure(limits=Limits(**near), retries=0) == {"http_5xx": 1}
        assert server.hits["/busy.png"] == 1
        assert measure(limits=Limits(**near), retries=1) == {"http_5xx": 1}
        assert server.hits["/busy.png"] == 3
        limits = Limits(**near, allow_local_files=False, max_bytes=len(make_png("red")) - 1)
        assert measure(limits=Limits(**near, allow_local_files=False), retries=0) == {
            "http_5xx": 1,
            "unsupported_scheme": 1,
        }
        with pytest.raises(TableError, match="1 http_5xx, 2 too_many_bytes, 1 unsupported_scheme"):
            measure(limits=limits, retries=0)


class Picky(ColourEncoder):
    """Fails on captions that name a square."""

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        if any("square" in text for text in texts):
            raise RuntimeError("no squares")
        return super().encode_text(texts)


def test_captions_that_cannot_be_encoded_are_left_out(photos: Path) -> None:
    found = evaluate(photos, Config(), encoder=Picky())
    assert (found.images, found.captions) == (3, 5)
    assert found.failures == {"encoder_error": 1}
    assert found.pairs.matching.mean == pytest.approx(
        (1 + 1 + math.sqrt(0.5) + 1 + math.sqrt(0.5)) / 5
    )  # the others' own


class Counting(ColourEncoder):
    """Counts what it is asked for."""

    asked: list[str] = []  # noqa: RUF012 - one test uses it

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        self.asked.extend(texts)
        return super().encode_text(texts)


def test_a_caption_is_encoded_once(tmp_path: Path) -> None:
    rows = [photo(make_png(name), "a square", name) for name in ("red", "blue", "green")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "photos.parquet")
    found = evaluate(tmp_path / "photos.parquet", Config(batch_size=2), encoder=Counting())
    assert found.captions == 6
    assert sorted(Counting.asked) == ["a square", "blue", "green", "red"]


def test_nothing_to_measure_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("url,caption\nnone.png,red\nnor this.png,blue\n")
    with pytest.raises(TableError, match=r"nothing in .* could be encoded: 2 file_not_found; its first image is none"):
        evaluate(tmp_path / "in.csv", Config(), encoder=COLOUR)


def test_a_table_starts_from_its_own_folder_or_the_one_given(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("red", "blue"):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(make_png(name))
    here, there = tmp_path / "pictures" / "in.csv", tmp_path / "in.csv"
    for table in (here, there):
        table.write_text("file,text\nred.png,red\nblue.png,blue\n")
    columns: dict[str, Any] = {"col_url": "file", "col_text": "text"}
    assert evaluate(here, Config(), encoder=COLOUR, **columns).images == 2
    assert evaluate(there, Config(base_dir=tmp_path / "pictures"), encoder=COLOUR, **columns).images == 2


def test_the_default_is_the_model_that_the_config_names(photos: Path) -> None:
    found = evaluate(photos, Config(model="mini"))
    assert found.info.model == "mini"
    encoder = load_encoder(Config(model="mini"))
    image = encoder.encode_image([np.array(Image.new("RGB", (16, 16), name)) for name in PHOTOS])
    text = encoder.encode_text([text for texts in PHOTOS.values() for text in texts])
    own = (image.repeat(2, axis=0) * text).sum(axis=1)
    assert found.pairs.matching.mean == pytest.approx(own.mean(), abs=1e-5)


def test_agreement_with_ratings_worked_by_hand(rated: Path) -> None:
    found = evaluate_ratings(rated, Config(score="unit"), encoder=COLOUR)
    # Cosines 1, 0.7071, 0.5774, 0 against ratings 4, 3, 3, 1: five pairs of rows agree, one is tied in the rating.
    assert (found.rows, found.agreement.pairs) == (7, 4)
    assert found.failures == {"file_not_found": 1, "no_rating": 2}
    assert found.agreement.kendall_tau_b == pytest.approx(5 / math.sqrt(5 * 6))
    assert found.agreement.kendall_tau_c == pytest.approx(2 * 5 * 3 / (4**2 * 2))  # three distinct ratings
    both = evaluate_ratings(rated, Config(), ["rating", "second"], encoder=COLOUR)
    assert (both.ratings, both.agreement.pairs) == (("rating", "second"), 8)
    assert both.failures == {"file_not_found": 1, "no_rating": 1}


def test_scores_are_compared_before_any_rounding(tmp_path: Path) -> None:
    for name, colour in (("red", (255, 0, 0)), ("nearly", (255, 1, 0))):
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "rated.csv").write_text("url,caption,rating\nred.png,red,2\nnearly.png,red,1\n")
    assert evaluate_ratings(tmp_path / "rated.csv", Config(score="unit"), encoder=COLOUR).agreement.kendall_tau_b == 1


def test_ratings_as_a_report(rated: Path, tmp_path: Path) -> None:
    found = evaluate_ratings(rated, Config(), encoder=COLOUR)
    found.write(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["agreement"]["pairs"] == 4
    assert f"Kendall tau-b  {found.agreement.kendall_tau_b:.4f}" in found.table().splitlines()
    same = rated.with_name("same.csv")
    same.write_text("url,caption,rating\nred.png,red,1\ngreen.png,red,1\n")
    flat = evaluate_ratings(same, Config(), encoder=COLOUR)
    assert flat.as_dict()["agreement"]["spearman"] is None


def test_ratings_in_parquet(rated: Path) -> None:
    rows = [{"url": "red.png", "caption": "red", "rating": 2.5}, {"url": "red.png", "caption": "blue", "rating": None}]
    rows.append({"url": "green.png", "caption": "red", "rating": 1.0})
    pq.write_table(pa.Table.from_pylist(rows), rated.with_name("rated.parquet"))
    found = evaluate_ratings(rated.with_name("rated.parquet"), Config(), encoder=COLOUR)
    assert found.agreement.pairs == 2
    assert found.failures == {"no_rating": 1}


def test_wrong_ratings_are_named(rated: Path) -> None:
    for change, kind, message in (
        ("three", TableError, "row 1 of .* has 'three' in 'rating', which is not a rating"),
        ("inf", TableError, "which is not a rating"),
        ("", TableError, "no row of .* has both a rating and a score: 1 no_rating"),
    ):
        rated.write_text(f"url,caption,rating\nred.png,red,{change}\n")
        with pytest.raises(kind, match=message):
            evaluate_ratings(rated, Config(), encoder=COLOUR)
    rated.write_text("url,caption,rating\n")
    with pytest.raises(TableError, match="there are no rows"):
        evaluate_ratings(rated, Config(), encoder=COLOUR)
    with pytest.raises(UsageError, match="column 'stars' is missing"):
        evaluate_ratings(rated, Config(), "stars", encoder=COLOUR)
    with pytest.raises(UsageError, match="col_rating is empty"):
        evaluate_ratings(rated, Config(), [], encoder=COLOUR)


def test_captions_that_were_cut_are_counted(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(make_png("red"))
    (tmp_path / "blue.png").write_bytes(make_png("blue"))
    long = "a red square " * 40
    table = tmp_path / "pairs.csv"
    table.write_text(
        f"url,caption,rating\nred.png,{long},1\nblue.png,blue,2\nblue.png,{long} and blue,3\ngone.png,{long},4\n"
    )
    config = Config(model="mini")
    for report in (evaluate(table, config), evaluate_ratings(table, config)):
        assert (report.captions_cut, report.as_dict()["captions_cut"]) == (2, 2)
        assert "captions cut" in report.table()


def test_where_a_calibration_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini").mkdir()  # which is not what the alias means
    assert calibration_folder(Config(model=str(tmp_path))) == tmp_path
    assert calibration_folder(Config(model="mini"), tmp_path) == tmp_path
    for model in ("mini", "openai/clip-vit-base-patch32"):
        with pytest.raises(UsageError, match="is not a local folder"):
            calibration_folder(Config(model=model))
    with pytest.raises(UsageError, match="is not a writable folder"):
        calibration_folder(Config(model="mini"), tmp_path / "none")
    (tmp_path / "calibration.json").write_text('{"precious": true}')
    with pytest.raises(UsageError, match=r"calibration\.json was not written by this command; .*--force"):
        calibration_folder(Config(model="mini"), tmp_path)
    assert calibration_folder(Config(model="mini"), tmp_path, force=True) == tmp_path


def test_a_link_out_of_its_folder_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    link = tmp_path / "shared" / "report.json"
    link.symlink_to("../.bash_aliases")
    with pytest.raises(UsageError, match=r"report\.json is a link to .*; remove the link, or name .* itself"):
        write_whole(link, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]


def test_files_are_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "target.json"
    target.write_text("before")
    link = tmp_path / "link.json"
    link.symlink_to(target)
    write_whole(link, "after\r\n")
    assert target.read_bytes() == b"after\r\n"
    assert link.is_symlink()
    with pytest.raises(UnicodeEncodeError):
        write_whole(target, "half\ud800")
    with pytest.raises(TableError, match="cannot be written"):
        write_whole(tmp_path / "none" / "file", "")
    assert target.read_bytes() == b"after\r\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "target.json"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of mini in a folder of its own."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in model_folder("mini").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "calibration.json").unlink(missing_ok=True)
    return folder


def test_the_command_measures_saves_and_reports(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    out = tmp_path / "report.json"
    assert command("evaluate", photos, "--model", model, "--calibrate", "--out", out) == 0
    said = capsys.readouterr()
    for line in ("images    3\n", "recall@10", "if half of all pairs match", f"report       {out}\n"):
        assert line in said.out
    assert f"calibration  {model / 'calibration.json'}\n" in said.out
    assert "3/3" in said.err  # the progress bar
    report = json.loads(out.read_text())
    assert Calibration.load(model) == Calibration(**report["calibration"])
    assert report["split"] is None


def test_the_command_takes_splits_columns_and_ratings(
    photos: Path, rated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set").mkdir()
    photos.rename(tmp_path / "set" / "test.parquet")
    out = tmp_path / "report.json"
    assert command("evaluate", tmp_path / "set", "--split", "test", "--model", "mini", "--quiet", "--out", out) == 0
    assert capsys.readouterr() == ("", "")
    assert json.loads(out.read_text())["split"] == "test"
    text = rated.read_text().replace("url,caption", "file,text")
    rated.write_text(text)
    columns = ["--url-col", "file", "--caption-col", "text", "--rating-col", "rating", "--rating-col", "second"]
    assert command("evaluate", rated, *columns, "--model", "mini", "--out", out) == 0
    assert "Kendall tau-c" in capsys.readouterr().out
    assert json.loads(out.read_text())["ratings"] == ["rating", "second"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--batch-size", "0"], 2, "--batch-size 0 must be a whole number"),
        (["--device", "tpu"], 2, "--device tpu is not one of"),
        (["--split", "test"], 2, "has no split 'test'"),
        (["--caption-col", "text"], 2, "it has the columns: image, caption_0, caption_1"),
        (["--calibrate"], 2, "model mini is not a local folder"),
        (["--calibrate", "/no/such"], 2, "/no/such is not a writable folder"),
        (["--rating-col", "rating"], 2, "column 'caption' is missing"),
        (["--rating-col", "rating", "--calibrate"], 2, "cannot be combined with --split or --calibrate"),
        (["--out", "/no/such/report.json"], 2, "the folder /no/such does not exist"),
        (["--model", "/no/such/folder"], 2, "model folder /no/such/folder does not exist"),
    ],
)
def test_mistakes_are_named(
    photos: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], exit_code: int, message: str
) -> None:
    assert command("evaluate", photos, "--model", "mini", *arguments) == exit_code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_too_little_for_a_calibration(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.Table.from_pylist([photo(make_png("red"), "red")]), tmp_path / "one.parquet")
    assert command("evaluate", tmp_path / "one.parquet", "--model", model, "--calibrate", "--quiet") == 1
    assert "too few pairs" in capsys.readouterr().err
    assert not (model / "calibration.json").exists()


def test_reports_are_values(photos: Path, rated: Path) -> None:
    found = evaluate(photos, Config(), encoder=COLOUR)
    assert isinstance(found, Evaluation)
    assert replace(found, split="test").table().splitlines()[0].endswith("photos.parquet, test")
    assert isinstance(evaluate_ratings(rated, Config(), encoder=COLOUR), RatingEvaluation)
