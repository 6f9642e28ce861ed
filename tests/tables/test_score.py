"""score_csv: exact text, whole files, clear refusals."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.server import Server, response
from text_image_similarity import (
    Config,
    Limits,
    LocalEngine,
    ModelInfo,
    ModelUnavailableError,
    TableError,
    TableOptions,
    UsageError,
    filter_table,
    score_csv,
    score_pairs,
)
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.records import Record
from text_image_similarity.workspace import Part, Workspace

CONFIG = Config(batch_size=4, io_workers=4, retries=0)
ENCODER = ColourEncoder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for colour in ("red", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(make_png(colour))
    return tmp_path


def scored(folder: Path, text: str | bytes, config: Config = CONFIG, **given: Any) -> list[list[str]]:
    """Score a table given as text and return the output's rows."""
    (folder / "in.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    score_csv(
        folder / "in.csv",
        folder / "out.csv",
        config,
        engine=LocalEngine(encoder=ENCODER, transport=given.pop("transport", None)),
        **given,
    )
    with (folder / "out.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_table_comes_back_with_two_more_columns(folder: Path) -> None:
    assert scored(folder, "id,url,caption\n007,red.png,red\n008,blue.png,red\n009,none.png,red\n") == [
        ["id", "url", "caption", "similarity", "error"],
        ["007", "red.png", "red", "1.0", ""],
        ["008", "blue.png", "red", "0.0", ""],
        ["009", "none.png", "red", "", f"file_not_found: {folder}/none.png: No such file or directory"],
    ]


def test_every_field_keeps_its_exact_text(folder: Path) -> None:
    fields = [
        "007",
        "NA",
        "nan",
        "",
        " spaced ",
        "1e5",
        "True",
        'quo"te',
        "two\nlines",
        "crlf\r\nhere",
        "a,b",
        "é😀",
        "\x00",
    ]
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["url", "note", "caption"])
    writer.writerows(["red.png", field, "red"] for field in fields)
    rows = scored(folder, table.getvalue())
    assert [row[1] for row in rows[1:]] == fields
    assert {row[3] for row in rows[1:]} == {"1.0"}


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=12))
def test_any_text_round_trips(tmp_path_factory: pytest.TempPathFactory, notes: list[list[str]]) -> None:
    folder = tmp_path_factory.mktemp("any")
    notes = [[note.encode("utf-8", "ignore").decode() for note in pair] for pair in notes]
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["a", "url", "caption", "b"])
    writer.writerows([a, "data:,x", "red", b] for a, b in notes)
    assert [[row[0], row[3]] for row in scored(folder, table.getvalue())[1:]] == notes


def test_columns_may_have_any_name_and_place(folder: Path) -> None:
    rows = scored(folder, "Text,x,Image Link\nred,1,red.png\n", col_url="Image Link", col_text="Text")
    assert rows[1] == ["red", "1", "red.png", "1.0", ""]


def test_missing_captions_are_never_the_word_nan(folder: Path) -> None:
    rows = scored(folder, "url,caption\nred.png,\nred.png,   \nred.png,nan\n")
    assert [row[3].partition(":")[0] for row in rows[1:]] == ["empty_caption", "empty_caption", ""]


def test_a_byte_order_mark_is_no_part_of_a_name(folder: Path) -> None:
    assert scored(folder, b"\xef\xbb\xbfurl,caption\nred.png,red\n")[1] == ["red.png", "red", "1.0", ""]


def test_a_header_alone_gives_a_header_alone(folder: Path) -> None:
    assert scored(folder, "url,caption\n") == [["url", "caption", "similarity", "error"]]
    assert json.loads((folder / "out.csv.summary.json").read_text())["rows"] == 0


def test_megabyte_fields(folder: Path) -> None:
    assert scored(folder, f"url,caption\nred.png,{'red ' * 300_000}\n")[1][2] == "1.0"


def test_relative_paths_start_at_the_table(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert scored(folder, "url,caption\nred.png,red\n")[1][2] == "1.0"
    config = replace(CONFIG, base_dir=tmp_path / "elsewhere")
    assert scored(folder, "url,caption\nred.png,red\n", config)[1][3].startswith("file_not_found")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (b"", TableError, "is empty"),
        (b"\n\n", TableError, "is empty"),
        (b"url,text\na,b\n", UsageError, "column 'caption' is missing from .*; it has the columns: url, text"),
        (b"url,caption,url\na,b,c\n", UsageError, "has two columns named 'url'"),
        (b"url,caption,error\na,b,c\n", UsageError, "already has a column 'error'"),
        (b"url,caption\na,b\nc\n", TableError, "row 2 of .* line 3.* has 1 fields, but the header has 2"),
        (b"url,caption\na,b,c\n", TableError, "row 1 of .* has 3 fields"),
        (b'url,caption\na,"open\n', TableError, "row 1 of .* is not valid"),
        (b"url,caption\na,b\na,caf\xe9\n", TableError, "column 'caption' in row 2 of .* is not UTF-8"),
        ("url,caption\na,b\n".encode("utf-16-le"), UsageError, "if it is UTF-16 without a byte-order mark"),
    ],
)
def test_what_is_no_table_is_refused_before_the_model_loads(
    folder: Path, text: bytes, error: type[Exception], message: str
) -> None:
    (folder / "in.csv").write_bytes(text)
    with pytest.raises(error, match=message):
        score_csv(folder / "in.csv", folder / "out.csv", Config(model="/no/such/model"))
    assert not (folder / "out.csv").exists()


def test_a_missing_input_and_an_unwritable_output(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.csv does not exist"):
        score_csv(folder / "none.csv", folder / "out.csv", CONFIG, engine=LocalEngine(encoder=ENCODER))
    (folder / "in.csv").write_text("url,caption\nred.png,red\n")
    with pytest.raises(UsageError, match=r"cannot be written: the folder .*none does not exist"):
        score_csv(folder / "in.csv", folder / "none" / "out.csv", CONFIG, engine=LocalEngine(encoder=ENCODER))
    with pytest.raises(UsageError, match="is also the input"):  # which has the name that it would get in this folder
        score_csv(folder / "in.csv", folder, CONFIG, engine=LocalEngine(encoder=ENCODER))
    with pytest.raises(UsageError, match="cannot be created"):
        score_csv(folder / "in.csv", f"{folder / 'red.png'}/", CONFIG, engine=LocalEngine(encoder=ENCODER))
    for name in ("x" * 300 + ".csv", "x" * 244):  # the second is legal, but its summary's name is not
        with pytest.raises(UsageError, match="cannot be used"):
            score_csv(folder / "in.csv", folder / name, CONFIG, engine=LocalEngine(encoder=ENCODER))
    with pytest.raises(UsageError, match="is also the input"):
        score_csv(folder / "in.csv", folder / "in.csv", CONFIG, engine=LocalEngine(encoder=ENCODER))
    assert sorted(p.name for p in folder.iterdir()) == ["blue.png", "in.csv", "red.png"]


def test_what_is_no_plain_file_is_left_alone(folder: Path) -> None:
    (folder / "in.csv").write_text("url,caption\nred.png,red\n")
    os.mkfifo(folder / "pipe.csv")
    with pytest.raises(UsageError, match=r"pipe\.csv is not a regular file"):
        score_csv(folder / "in.csv", folder / "pipe.csv", CONFIG, engine=LocalEngine(encoder=ENCODER))
    with pytest.raises(UsageError, match=r"pipe\.csv is not a regular file"):
        score_csv(folder / "pipe.csv", folder / "out.csv", CONFIG, engine=LocalEngine(encoder=ENCODER))
    (folder / "out.csv.summary.json").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        score_csv(folder / "in.csv", folder / "out.csv", Config(model="/no/such/model"))
    assert sorted(p.name for p in folder.iterdir()) == [
        "blue.png",
        "in.csv",
        "out.csv.summary.json",
        "pipe.csv",
        "red.png",
    ]


def test_a_summary_never_replaces_the_input(folder: Path) -> None:
    (folder / "out.csv.summary.json").write_text("url,caption\nred.png,red\n")
    with pytest.raises(UsageError, match="is also the input"):
        score_csv(folder / "out.csv.summary.json", folder / "out.csv", CONFIG, engine=LocalEngine(encoder=ENCODER))


def test_an_encoder_that_knows_its_name_alone_still_gives_a_table(folder: Path) -> None:
    class Bare:
        info = ModelInfo(model="bare")
        embed_dim = 3
        encode_image = staticmethod(ENCODER.encode_image)
        encode_text = staticmethod(ENCODER.encode_text)

    (folder / "in.csv").write_text("url,caption\nred.png,red\n")
    summary = score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=LocalEngine(encoder=Bare()))
    assert (summary.scored, summary.info) == (1, ModelInfo(model="bare", fingerprint=summary.job["weights"]))
    assert summary.job["weights"].endswith("Bare")


def test_a_link_stays_a_link(folder: Path) -> None:
    (folder / "real.csv").touch()
    (folder / "out.csv").symlink_to(folder / "real.csv")
    scored(folder, "url,caption\nred.png,red\n")
    assert (folder / "out.csv").is_symlink()
    assert (folder / "real.csv").read_text().startswith("url,caption,similarity")


@pytest.mark.parametrize("name", ["out.csv", "out.csv.summary.json"])
def test_a_link_out_of_its_folder_is_not_written_through(folder: Path, name: str) -> None:
    """Someone who prepared the folder could choose a file elsewhere to be created or replaced."""
    shared = folder / "shared"
    shared.mkdir()
    (shared / name).symlink_to("../.bash_aliases")
    (folder / "in.csv").write_text("url,caption\nred.png,red\n")
    options = TableOptions(force=True)
    with pytest.raises(UsageError, match=rf"{name} is a link to .*/\.bash_aliases, .*; remove the link, or name"):
        score_csv(folder / "in.csv", shared / "out.csv", Config(model="/no/such/model"), options=options)
    with pytest.raises(UsageError, match="is a link to"):
        filter_table(folder / "in.csv", shared / "out.csv", top=1, force=True)

    def plant(done: int, failed: int, total: int) -> None:
        if done == total:
            (shared / name).symlink_to("../.bash_aliases")

    (shared / name).unlink()
    engine = LocalEngine(encoder=ENCODER)
    with pytest.raises(UsageError, match="is a link to"):
        score_csv(folder / "in.csv", shared / "out.csv", CONFIG, engine=engine, options=options, progress=plant)
    assert not (folder / ".bash_aliases").exists()


def test_a_full_disk_and_a_broken_caller_are_told_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "in.csv").write_text("url,caption\nred.png,red\n")

    def broken(*_: int) -> None:
        raise OSError("the terminal went away")

    with pytest.raises(OSError, match="the terminal went away"):
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=LocalEngine(encoder=ENCODER), progress=broken)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TableError, match=r"out\.csv cannot be written: No space left"):
        score_csv(folder / "in.csv", folder / "out.csv", CONFIG, engine=LocalEngine(encoder=ENCODER))
    assert sorted(p.name for p in folder.iterdir()) == ["blue.png", "in.csv", "red.png"]


def test_a_part_is_saved_while_the_next_one_is_scored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported = threading.Event()  # a row of the second part
    commit = Workspace.commit

    def slow(work: Workspace, part: Part, data: bytes) -> None:
        assert part.number > 0 or reported.wait(10)
        commit(work, part, data)

    monkeypatch.setattr(Workspace, "commit", slow)

    def progress(done: int, failed: int, total: int) -> None:
        if done == 3:
            reported.set()

    rows = scored(folder, "url,caption\n" + "red.png,red\n" * 6, replace(CONFIG, chunk_size=2), progress=progress)
    assert rows[1:] == [["red.png", "red", "1.0", ""]] * 6


def test_a_run_that_stops_leaves_the_old_output_and_no_litter(folder: Path) -> None:
    (folder / "out.csv").write_text("old")
    (folder / "in.csv").write_text("url,caption\n" + "red.png,red\n" * 20)

    def stop(done: int, failed: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_csv(
            folder / "in.csv",
            folder / "out.csv",
            CONFIG,
            engine=LocalEngine(encoder=ENCODER),
            options=TableOptions(force=True),
            progress=stop,
        )
    assert (folder / "out.csv").read_text() == "old"
    assert sorted(p.name for p in folder.iterdir()) == ["blue.png", "in.csv", "out.csv", "red.png"]


def test_the_summary_says_what_was_done(folder: Path) -> None:
    seen = []
    (folder / "in.csv").write_text("url,caption\nred.png,red\nnone.png,red\nred.png,\n")
    summary = score_csv(
        folder / "in.csv",
        folder / "out.csv",
        CONFIG,
        engine=LocalEngine(encoder=ENCODER),
        progress=lambda *row: seen.append(row),
    )
    assert seen == [(0, 0, 3), (1, 0, 3), (2, 1, 3), (3, 2, 3)]
    written = json.loads((folder / "out.csv.summary.json").read_text())
    assert written["failures"] == summary.failures == {"empty_caption": 1, "file_not_found": 1}
    assert (written["rows"], written["scored"], written["model"]) == (3, 1, "colour")
    assert (written["score"], written["preprocess"], written["precision"]) == ("cosine", "exact", "fp32")
    assert written["pairs_per_second"] > 0
    assert written["seconds"]["total"] >= 0
    assert written["versions"]["torch"]
    assert written["warnings"] == []


def test_a_fallback_is_taken_only_when_asked_for_and_is_written_down(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "in.csv").write_text("url,caption\nred.png,red\n")
    with pytest.raises(ModelUnavailableError, match="--model mini"):
        score_csv(folder / "in.csv", folder / "out.csv", Config())
    summary = score_csv(folder / "in.csv", folder / "out.csv", Config(), options=TableOptions(fallback_model="mini"))
    assert summary.info.model == "mini"
    assert "openai/clip-vit-base-patch32 is unavailable; scored with mini" in summary.warnings[0]
    assert summary.warnings[0] in caplog.text


def test_the_table_holds_the_numbers_of_score_pairs(tiny_clip: Path, tmp_path: Path) -> None:
    root = ROOT
    config = Config(model=tiny_clip, batch_size=8, base_dir=root)
    score_csv(root / "challenge_set.csv", tmp_path / "out.csv", config)
    with (root / "challenge_set.csv").open(newline="") as file:
        records = [Record(row["url"], row["caption"]) for row in csv.DictReader(file)]
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    results = list(score_pairs(records, config))
    assert len(rows) == len(results) == 51
    for row, result in zip(rows, results, strict=True):
        assert row["error"] == (result.error or "")
        assert row["similarity"] == ("" if result.error else repr(result.similarity))


FAULTS = {
    "http_4xx": response(status="404 Not Found"),
    "http_429": response(status="429 Too Many Requests"),
    "http_5xx": response(status="500 Broken"),
    "redirect_error": response(b"", "302 Found", location="/redirect_error"),
    "not_an_image": response(b"<html>login</html>"),
    "empty_body": response(b""),
    "truncated": response(make_png(size=(64, 64))[:80]),
    "bad_response": b"HTTP/1.1 banana\r\n\r\n",
    "too_many_bytes": response(b"x", content_length="99999999"),
    "unsupported_format": response(b"<svg/>"),
}


@pytest.mark.slow
def test_five_thousand_rows_with_ten_kinds_of_fault(server: Server, tmp_path: Path) -> None:
    server.routes |= {f"/{code}": answer for code, answer in FAULTS.items()}
    server.routes["/red.png"] = response(make_png())
    names = sorted(FAULTS)
    # One row in ten is at fault, each of the ten kinds equally often, all references distinct.
    expected = ["" if i % 10 else names[(i // 10) % 10] for i in range(5000)]
    with (tmp_path / "in.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "caption"])
        writer.writerows([server.url(f"/{code or 'red.png'}?{i}"), f"red {i}"] for i, code in enumerate(expected))
    config = Config(batch_size=32, io_workers=16, retries=0, limits=Limits(allow_private_addresses=True))
    score_csv(tmp_path / "in.csv", tmp_path / "out.csv", config, engine=LocalEngine(encoder=ENCODER))
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["caption"] for row in rows] == [f"red {i}" for i in range(5000)]
    assert [row["error"].partition(":")[0] for row in rows] == expected
    assert {row["similarity"] for row in rows} == {"1.0", ""}


MEASURE = """
import resource, sys
from dataclasses import dataclass
from pathlib import Path
import httpx, numpy as np
from text_image_similarity import Config, LocalEngine, score_csv
from text_image_similarity.encoders.testing import ColourEncoder

@dataclass(frozen=True)
class Wide(ColourEncoder):
    embed_dim: int = 768
    def encode_pixels(self, pixels):
        return np.pad(super().encode_pixels(pixels), ((0, 0), (0, 765)))
    def encode_tokens(self, texts):
        return np.pad(super().encode_tokens(texts), ((0, 0), (0, 765)))

png = Path("red.png").read_bytes()
answer = httpx.MockTransport(lambda request: httpx.Response(200, content=png))
score_csv(sys.argv[1], "out.csv", Config(batch_size=8), engine=LocalEngine(encoder=Wide(), transport=answer))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.extended
def test_memory_does_not_grow_with_rows(folder: Path) -> None:
    """Every row has its own host, picture and long caption, so keeping any of them would show."""
    peaks = []
    for rows in (500, 5_000):
        with (folder / f"{rows}.csv").open("w") as file:
            file.write("url,caption\n")
            file.writelines(f"http://host{i}.test/{i}.png,{'red ' * 1000}{i}\n" for i in range(rows))
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, f"{rows}.csv"], cwd=folder, capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] * 1.1, f"peak memory in KiB: {peaks}"


def test_the_transport_is_passed_on(folder: Path) -> None:
    answer = httpx.MockTransport(lambda request: httpx.Response(200, content=make_png()))
    assert scored(folder, "url,caption\nhttp://photos.test/a.png,red\n", transport=answer)[1][2] == "1.0"


@pytest.fixture
def not_root() -> Iterator[Path]:
    """Run a test as a user whom permissions hold back; yield a folder that this user may read but not write to."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        (folder := Path(name)).chmod(0o555)
        if user == 0:
            os.seteuid(65534)
        yield folder
        os.seteuid(user)
        folder.chmod(0o755)


def test_a_folder_without_permission(not_root: Path) -> None:
    with pytest.raises(TableError, match="Permission denied"):
        score_csv(ROOT / "challenge_set.csv", not_root / "out.csv", CONFIG, engine=LocalEngine(encoder=ENCODER))
