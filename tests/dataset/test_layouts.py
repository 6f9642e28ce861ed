"""Folders as other tools lay them out: imagefolder's metadata files and the captions files of the Flickr sets."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.images import make_png
from text_image_similarity import Config, Dialect, TableError, UsageError, evaluate
from text_image_similarity.dataset import layouts, load_image, own_splits, read_dataset
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.formats import read_captions

COLOURS = ("red", "green", "blue")


def draw(folder: Path) -> Path:
    """Put a picture of each colour into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for colour in COLOURS:
        (folder / f"{colour}.png").write_bytes(make_png(colour))
    return folder


def write_metadata(path: Path, *prefixes: str, text: str = "text") -> None:
    """Write a metadata file of the format that its name says, with a row for each colour and prefix."""
    rows = [{"file_name": f"{prefix}{c}.png", text: f"{prefix}{c}"} for prefix in prefixes or [""] for c in COLOURS]
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif path.suffix == ".csv":
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        path.write_text("".join(f"{','.join(line)}\n" for line in lines))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
@pytest.mark.parametrize("text", ["text", "caption"])
def test_an_imagefolder(name: str, text: str, tmp_path: Path) -> None:
    write_metadata(draw(tmp_path) / name, text=text)
    (tmp_path / "README.md").write_text("photos")
    for source in (tmp_path, tmp_path / name):
        images = read_dataset(source)
        assert [(image.name, image.captions) for image in images] == [(f"{c}.png", (c,)) for c in COLOURS]
        assert all(load_image(image, Config()).size == (16, 16) for image in images)
        assert own_splits(source) == ()
    assert evaluate(tmp_path, Config(), encoder=ColourEncoder()).retrieval.text_to_image.recall[1] == 1.0


@pytest.mark.parametrize("inside", ["", "data"])
def test_an_imagefolder_for_each_split(inside: str, tmp_path: Path) -> None:
    for name, caption in (("train", "one"), ("val", "two"), ("test", "three")):
        folder = tmp_path / inside / name
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(make_png(size=(len(name), 9)))
        (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": caption}))
    assert own_splits(tmp_path) == ("train", "validation", "test")
    assert [image.captions for image in read_dataset(tmp_path, split="val")] == [("two",)]
    assert [load_image(image, Config()).width for image in read_dataset(tmp_path)] == [5, 3, 4]


def test_one_metadata_file_for_images_in_folders_of_splits(tmp_path: Path) -> None:
    draw(tmp_path / "train")
    (tmp_path / "test").mkdir()
    for colour in COLOURS:
        (tmp_path / "test" / f"{colour}.png").write_bytes(make_png(colour, (9, 9)))
    write_metadata(tmp_path / "metadata.csv", "train/", "test/")
    assert own_splits(tmp_path) == ("train", "test")
    for split in ("train", "test"):
        assert [image.name for image in read_dataset(tmp_path, split=split)] == [f"{split}/{c}.png" for c in COLOURS]
    assert len(read_dataset(tmp_path / "metadata.csv")) == 6
    write_metadata(tmp_path / "metadata.csv", "train/", "")
    with pytest.raises(
        TableError, match=r"row 4 of .*metadata.csv \(red.png\) is not in any of the folders test, train"
    ):
        read_dataset(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,text\n.,red\n")
    with pytest.raises(TableError, match=r"row 1 of .*metadata.csv \(.\) is not in any of the folders"):
        read_dataset(tmp_path)


def test_images_in_a_folder_of_their_own_are_no_split(tmp_path: Path) -> None:
    draw(tmp_path / "images")
    write_metadata(tmp_path / "metadata.jsonl", "images/")
    assert own_splits(tmp_path) == ()
    assert [load_image(image, Config()).size for image in read_dataset(tmp_path)] == [(16, 16)] * 3


def test_named_columns_are_not_replaced(tmp_path: Path) -> None:
    write_metadata(draw(tmp_path) / "metadata.csv", text="prompt")
    with pytest.raises(UsageError, match=r"column 'caption' is missing from .* it has the columns: file_name, prompt"):
        read_dataset(tmp_path)
    assert len(read_dataset(tmp_path, col_text="prompt")) == 3
    with pytest.raises(UsageError, match="column 'link' is missing"):
        read_dataset(tmp_path, col_url="link", col_text="prompt")
    pq.write_table(pa.table({"image": [make_png()], "caption": ["c"]}), tmp_path / "in.parquet")
    with pytest.raises(UsageError, match="column 'link' is missing"):
        read_dataset(tmp_path / "in.parquet", col_url="link")


@pytest.mark.parametrize("name", ["image", "jpg", "url", "data"])
def test_a_column_of_images_is_found_as_score_finds_it(tmp_path: Path, name: str) -> None:
    other = {"file_name" if name in ("url", "data") else "url": ["other.png"]}
    pq.write_table(pa.table({name: [make_png("red")], **other, "caption": ["c"]}), tmp_path / "in.parquet")
    (image,) = read_dataset(tmp_path / "in.parquet")
    assert image.source == make_png("red")
    (image,) = read_dataset(tmp_path / "in.parquet", col_url=min(other))
    assert str(image.source).endswith("other.png")


# Captions files, and the captions that they hold of red.png.
CAPTIONS_FILES = [
    ("image,caption\nred.png,red\nblue.png,blue\nred.png,a red square, and more\n", ("red", "a red square, and more")),
    ('image,caption\r\nred.png,"red, with ""quotes"""\r\nblue.png,"blue" it says\r\n', ('red, with "quotes"',)),
    ('red.png#0\tred "x\nblue.png#0\tblue\nred.png#1\ta, b\n', ('red "x', "a, b")),
    ("\ufeffred.png\tred\n\nblue.png\tblue\n", ("red",)),
    ("image_name| comment_number| comment\nred.png| 0| red | more\nblue.png| 0| blue\n", ("red | more",)),
    ("image_name,comment_number,comment\nred.png,0,a, b\nblue.png,0,blue\n", ("a, b",)),
    ("image\tcaption\nred.png\tred\nblue.png\tblue\n", ("red",)),
]


@pytest.mark.parametrize(("content", "captions"), CAPTIONS_FILES)
@pytest.mark.parametrize("inside", ["", "Images"])
def test_a_captions_file(content: str, captions: tuple[str, ...], inside: str, tmp_path: Path) -> None:
    draw(tmp_path / inside)
    (tmp_path / "captions.txt").write_bytes(content.encode())
    (tmp_path / "Flickr8k.token.txt").write_bytes(content.encode())
    for source in (tmp_path, tmp_path / "captions.txt", tmp_path / "Flickr8k.token.txt"):
        red, blue = read_dataset(source)
        assert (red.name, red.captions, blue.name) == ("red.png", captions, "blue.png")
        assert load_image(red, Config()).getpixel((0, 0)) == (255, 0, 0)
        assert own_splits(source) == ()


def test_a_line_of_a_captions_file_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.formats.text._ROW_CHARACTERS", 100)
    file = tmp_path / "captions.txt"
    file.write_text("image,caption\n" + f"a.jpg,{'x' * 90}\n" * 3 + f"a.jpg,{'x' * 100}\n", encoding="utf-8")
    found = read_captions(str(file))
    assert [caption for _, (_, caption) in islice(found, 3)] == ["x" * 90] * 3
    with pytest.raises(TableError, match="a row of more than 100 characters"):
        next(found)


def test_a_captions_file_does_not_make_windows_ask_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_file(path: Path) -> bool:
        assert "evil" not in str(path)
        return path.exists() and not path.is_dir()

    monkeypatch.setattr(layouts, "on_other_share", lambda path, folder: "evil" in str(path))
    draw(tmp_path / "photos")
    monkeypatch.setattr(Path, "is_file", is_file)
    names = ["//evil/share/a.jpg", "red.png"]
    assert layouts._folder_with(names, tmp_path) == tmp_path / "photos"
    assert layouts._folder_with(names[:1], tmp_path) == tmp_path


def test_a_captions_file_away_from_its_images(tmp_path: Path) -> None:
    draw(tmp_path / "photos")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "captions.txt").write_text("image,caption\nred.png,red\n,lost\nred.png,\nblue.png\n")
    found = evaluate(tmp_path / "texts", Config(base_dir=tmp_path / "photos"), encoder=ColourEncoder())
    assert (found.images, found.failures) == (1, {"empty_caption": 2, "invalid_url": 1})


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (
            b"hello\n",
            UsageError,
            "cannot tell the format of .*captions.txt: a captions file has the header `image,caption`",
        ),
        (b"red.png,red\n", UsageError, "cannot tell the format"),
        (b'image,caption\nred.png,"red\nand more"\n', TableError, "line 2 of .*captions.txt opens a quote"),
        (b"image,caption\nred.png,caf\xe9\n", TableError, "captions.txt is not UTF-8"),
        (b"", TableError, "contains no image with a caption"),
    ],
)
def test_a_captions_file_of_another_kind_is_named(
    content: bytes, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "captions.txt").write_bytes(content)
    with pytest.raises(kind, match=message):
        read_dataset(tmp_path)


def test_folders_that_say_too_little_or_too_much(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing here")
    with pytest.raises(
        UsageError, match=r"contains no table of captions: no metadata.jsonl or metadata.csv, no captions.txt"
    ):
        read_dataset(tmp_path)
    draw(tmp_path)
    with pytest.raises(UsageError, match=r"holds images without captions; put each caption next to its image"):
        read_dataset(tmp_path)
    write_metadata(tmp_path / "metadata.csv")
    write_metadata(tmp_path / "metadata.jsonl")
    with pytest.raises(UsageError, match=r"holds metadata.csv and metadata.jsonl; remove one, or name one"):
        read_dataset(tmp_path)
    with pytest.raises(UsageError, match=r"no/captions.txt does not exist"):  # which is not looked for on the hub
        read_dataset("no/captions.txt")


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "dev"):
        write_metadata(draw(tmp_path / name) / "metadata.jsonl")
    with pytest.raises(
        UsageError, match=r"val/metadata\.jsonl and .*dev/metadata\.jsonl belong to the same split, validation"
    ):
        read_dataset(tmp_path)


def test_metadata_that_is_not_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train", "extra"):
        write_metadata(draw(tmp_path / name) / "metadata.jsonl")
    assert len(read_dataset(tmp_path)) == 3
    assert f"{tmp_path / 'extra' / 'metadata.jsonl'} is ignored" in caplog.text


@pytest.mark.parametrize("other", ["labels.csv", "captions.txt"])
def test_a_table_in_the_way_is_named(other: str, tmp_path: Path) -> None:
    write_metadata(draw(tmp_path) / "metadata.jsonl")
    (tmp_path / other).write_text("image,caption\nred.png,red\n")
    if other == "captions.txt":  # which is read only where there is no table
        assert len(read_dataset(tmp_path)) == 3
    else:
        with pytest.raises(
            UsageError,
            match=r"contains files that are not tables, such as .*; name the table itself: .*metadata\.jsonl",
        ):
            read_dataset(tmp_path)


def test_a_captions_file_in_another_dialect(tmp_path: Path) -> None:
    draw(tmp_path)
    place = tmp_path / "captions.txt"
    place.write_bytes(
        'image,caption\nred.png,"café" open\nblue.png,"a" and "b"\n"a,b.png","one ""two"""\ngreen.png,"left\n'.encode(
            "cp1252"
        )
    )
    with pytest.raises(TableError, match=r"is not UTF-8; name its encoding, e\.g\. --encoding cp1252"):
        read_dataset(place)
    with pytest.raises(TableError, match=r"line 5 .* that is not closed; .* --quoting none"):
        read_dataset(place, config=Config(dialect=Dialect(encoding="cp1252")))
    found = read_dataset(place, config=Config(dialect=Dialect(encoding="cp1252", quoting="none")))
    assert found[0].captions == ('"café" open',)
    place.write_text('image,caption\nblue.png,"a" and "b"\n"a,b.png","one ""two"""\n')
    assert [(image.name, *image.captions) for image in read_dataset(place)] == [
        ("blue.png", '"a" and "b"'),
        ("a,b.png", 'one "two"'),
    ]


def test_text_stored_as_bytes_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pq.write_table(pa.table({"url": [b"red.png", make_png()], "caption": ["red", "red"]}), tmp_path / "in.parquet")
    assert len(read_dataset(tmp_path / "in.parquet")) == 1
    said = (
        "row 1 of {} has no image in 'url': the bytes are the text 'red.png'; if that is a reference, cast the column"
    )
    assert said.format(tmp_path / "in.parquet") in caplog.text
    pq.write_table(pa.table({"url": ["red.png"], "caption": [b"red"]}), tmp_path / "in.parquet")
    with pytest.raises(TableError, match="has no text in 'caption': the caption is a bytes value, not text"):
        read_dataset(tmp_path / "in.parquet")
