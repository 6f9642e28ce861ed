"""Sources of captioned pictures, photos that are merged, and splits that share none."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import fsspec
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from PIL import Image

from tests.support.clock import HANG_S
from tests.support.images import make_png, saved
from tests.support.tables import FORMS, write_form
from text_image_similarity import Config, Dialect, ErrorCode, Limits, RowError, TableError, UsageError
from text_image_similarity.dataset import (
    CaptionedImage,
    ImageLoader,
    hub,
    load_image,
    own_splits,
    photos,
    read_dataset,
    split_dataset,
)
from text_image_similarity.fetch import resolve_reference

RED, GREEN, BLUE = (make_png(colour) for colour in ("red", "green", "blue"))


def row(data: bytes | None, path: str | None, *captions: str | None) -> dict[str, object]:
    return {"image": {"bytes": data, "path": path}} | {f"caption_{i}": text for i, text in enumerate(captions)}


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def test_the_columns_of_flickr8k(tmp_path: Path) -> None:
    path = write(
        tmp_path / "photos.parquet",
        row(RED, "red.jpg", "a red square", " ", "red "),
        row(GREEN, None, "a green square", None, "green"),
        row(BLUE, "blue.jpg", None, "", " "),  # no caption, no use
    )
    red, green = read_dataset(path)
    assert red == CaptionedImage("red.jpg", ("a red square", "red"), RED)
    assert green == CaptionedImage(f"row 2 of {path}", ("a green square", "green"), GREEN)
    assert load_image(red, Config()).getpixel((0, 0)) == (255, 0, 0)
    assert own_splits(path) == ()


def test_a_parquet_row_may_name_a_file(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(RED)
    (image,) = read_dataset(write(tmp_path / "photos.parquet", row(None, "red.png", "red")))
    assert image.source == str(tmp_path / "red.png")
    assert load_image(image, Config(base_dir="/elsewhere")).size == (16, 16)


def test_a_column_of_lists_holds_captions(tmp_path: Path) -> None:
    (image,) = read_dataset(write(tmp_path / "a.parquet", {"image": {"bytes": RED}, "caption": ["one", "two", ""]}))
    assert image.captions == ("one", "two")


def test_rows_with_the_same_bytes_are_one_photo(tmp_path: Path) -> None:
    rows = row(RED, "b.jpg", "red"), row(GREEN, "c.jpg", "green"), row(RED, "a.jpg", "a red square")
    images = read_dataset(write(tmp_path / "photos.parquet", *rows))
    assert [(image.name, image.captions) for image in images] == [
        ("a.jpg", ("red", "a red square")),
        ("c.jpg", ("green",)),
    ]


def test_a_table_of_references(tmp_path: Path) -> None:
    files = {"red.png": RED, "copy of red.png": RED, "green.png": GREEN, "blue.png": BLUE}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data.ljust(100, b"\0"))  # equal size alone makes no copy
    table = tmp_path / "in.csv"
    table.write_text(
        "url,caption\nred.png,red\ngreen.png,green\nred.png,a red square\ncopy of red.png,reddish\n"
        "blue.png,blue\nhttp://h/x.png,far\nnone.png,lost\n"
    )
    images = read_dataset(table)
    assert [(image.name, image.captions) for image in images] == [
        ("copy of red.png", ("red", "a red square", "reddish")),
        ("green.png", ("green",)),
        ("blue.png", ("blue",)),
        ("http://h/x.png", ("far",)),
        ("none.png", ("lost",)),
    ]
    assert images[1].source == str(tmp_path / "green.png")
    assert images[3].source == "http://h/x.png"
    with pytest.raises(RowError) as caught:
        load_image(images[4], Config())
    assert caught.value.code == ErrorCode.FILE_NOT_FOUND


@pytest.mark.parametrize("form", FORMS)
def test_every_form_that_score_reads(form: str, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(RED)
    (tmp_path / "green.png").write_bytes(GREEN)
    rows = [
        {"url": str(tmp_path / "green.png"), "caption": "grün"},
        {"url": str(tmp_path / "red.png"), "caption": "red,\nand more"},
        {"url": str(tmp_path / "green.png"), "caption": " "},
        {"url": str(tmp_path / "green.png"), "caption": "a green square"},
    ]
    source = write_form(form, tmp_path, rows)
    dialect = Dialect(quoting="minimal" if form == "tsv" else "auto")
    images = read_dataset(source, config=Config(dialect=dialect, files_under=tmp_path))
    assert [(image.captions, image.source) for image in images] == [
        (("grün", "a green square"), str(tmp_path / "green.png")),
        (("red,\nand more",), str(tmp_path / "red.png")),
    ]
    assert own_splits(source, dialect) == ()


@pytest.mark.parametrize("form", FORMS)
def test_relative_references_start_from_the_folder_of_their_table(form: str, tmp_path: Path) -> None:
    source = write_form(form, tmp_path, [{"url": "a.png", "caption": "one"}, {"url": "b.png", "caption": "two"}])
    start = f"{tmp_path}/parts/" if form == "folder" else f"{tmp_path}/"
    if form == "memory URL":
        with pytest.raises(TableError, match="--files-under FOLDER"):
            read_dataset(source)
    else:
        assert [image.source for image in read_dataset(source)] == [f"{start}a.png", f"{start}b.png"]
    assert [image.source for image in read_dataset(source, config=Config(base_dir="/base"))] == [
        "/base/a.png",
        "/base/b.png",
    ]


def test_json_lines_may_hold_lists_and_miss_members(tmp_path: Path) -> None:
    lines = '{"url": "a.png", "captions": ["one", "two"]}\n{"url": "b.png"}\n{"url": "c.png", "captions": ["three"]}\n'
    (tmp_path / "in.jsonl").write_text(lines)
    assert [image.captions for image in read_dataset(tmp_path / "in.jsonl")] == [("one", "two"), ("three",)]


# Rows of JSON Lines, and the code that each is left out under.
UNUSABLE = [
    ('{"url": "", "caption": "a cat"}', "invalid_url"),
    ('{"url": " \\t", "caption": "a cat"}', "invalid_url"),
    ('{"url": null, "caption": "a cat"}', "invalid_url"),
    ('{"url": NaN, "caption": "a cat"}', "invalid_url"),
    ('{"url": ["red.png"], "caption": "a cat"}', "invalid_url"),
    ('{"url": {"bytes": "", "path": null}, "caption": "a cat"}', "invalid_url"),
    ('{"caption": "a cat"}', "invalid_url"),
    ('{"url": "red.png"}', "empty_caption"),
    ('{"url": "red.png", "caption": " "}', "empty_caption"),
    ('{"url": "red.png", "caption": NaN}', "empty_caption"),
    ('{"url": "red.png", "caption": Infinity}', "empty_caption"),
    ('{"url": "red.png", "caption": true}', "empty_caption"),
    ('{"url": "red.png", "caption": {"text": "a cat"}}', "empty_caption"),
    ('{"url": "red.png", "caption": [null, ""]}', "empty_caption"),
    ("{}", "empty_caption"),
    ('{"url": "red.png", "caption": "a \\ud800 cat"}', "encoder_error"),
]


@pytest.mark.parametrize(("line", "code"), UNUSABLE)
def test_a_row_that_cannot_be_used_is_counted(
    line: str, code: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f'{{"url": "red.png", "caption": "red"}}\n{line}\n{{"url": "green.png", "caption": 42}}\n')
    left_out = Counter[str]()
    images = read_dataset(path, left_out=left_out)
    assert [(image.name, image.captions) for image in images] == [("red.png", ("red",)), ("green.png", ("42",))]
    assert left_out == {code: 1}
    assert f"{path}: 1 row was left out: row 2 of {path} has" in caplog.text


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int8(), pa.binary())]
)
def test_a_column_of_bytes_holds_images(tmp_path: Path, kind: pa.DataType) -> None:
    cells = pa.array([RED, None, GREEN, b""])
    column = cells.dictionary_encode() if pa.types.is_dictionary(kind) else cells.cast(kind)
    pq.write_table(pa.table({"image": column, "caption": ["red", "none", "green", "empty"]}), tmp_path / "in.parquet")
    left_out: Counter[str] = Counter()
    found = read_dataset(tmp_path / "in.parquet", left_out=left_out)
    assert [(image.source, image.captions) for image in found] == [(RED, ("red",)), (GREEN, ("green",))]
    assert left_out == {"invalid_url": 1, "empty_body": 1}
    with ImageLoader(Config(limits=Limits(max_bytes=10))) as loader, pytest.raises(RowError, match="too_many_bytes"):
        loader.load(found[0])


def test_rows_left_out_are_named_by_their_own_file_the_first_three(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abcde":
        (tmp_path / f"{name}.csv").write_text("url,caption\nx.png,one\n,two\n")
    read_dataset(tmp_path / "*.csv")
    assert "5 rows were left out" in caplog.text
    assert [name for name in "abcde" if f"row 2 of {tmp_path}/{name}.csv has no image" in caplog.text] == [
        "a",
        "b",
        "c",
    ]


def test_the_rows_of_a_photo_are_merged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row by row, 80,000 rows took half a minute, and ten times as many took an hour."""
    names = ["b.jpg", "a.jpg", "c.jpg"]
    rows = [CaptionedImage(names[number % 3], (f"c{number}",), names[number % 3] * 9) for number in range(3000)]
    made: list[Any] = []

    def make(*given: Any) -> CaptionedImage:
        made.append(given)
        return CaptionedImage(*given)

    monkeypatch.setattr(photos, "CaptionedImage", make)
    monkeypatch.setattr(photos, "_source_key", lambda _: "one photo")
    ((merged,),) = photos.merge_photos([rows], Limits())
    assert (merged.name, merged.source) == ("a.jpg", "a.jpg" * 9)
    assert merged.captions == tuple(f"c{number}" for number in range(3000))
    assert len(made) == 1


def test_rows_of_other_splits_are_not_counted(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(f"url,caption\n{name}.png,one\n,two\n")
    counts = {split: Counter[str]() for split in ("train", "test", None)}
    for split, left_out in counts.items():
        read_dataset(tmp_path, split=split, left_out=left_out)
    assert [left_out.total() for left_out in counts.values()] == [1, 1, 2]


def test_other_columns_and_another_base_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "red.png").write_bytes(RED)
    for table in (tmp_path / "in.csv", tmp_path / "in.parquet"):
        if table.suffix == ".csv":
            table.write_text("file,text\nred.png,red\n")
        else:
            write(table, {"file": "red.png", "text": "red"})
        (image,) = read_dataset(table, col_url="file", col_text="text", config=Config(base_dir=tmp_path / "photos"))
        assert load_image(image, Config()).size == (16, 16)


def test_references() -> None:
    assert resolve_reference(" http://h/a.png ", "/base") == "http://h/a.png"
    assert resolve_reference("data:image/png;base64,AA==", "/base") == "data:image/png;base64,AA=="
    assert resolve_reference("a.png", "/base") == "/base/a.png"
    assert resolve_reference("/a.png", "/base") == "/a.png"
    assert resolve_reference("a.png", None) == "a.png"


def test_pictures_come_over_one_transport() -> None:
    image = CaptionedImage("far", ("far",), "http://h/x.png")
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=GREEN))
    with ImageLoader(Config(), transport=transport) as pictures:
        assert pictures.load(image).getpixel((0, 0)) == (0, 128, 0)
        assert pictures.load(CaptionedImage("near", ("near",), RED)).getpixel((0, 0)) == (255, 0, 0)


def test_pictures_are_decoded_apart_where_that_is_asked_for() -> None:
    image = CaptionedImage("near", ("near",), RED)
    assert load_image(image, Config(isolate_decoder=True)).getpixel((0, 0)) == (255, 0, 0)
    large = CaptionedImage("large", ("large",), saved(Image.new("RGB", (2000, 2000)), "PNG"))
    with pytest.raises(RowError, match="decoder_crash"):
        load_image(large, Config(isolate_decoder=True, limits=Limits(decode_memory=1)))


def test_local_files_are_compared_within_the_limits(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(RED)
    (tmp_path / "in.csv").write_text("url,caption\na.png,red\nb.png,red\n")
    assert len(read_dataset(tmp_path / "in.csv")) == 1
    for limits in (Limits(allow_local_files=False), Limits(max_bytes=len(RED) - 1)):
        assert (
            len(read_dataset(tmp_path / "in.csv", config=Config(limits=limits))) == 2
        )  # nothing is read, so nothing is known


@pytest.mark.parametrize(
    "names",
    [
        ("train.parquet", "validation.parquet", "test.parquet"),
        ("train-00000-of-00001.parquet", "val-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("data/train.parquet", "data/dev.parquet", "data/test.parquet"),
    ],
)
def test_a_folder_of_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name, data in zip(names, (RED, GREEN, BLUE), strict=True):
        write(tmp_path / name, row(data, name, "a square"))
    assert own_splits(tmp_path) == ("train", "validation", "test")
    for split, data in (("train", RED), ("validation", GREEN), ("val", GREEN), ("test", BLUE)):
        assert [image.source for image in read_dataset(tmp_path, split=split)] == [data]
    assert [image.source for image in read_dataset(tmp_path)] == [RED, GREEN, BLUE]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl.gz"])
def test_splits_of_other_formats(ending: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        row = {"url": f"/{split}.png", "caption": split}
        Path(write_form("tsv" if ending == "tsv" else ending, tmp_path, [row])).rename(tmp_path / f"{split}.{ending}")
    (tmp_path / "README.md").write_text("A data set.")
    assert own_splits(tmp_path) == ("train", "validation")
    assert [image.source for image in read_dataset(tmp_path, split="validation", config=Config(files_under="/"))] == [
        "/val.png"
    ]


def test_splits_in_a_folder_at_a_url(tmp_path: Path) -> None:
    for split, data in (("train", RED), ("test", GREEN)):
        path = write(tmp_path / f"{split}.parquet", row(data, f"{split}.jpg", "a square"))
        fsspec.filesystem("memory").pipe_file(f"memory://{tmp_path.name}/data/{split}.parquet", path.read_bytes())
    source = f"memory://{tmp_path.name}"
    assert own_splits(source) == ("train", "test")
    assert [image.source for image in read_dataset(source, split="test")] == [GREEN]


def test_pieces_of_a_split_are_one_table(tmp_path: Path) -> None:
    for i, data in enumerate((RED, GREEN)):
        # A piece without any path has a column of another type.
        write(tmp_path / f"train-0000{i}-of-00002.parquet", row(data, "0.jpg" if i == 0 else None, "a square"))
    second = f"row 1 of {tmp_path / 'train-00001-of-00002.parquet'}"
    assert [image.name for image in read_dataset(tmp_path, split="train")] == ["0.jpg", second]
    write(tmp_path / "train-00001-of-00002.parquet", {"other": 1})
    with pytest.raises(TableError, match="has different columns from"):
        read_dataset(tmp_path, split="train")


def test_no_photo_in_two_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "train.parquet", row(RED, "r", "red"), row(GREEN, "g", "green"), row(BLUE, "b", "blue"))
    write(tmp_path / "validation.parquet", row(RED, "other name", "red too"), row(BLUE, "b", "blue"))
    write(tmp_path / "test.parquet", row(BLUE, "b", "blue"))
    with caplog.at_level(logging.WARNING):
        parts = {split: read_dataset(tmp_path, split=split) for split in own_splits(tmp_path)}
    assert {split: [image.source for image in images] for split, images in parts.items()} == {
        "train": [GREEN],
        "validation": [RED],
        "test": [BLUE],
    }
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "2 of 3 photos of the split train are also in a later split and were left out",
        "1 of 2 photos of the split validation are also in a later split and were left out",
    ]


def some_images(count: int) -> list[CaptionedImage]:
    return [CaptionedImage(f"{i}.jpg", (str(i),), b"%d" % i) for i in range(count)]


def test_no_photo_in_two_splits_by_reference_either(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(RED)
    (tmp_path / "c.png").write_bytes(GREEN)

    def write_references(path: Path, *names: str) -> None:
        captions = [f"caption of {name} in {path.stem}" for name in names]
        pq.write_table(pa.table({"url": list(names), "caption": captions}), path)

    write_references(tmp_path / "train.parquet", "a.png", "./b.png", "c.png")
    write_references(tmp_path / "validation.parquet", "b.png")
    parts = {split: read_dataset(tmp_path, split=split) for split in ("train", "validation")}
    assert [(image.name, image.captions) for image in parts["train"]] == [("c.png", ("caption of c.png in train",))]
    assert [image.captions for image in parts["validation"]] == [("caption of b.png in validation",)]


def test_a_split_depends_on_seed_and_photos_alone() -> None:
    images = some_images(50)
    parts = split_dataset(images)
    assert [len(part) for part in parts] == [30, 10, 10]
    assert {image for part in parts for image in part} == set(images)
    shuffled = random.Random(1).sample(images, len(images))
    assert split_dataset(shuffled) == parts
    assert split_dataset(images, seed=1) != parts
    assert [image.name for image in parts[2]][:3] == ["19.jpg", "1.jpg", "49.jpg"]  # the same on every machine


def test_a_split_keeps_copies_together() -> None:
    copies = [CaptionedImage(name, ("a",), b"%d" % i) for i in range(30) for name in ("one", "other")]
    for part in split_dataset(copies):
        assert sorted(image.name for image in part) == sorted(["one", "other"] * (len(part) // 2))


def test_a_split_by_reference_moves_with_its_folder() -> None:
    here, there = (
        [CaptionedImage(f"{i}.jpg", ("a",), f"{base}/{i}.jpg") for i in range(40)] for base in ("/here", "/there")
    )
    for ours, theirs in zip(split_dataset(here), split_dataset(there), strict=True):
        assert [image.name for image in ours] == [image.name for image in theirs]


@pytest.mark.parametrize("fractions", [(0.6, 0.2), (0.6, 0.2, 0.3), (1.2, -0.1, -0.1)])
def test_fractions_are_shares_of_a_whole(fractions: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="must be three numbers"):
        split_dataset(some_images(5), fractions)  # type: ignore[arg-type]


def test_mistakes_are_named(tmp_path: Path) -> None:
    for name in ("train.parquet", "notes.txt", "bad.parquet"):
        (tmp_path / name).write_text("no parquet")
    write(tmp_path / "good.parquet", row(RED, "r", "red"))
    write(tmp_path / "bare.parquet", row(RED, "r"))
    write(tmp_path / "hollow.parquet", row(None, None, "red"))
    write(tmp_path / "mute.parquet", row(RED, "r", " "))
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("url,caption\n")
    (tmp_path / "ragged.csv").write_text("url,caption\na.png,b,c\n")
    (tmp_path / "twice.csv").write_text("url,url,caption\na.png,b,c\n")
    (tmp_path / "latin.csv").write_bytes("url,caption\na.png,café\n".encode("latin-1"))
    (tmp_path / "none").mkdir()
    cases: list[tuple[str, type[Exception], str, dict[str, str]]] = [
        ("missing.csv", UsageError, "missing.csv does not exist", {}),
        ("notes.txt", UsageError, "cannot tell the format of .*notes.txt", {}),
        ("none", UsageError, "none contains no table", {}),
        ("bad.parquet", TableError, "bad.parquet is a text file; give it the extension .csv", {}),
        ("good.parquet", UsageError, "has no split 'train': a single table has no splits", {"split": "train"}),
        ("good.parquet", UsageError, "column 'text' is missing from .* it has the columns: image, caption_0", {"col_text": "text"}),
        ("bare.parquet", UsageError, "column 'caption' is missing", {}),
        ("hollow.parquet", TableError, "no image with a caption: row 1 of .*hollow.parquet has no image in 'image': the image is empty or missing", {}),
        ("mute.parquet", TableError, "no image with a caption: row 1 of .*mute.parquet has no text in 'caption_0'", {}),
        ("empty.csv", TableError, "is empty; it needs a header line", {}),
        ("header.csv", TableError, "contains no image with a caption", {}),
        ("header.csv", UsageError, "column 'link' is missing", {"col_url": "link"}),
        ("ragged.csv", TableError, "row 1 of .* has 3 fields, but the header has 2", {}),
        ("twice.csv", UsageError, "twice.csv has two columns named 'url'", {}),
        ("latin.csv", TableError, "column 'caption' in row 1 of .*latin.csv is not UTF-8", {}),
    ]  # fmt: skip
    for name, kind, message, options in cases:
        with pytest.raises(kind, match=message):
            read_dataset(tmp_path / name, **options)  # type: ignore[arg-type]
    (tmp_path / "train.parquet").unlink()
    write(tmp_path / "train.parquet", row(RED, "r", "red"))
    with pytest.raises(UsageError, match="has no split 'test': it has train"):
        read_dataset(tmp_path, split="test")


def test_a_set_of_the_hub_out_of_reach_is_known_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(TableError, match="jxie/flickr8k is not in the local cache and the hub cannot be reached"):
        read_dataset("jxie/flickr8k", split="train")


def test_a_hub_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from threading import Event

    over = Event()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(hub, "PROBE_S", 0.05)
    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: over.wait(HANG_S))
    with pytest.raises(TableError, match=r"cannot be reached \(TimeoutError\)"):
        read_dataset("jxie/flickr8k")
    over.set()


def test_a_set_of_the_hub_is_read_from_its_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache is the one that `datasets` itself writes; only its folder gets the name of a set of the hub."""
    files = {
        "train": str(write(tmp_path / "a.parquet", row(RED, "r.jpg", "red", "a red square"))),
        "validation": str(write(tmp_path / "b.parquet", row(GREEN, "g.jpg", "green", None))),
    }
    image = datasets.Features(
        {"image": datasets.Image(), "caption_0": datasets.Value("string"), "caption_1": datasets.Value("string")}
    )
    cache = tmp_path / "cache"
    datasets.load_dataset("parquet", data_files=files, features=image, cache_dir=str(cache))
    (built,) = (path for path in (cache / "parquet").glob("default-*/*/*") if path.is_dir())
    home = cache / "jxie___flickr8k" / "default" / "0.0.0" / built.name
    home.parent.mkdir(parents=True)
    built.rename(home)
    for file in home.glob("parquet-*.arrow"):
        file.rename(home / file.name.replace("parquet-", "flickr8k-"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    assert own_splits("jxie/flickr8k") == ("train", "validation")
    assert read_dataset("jxie/flickr8k", split="train") == [CaptionedImage("r.jpg", ("red", "a red square"), RED)]
    assert [image.name for image in read_dataset("jxie/flickr8k")] == ["r.jpg", "g.jpg"]


def test_a_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r'pip install "\.\[train\]"'):
        read_dataset("jxie/flickr8k")


def test_local_sources_need_no_extra(tmp_path: Path) -> None:
    path = write(tmp_path / "photos.parquet", row(RED, "red.jpg", "red"))
    code = (
        "import sys\nfrom text_image_similarity.dataset import read_dataset\n"
        f"read_dataset({str(path)!r})\nprint([m for m in ('torch', 'datasets', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
