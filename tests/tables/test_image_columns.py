"""Images inside tables: bytes and structs of every type, bad cells beside good ones, and columns that are left out."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.images import inline, make_png
from tests.support.paths import ROOT
from text_image_similarity import (
    Config,
    ConfigError,
    Limits,
    LocalEngine,
    StoppedError,
    TableError,
    TableOptions,
    UsageError,
    score_csv,
)
from text_image_similarity.cli import main
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.formats import open_table, parquet, parquet_file
from text_image_similarity.formats.output import writer_for
from text_image_similarity.tables import Summary

RED, GREEN = make_png("red"), make_png("green")
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class Decoded(pa.ExtensionScalar):  # type: ignore[misc]
    """What such a library makes of a cell."""

    def as_py(self, **_: Any) -> object:
        return object()


class HubImage(pa.ExtensionType):  # type: ignore[misc]
    """A type that wraps what it is stored as, as the hub's libraries register them."""

    def __init__(self, storage: pa.DataType = STRUCT) -> None:
        super().__init__(storage, "tests.hub_image")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    def __arrow_ext_scalar_class__(self) -> type:
        return Decoded

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> HubImage:
        return cls(storage)


def score(source: Path, target: Path, config: Config | None = None, **options: Any) -> Summary:
    engine = LocalEngine(encoder=ColourEncoder())
    return score_csv(source, target, config or Config(), "image", engine=engine, options=TableOptions(**options))


def write(folder: Path, images: pa.Array, captions: list[str] | None = None) -> Path:
    rows = captions or ["red"] * len(images)
    pq.write_table(pa.table({"id": range(len(rows)), "image": images, "caption": rows}), folder / "in.parquet")
    return folder / "in.parquet"


COLUMNS = {
    "binary": pa.array([RED, GREEN, None]),
    "large_binary": pa.array([RED, GREEN, None], pa.large_binary()),
    "binary_view": pa.array([RED, GREEN, None], pa.binary_view()),
    "dictionary": pa.array([RED, GREEN, None]).dictionary_encode(),
    "struct": pa.array([{"bytes": RED, "path": "x.jpg"}, {"bytes": None, "path": "green.png"}, None], STRUCT),
    "struct of nulls": pa.array([{"bytes": RED}, {"bytes": GREEN}, {"bytes": None}]),
    "paths": pa.array([{"path": "red.png"}, {"path": "green.png"}, {"path": None}]),
}
COLUMNS["extension"] = pa.ExtensionArray.from_storage(HubImage(), COLUMNS["struct"])
COLUMNS["bytes in an extension"] = pa.ExtensionArray.from_storage(HubImage(pa.binary()), COLUMNS["binary"])


@pytest.fixture
def registered() -> Iterator[None]:
    pa.register_extension_type(HubImage())
    yield
    pa.unregister_extension_type("tests.hub_image")


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("kind", COLUMNS)
def test_images_of_every_type_score_like_files_and_stay_as_they_are(tmp_path: Path, kind: str) -> None:
    (tmp_path / "red.png").write_bytes(RED)
    (tmp_path / "green.png").write_bytes(GREEN)
    summary = score(write(tmp_path, COLUMNS[kind]), tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["similarity"].to_pylist() == [1.0, 0.0, None]
    assert found["error"].to_pylist() == [None, None, "invalid_url: the image is empty or missing"]
    given = pq.read_table(tmp_path / "in.parquet")["image"]
    assert found["image"].type == given.type
    if isinstance(given.type, HubImage):
        assert [chunk.storage for chunk in found["image"].chunks] == [chunk.storage for chunk in given.chunks]
    else:
        assert found["image"].to_pylist() == given.to_pylist()
    assert (summary.scored, summary.failures) == (2, {"invalid_url": 1})


def test_bad_cells_fail_alone_and_with_the_codes_of_files(tmp_path: Path) -> None:
    cells = [RED, b"", b"a.jpg", RED[:40], b"<html></html>", bytes(3000), b"GIF89a" + bytes(30), RED]
    for name, cell in enumerate(cells):
        (tmp_path / f"{name}.png").write_bytes(cell)
    config = Config(limits=Limits(max_bytes=2000))
    score(write(tmp_path, pa.array(cells)), tmp_path / "bytes.parquet", config)
    files = write(tmp_path, pa.array([f"{name}.png" for name in range(len(cells))]))
    score(files, tmp_path / "files.parquet", config)
    inside, outside = (pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("bytes", "files"))
    codes = [(row["error"] or "").partition(":")[0] for row in inside]
    assert codes == [(row["error"] or "").partition(":")[0] for row in outside]
    assert codes[:6] == ["", "empty_body", "not_an_image", codes[3], "not_an_image", "too_many_bytes"]
    assert (
        inside[2]["error"]
        == "not_an_image: the bytes are the text 'a.jpg'; if that is a reference, cast the column to strings"
    )
    assert [row["similarity"] for row in (inside[0], inside[-1])] == [1.0, 1.0]


@pytest.mark.parametrize(
    "text", [b"a.jpg", "猫.png".encode(), b"https://example.org/a.jpg", b"data:image/png;base64,iVBO", b"/9j/4AAQ"]
)
def test_references_that_are_stored_as_bytes_are_refused_before_the_run(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(
        UsageError,
        match=r"column 'image' of .*in\.parquet contains text stored as bytes, such as .*cast them to strings",
    ):
        score(write(tmp_path, pa.array([None, text, text])), tmp_path / "out.parquet")
    assert score(write(tmp_path, pa.array([None, text, RED])), tmp_path / "out.parquet").scored == 1


@pytest.mark.parametrize(
    "column", [pa.array([[RED]]), pa.array([[{"bytes": RED, "path": None}]]), pa.array([[]], pa.list_(pa.binary()))]
)
def test_a_column_of_several_images_a_row_is_refused(tmp_path: Path, column: pa.Array) -> None:
    with pytest.raises(UsageError, match=r"column 'image' of .* has several values per row; write one row for each"):
        score(write(tmp_path, column), tmp_path / "out.parquet")


def test_a_struct_in_json_lines_is_read_as_elsewhere(tmp_path: Path) -> None:
    cells = [
        {"bytes": None, "path": "red.png"},
        {"path": inline("red")},
        {"bytes": inline("red")},
        {"src": "red.png"},
        ["red.png"],
    ]
    (tmp_path / "red.png").write_bytes(RED)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"image": cell, "caption": "red"}) + "\n" for cell in cells))
    score(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["similarity"] for row in rows] == [1.0, 1.0, 1.0, None, None]
    assert rows[3]["error"] == "invalid_url: the image is a dict with neither 'bytes' nor 'path'"
    assert rows[4]["error"] == "invalid_url: the image is a list; one row per image is needed"
    assert [row["image"] for row in rows] == cells


class TestDropColumns:
    def test_a_text_format_takes_a_table_of_bytes_without_them(self, tmp_path: Path) -> None:
        source = write(tmp_path, COLUMNS["binary"])
        for name in ("out.csv", "out.jsonl"):
            with pytest.raises(UsageError, match=r"column 'image' .* contains bytes.*--drop-col image"):
                score(source, tmp_path / name)
            score(source, tmp_path / name, drop_columns=("image",))
        assert (tmp_path / "out.csv").read_text().splitlines()[:2] == ["id,caption,similarity,error", "0,red,1.0,"]
        assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1]) == {
            "id": 1,
            "caption": "red",
            "similarity": 0.0,
            "error": None,
        }

    @pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
    def test_every_format_loses_the_same_columns_and_keeps_the_others_texts(self, tmp_path: Path, ending: str) -> None:
        (tmp_path / "red.png").write_bytes(RED)
        if ending == "jsonl":
            (tmp_path / "in.jsonl").write_text(
                '{"a": 007e0, "image": "red.png", "caption": "red"}\n'.replace("007e0", "7.0e0")
            )
        elif ending == "parquet":
            pq.write_table(pa.table({"a": ["007"], "image": ["red.png"], "caption": ["red"]}), tmp_path / "in.parquet")
        else:
            rows = [("a", "image", "caption"), ("007", "red.png", "red")]
            (tmp_path / f"in.{ending}").write_text(
                "".join(("," if ending == "csv" else "\t").join(row) + "\n" for row in rows)
            )
        source, out = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
        assert score(source, out, drop_columns=("image", "caption")).job["dropped"] == ["caption", "image"]
        found = {
            "csv": "a,similarity,error\n007,1.0,\n",
            "tsv": "a\tsimilarity\terror\n007\t1.0\t\n",
            "jsonl": '{"a": 7.0e0, "similarity": 1.0, "error": null}\n',
        }
        if ending == "parquet":
            assert pq.read_table(out).to_pylist() == [{"a": "007", "similarity": 1.0, "error": None}]
        else:
            assert out.read_text() == found[ending]

    def test_all_columns_may_be_left_out(self, tmp_path: Path) -> None:
        source = write(tmp_path, COLUMNS["binary"])
        score(source, tmp_path / "some.csv", drop_columns=("image",))
        for ending in ("csv", "jsonl", "parquet"):
            score(source, tmp_path / f"none.{ending}", drop_columns=("id", "image", "caption"))
        kept = [line.split(",", 2)[2] for line in (tmp_path / "some.csv").read_text().splitlines()]
        assert (tmp_path / "none.csv").read_text().splitlines() == kept
        lines = [json.loads(line) for line in (tmp_path / "none.jsonl").read_text().splitlines()]
        assert pq.read_table(tmp_path / "none.parquet").to_pylist() == lines

    def test_it_is_part_of_what_a_run_is(self, tmp_path: Path) -> None:
        source, out = write(tmp_path, COLUMNS["binary"]), tmp_path / "out.parquet"
        stop = iter([False, True]).__next__
        with pytest.raises(StoppedError):
            score_csv(
                source, out, Config(chunk_size=1), "image", engine=LocalEngine(encoder=ColourEncoder()), stop=stop
            )
        with pytest.raises(UsageError, match="dropped"):
            score(source, out, Config(chunk_size=1), drop_columns=("image",))
        score(source, out, Config(chunk_size=1), drop_columns=("image",), start="restart")
        assert pq.read_table(out).column_names == ["id", "caption", "similarity", "error"]
        again = score(source, out, Config(chunk_size=1), drop_columns=("image",), start="retry_failed")
        assert again.failures == {"invalid_url": 1}

    def test_a_name_that_is_not_there_and_one_that_is_no_tuple_are_mistakes(self, tmp_path: Path) -> None:
        source = write(tmp_path, COLUMNS["binary"])
        with pytest.raises(UsageError, match=r"column 'Image' is missing from .*; if you mean 'image'"):
            score(source, tmp_path / "out.parquet", drop_columns=("Image",))
        with pytest.raises(ConfigError, match="drop_columns='image' must be a tuple"):
            TableOptions(drop_columns="image")  # type: ignore[arg-type]

    def test_an_old_score_may_be_left_out_for_the_new_one(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"image": [RED], "caption": ["red"], "error": ["old"]}), tmp_path / "in.parquet")
        score(tmp_path / "in.parquet", tmp_path / "out.csv", drop_columns=("image", "error"))
        assert (tmp_path / "out.csv").read_text() == "caption,similarity,error\nred,1.0,\n"


def test_the_command_scores_bytes_and_its_report_shows_them(tmp_path: Path) -> None:
    cells = [{"bytes": RED, "path": "a/one.jpg"}, {"bytes": GREEN, "path": None}, {"bytes": b"\x00", "path": "<b>"}]
    source, out, page = write(tmp_path, pa.array(cells, STRUCT)), tmp_path / "out.csv", tmp_path / "page.html"
    options = ["--url-col", "image", "--drop-col", "image", "--model", "mini", "--report", str(page), "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main(["score", str(source), str(out), *options])
    assert ended.value.code == 0
    assert out.read_text().startswith("id,caption,similarity,error\n0,red,0.")
    text = page.read_text()
    assert text.count("<img") == 2
    for shown in ("a/one.jpg", "(in the table)", "&lt;b&gt;"):
        assert shown in text


def test_photos_as_files_bytes_and_structs_have_equal_scores_and_are_encoded_once(tmp_path: Path) -> None:
    photos = sorted((ROOT / "challenge_set").iterdir())[:12]
    contents = [photo.read_bytes() for photo in photos]
    kinds: dict[str, pa.Array] = {
        "files": pa.array(map(str, photos)),
        "bytes": pa.array(contents),
        "structs": pa.array(
            [{"bytes": content, "path": photo.name} for content, photo in zip(contents, photos, strict=True)]
        ),
    }
    captions, found = [photo.stem.replace("_", " ") for photo in photos], {}
    for kind, images in kinds.items():
        source = write(tmp_path, images, captions)
        config = Config(model="mini", chunk_size=5, embedding_cache=tmp_path / "cache", files_under=ROOT)
        summary = score_csv(source, tmp_path / f"{kind}.parquet", config, "image")
        found[kind] = pq.read_table(tmp_path / f"{kind}.parquet")["similarity"].to_pylist()
        encoded = summary.seconds.get("encode_image", 0.0) > 0
        assert encoded == (kind == "files")  # by their contents the others are known
    assert None not in found["files"]
    assert found["files"] == found["bytes"] == found["structs"]


def test_a_large_row_group_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (parquet, parquet_file):
        monkeypatch.setattr(module, "PART_SIZE", 1 << 20)
    monkeypatch.setattr(parquet_file, "_BUFFER", 1 << 16)
    images = [bytes([i % 256]) + os.urandom(65_535) for i in range(160)]
    table = pa.table({"image": images, "caption": ["red"] * 160})
    pages = {"write_batch_size": 2, "data_page_size": 1 << 17}  # a page is read at once
    pq.write_table(table, tmp_path / "in.parquet", use_dictionary=False, row_group_size=160, **pages)
    asked: list[int] = []

    class Counted(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(size or 0)
            return super().read(size)

    monkeypatch.setattr(parquet_file, "open_bytes", lambda place: Counted(place))
    opened = open_table(str(tmp_path / "in.parquet"))
    asked.clear()
    parts = opened.read(0, 1000)
    first = next(parts).column("image")
    assert sum(asked) < 4 << 20
    assert 10 < len(first) <= 16
    assert [*first, *(cell for part in parts for cell in part.column("image"))] == images


def test_images_are_written_without_a_dictionary_and_what_repeats_with_one(tmp_path: Path) -> None:
    images = pa.array([{"bytes": os.urandom(5_000), "path": "a.jpg"} for _ in range(4)])
    table = pa.table({"image": images, "caption": ["red"] * 4, "hash": [b"0" * 16] * 4})
    pq.write_table(table, tmp_path / "in.parquet")
    score(tmp_path / "in.parquet", tmp_path / "out.parquet")
    group = pq.read_metadata(tmp_path / "out.parquet").row_group(0)
    columns = [group.column(place) for place in range(group.num_columns)]
    assert {column.path_in_schema for column in columns if not column.has_dictionary_page} == {"image.bytes"}
    assert pq.read_table(tmp_path / "out.parquet").select(table.column_names).equals(table)


def test_a_type_that_parquet_cannot_hold_is_refused_before_the_run() -> None:
    schema = pa.schema([("image", pa.binary()), ("age", pa.month_day_nano_interval())])
    with pytest.raises(TableError, match=r"rows cannot be written as Parquet: .*interval"):
        writer_for("out.parquet", schema)
