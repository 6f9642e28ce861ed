"""Tar shards and folders of pictures as tables: every sample is a row, and a damage is one too."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import random
import re
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.images import make_png
from tests.support.shards import Member, make_tar, sample, write_tar
from text_image_similarity import Config, UsageError, score_csv
from text_image_similarity.config import Dialect
from text_image_similarity.errors import RowError, TableError
from text_image_similarity.formats import SampleTable, choose_columns, open_table, output_for, samples
from text_image_similarity.formats.braces import expand_braces
from text_image_similarity.formats.parquet import ParquetTable
from text_image_similarity.formats.samples import read_folder
from text_image_similarity.formats.tar import TarStream

RED = make_png("red")
TWO = [*sample("a", "red", "red"), *sample("b", "blue", "blue")]


def rows(table: SampleTable, start: int = 0, most: int = 100) -> list[tuple[str | None, object, str | None]]:
    """Return key, image and caption of each sample; of an image that failed its error, of any other its size."""
    found: list[tuple[str | None, object, str | None]] = []
    for part in table.read(start, most):
        for key, image, caption in zip(*map(part.column, ("__key__", "__image__", "caption")), strict=True):
            found.append((key, str(image) if isinstance(image, RowError) else len(image), caption))
    return found


def opened(place: Path | str, max_bytes: int = 1 << 20) -> SampleTable:
    table = open_table(str(place), max_bytes=max_bytes)
    assert isinstance(table, SampleTable)
    table.scan()
    return table


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz", "s.tgz", "s.TAR"])
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_samples_are_grouped_by_the_name_up_to_its_first_dot(tmp_path: Path, name: str, kind: int) -> None:
    long = "x" * (90 if kind == tarfile.USTAR_FORMAT else 300)
    members = [
        ("./a.jpg", b"1"),
        ("./a.txt", b"one\n"),
        ("README", b"no dot"),
        ("__meta__/info.json", b"{}"),
        ("deep.er/b.v1.seg.PNG", b"not an image's ending"),
        ("deep.er/b.PNG", b"22"),
        ("deep.er/b.png", b"second image"),
        ("deep.er/b.caption", b"two"),
        (f"{long}.webp", b"333"),
        (f"{long}.json", b'{"text": "three"}'),
    ]
    data = make_tar(members, kind)
    (tmp_path / name).write_bytes(data if name.lower().endswith(".tar") else gzip.compress(data))
    table = opened(tmp_path / name)
    assert rows(table) == [("a", 1, "one"), ("deep.er/b", 2, "two"), (long, 3, "three")]
    assert table.row_count == 3


def test_pax_headers_name_members_in_any_script(tmp_path: Path) -> None:
    key = f"größe/{'ä' * 150}/日本語{'x' * 200}"
    with tarfile.open(
        tmp_path / "s.tar.gz", "w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "größe"}
    ) as tar:
        for name, data in ((f"{key}.png", RED), (f"{key}.txt", "ein Bild 🟥".encode())):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = len(data), 1234567.5, "jürgen"
            info.pax_headers = {"SCHILY.xattr.user.x": "ö\n9 path=b\n"}
            tar.addfile(info, io.BytesIO(data))
    assert rows(opened(tmp_path / "s.tar.gz")) == [(key, len(RED), "ein Bild 🟥")]


def test_any_number_of_pax_headers_takes_the_memory_of_one() -> None:
    size, count = 500_000, 40
    headers = bytearray()
    for number in range(count):
        record = b"%d k%d=" % (size, number)
        info = tarfile.TarInfo("x")
        info.type, info.size = tarfile.XHDTYPE, size
        headers += info.tobuf(tarfile.USTAR_FORMAT) + record + b"a" * (size - len(record) - 1) + b"\n"
        headers += bytes(-size % 512)
    whole = bytes(headers) + tarfile.TarInfo("a.txt").tobuf() + bytes(1024)
    tracemalloc.start()
    found = list(TarStream(io.BufferedReader(io.BytesIO(whole)), "s.tar").members())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [("a.txt", 0)]
    assert peak < 10 * size


@pytest.mark.parametrize(
    ("members", "caption"),
    [
        ({"txt": b"t", "caption": b"c", "json": b'{"caption": "j", "text": "k"}'}, "t"),
        ({"caption": b"c", "json": b'{"caption": "j", "text": "k"}'}, "c"),
        ({"json": b'{"text": "k", "caption": "j"}'}, "j"),
        ({"json": b'{"text": "k", "caption": null}'}, "k"),
        ({"txt": b" \n", "json": b'{"text": "k"}'}, "k"),
        ({"json": b'{"caption": 5, "text": "k"}'}, "5"),  # a number is its text, as in any table
        ({"json": b'{"caption": true, "text": "k"}'}, "k"),
        ({"txt": b"\xef\xbb\xbft"}, "t"),
        ({"txt": b"t", "json": b"not JSON"}, "t"),
    ],
)
def test_the_caption_is_the_first_of_four(tmp_path: Path, members: dict[str, bytes], caption: str | None) -> None:
    given = [("a.png", RED), *((f"a.{ending}", data) for ending, data in reversed(members.items()))]
    assert rows(opened(write_tar(tmp_path / "s.tar", given))) == [("a", len(RED), caption)]


def test_the_fields_of_the_json_become_columns(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "s.tar",
        [
            *sample("a", "red", "red", json=b'{"caption": "other", "width": 3, "sizes": [1], "__key__": "mine"}'),
            *sample("b", "red", "red", json=b'{"width": 0.5, "half": "\\ud800"}'),
            *sample("c", "red", "red"),
        ],
    )
    table = opened(tmp_path / "s.tar")
    assert table.columns == ["__key__", "caption", "width", "sizes", "half"]
    (part,) = table.read(0, 10)
    assert [json.loads(text) for text in part.objects()] == [
        {"__key__": "a", "caption": "red", "width": 3, "sizes": [1]},
        {"__key__": "b", "caption": "red", "width": 0.5, "half": "?"},
        {"__key__": "c", "caption": "red"},
    ]
    assert part.arrow().to_pydict()["sizes"] == ["[1]", None, None]


def test_a_sample_that_lacks_something_says_so(tmp_path: Path) -> None:
    members = [
        *sample("fine", "red", "red"),
        ("bare.txt", b"a caption"),
        ("mute.png", RED),
        ("mute.json", b"[]"),
        ("listed.png", RED),
        ("listed.json", b'{"caption": ["red"]}'),
        ("large.png", b"x" * 2000),
        ("large.txt", b"large"),
        ("latin.png", RED),
        ("latin.txt", b"caf\xe9"),
        ("talk.png", RED),
        ("talk.txt", b"x" * (1 << 20) + b"x"),
        ("label.cls", b"3"),
    ]
    found = {key: image for key, image, _ in rows(opened(write_tar(tmp_path / "s.tar", members), max_bytes=1000))}
    assert found == {
        "fine": len(RED),
        "bare": "invalid_url: the sample bare has no image (jpg, jpeg, png, webp, gif, bmp, tif, tiff, avif)",
        "mute": "empty_caption: the sample has no caption; mute.json is not a JSON object",
        "listed": "empty_caption: the sample has no caption: the one in listed.json is of type list, not text",
        "large": "too_many_bytes: large.png has 2,000 bytes, more than 1,000",
        "latin": "corrupt: latin.txt is not UTF-8: unexpected end of data",
        "talk": "too_many_bytes: talk.txt has 1,048,577 bytes, more than 1,048,576",
        "label": "invalid_url: the sample label has no image (jpg, jpeg, png, webp, gif, bmp, tif, tiff, avif)",
    }


def test_links_devices_and_sparse_files_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "/etc/passwd", 0
            tar.addfile(info)
        sparse = tarfile.TarInfo("d.png")
        sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 700
        tar.addfile(sparse, io.BytesIO(b"x" * 700))
        pax = tarfile.TarInfo("e.png")
        pax.size, pax.pax_headers = 3, {"GNU.sparse.major": "1"}
        tar.addfile(pax, io.BytesIO(b"xyz"))
        for name, data in sample("../../z", "red", "red"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert rows(opened(tmp_path / "s.tar")) == [("../../z", len(RED), "red")]


def _bomb(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("a.png")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("damage", "keys", "error"),
    [
        (lambda whole: whole[:600], ["a"], "truncated: s.tar ends at byte 600"),
        (lambda whole: whole[:1000], ["a"], "truncated: s.tar ends at byte 1000"),
        (lambda whole: whole[:2048], ["a", None], "truncated: s.tar ends at byte 2048 without an end mark"),
        (lambda whole: whole[:2100], ["a", None], "truncated: s.tar ends at byte 2100"),
        (lambda whole: whole[:2048] + b"\xff" * 512, ["a", None], "corrupt: s.tar has a damaged header at byte 2048"),
        (lambda _: b"", [None], "truncated: s.tar ends at byte 0 without an end mark"),
        (lambda _: b"<!doctype html>" * 99, [None], "corrupt: s.tar has a damaged header at byte 0"),
        (lambda _: _bomb(tarfile.REGTYPE, 1 << 60), ["a"], "truncated: s.tar ends at byte 512"),
        (lambda _: _bomb(tarfile.XHDTYPE, 1 << 40), [None], "corrupt: s.tar has a damaged header at byte 512"),
        (lambda _: _bomb(tarfile.GNUTYPE_LONGNAME, 1 << 30), [None], "corrupt: s.tar has a damaged header at byte 512"),
        (lambda _: _bomb(tarfile.XHDTYPE, 9) + b"99 path=x".ljust(512, b"\0"), [None], "corrupt: s.tar has a damaged"),
        (lambda _: _bomb(tarfile.XHDTYPE, 4) + b"1 a=".ljust(512, b"\0"), [None], "corrupt: s.tar has a damaged"),
        (lambda _: _bomb(tarfile.XHDTYPE, 10) + b"10 size=-1".ljust(512, b"\0") * 2, [None], "corrupt: s.tar has"),
    ],
)
def test_the_rest_of_a_damaged_shard_is_a_row(
    tmp_path: Path, damage: object, keys: list[str | None], error: str
) -> None:
    whole = make_tar(TWO, tarfile.USTAR_FORMAT)
    assert len(whole) >= 2048
    assert len(RED) <= 512
    (tmp_path / "s.tar").write_bytes(damage(whole))  # type: ignore[operator]
    write_tar(tmp_path / "t.tar", TWO)
    table = opened(tmp_path / "*.tar")
    found = rows(table)
    assert [key for key, _, _ in found] == [*keys, "a", "b"]
    assert table.row_count == len(found)
    assert str(found[len(keys) - 1][1]).startswith(error)
    assert [image for _, image, _ in found[-2:]] == [len(RED), len(make_png("blue"))]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_name_longer_than_a_path_ends_the_shard_with_an_error(tmp_path: Path, kind: int) -> None:
    names = [f"a/{'x' * 4090}.txt", f"b/{'x' * 4091}.txt", "c.txt"]  # the second one has a byte more than is allowed
    (tmp_path / "s.tar").write_bytes(make_tar([("0.txt", b"a"), *((name, b"a") for name in names)], kind))
    found = rows(opened(tmp_path / "s.tar"))
    assert [key for key, _, _ in found] == ["0", names[0].removesuffix(".txt"), None]
    said = r"corrupt: s.tar has a member whose name has 4,097 bytes, more than 4,096, before byte \d+, and is not read"
    assert re.match(said, str(found[2][1]))


def _header(kind: bytes, content: bytes = b"") -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def _sparse(count: int) -> bytes:
    block = bytearray(_header(tarfile.GNUTYPE_SPARSE))
    block[482] = 1  # another block of the header follows
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + (bytes(504) + b"\1" + bytes(7)) * count + bytes(512)


@pytest.mark.parametrize(
    "headers",
    [
        _header(tarfile.DIRTYPE) * 200,
        _header(tarfile.REGTYPE) * 200,  # no suffix, and so no sample
        _header(tarfile.XGLTYPE) * 200,
        _header(tarfile.XHDTYPE, b"4 =\n" * 200),
        _sparse(200),
    ],
)
def test_headers_may_be_many_but_not_far_more_than_samples(
    tmp_path: Path, headers: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_image_similarity.formats.tar._MOST_HEADERS", 150, raising=False)
    one, two = (make_tar([member], tarfile.USTAR_FORMAT)[:1024] for member in (("a.txt", b"a"), ("b.txt", b"b")))
    for content, keys in (
        (one + headers * 3 + two, ["a", "b"]),
        (one + headers * 8 + two, ["a", None]),
        (headers + one, [None]),
    ):
        (tmp_path / "s.tar").write_bytes(content + bytes(1024))
        table = opened(tmp_path / "s.tar")
        found = rows(table)
        assert [key for key, _, _ in found] == keys
        assert table.row_count == len(found)
        if keys[-1] is None:
            assert re.match(r"corrupt: s.tar has far more headers \([\d,]+\) than samples", str(found[-1][1]))


def test_keys_count_as_memory() -> None:
    assert samples.Sample("k" * 5000).size > 5000


def test_damaged_compression_is_told_from_a_cut(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(300_000)
    data = gzip.compress(make_tar([*TWO, ("c.png", noise), ("c.txt", b"c"), *sample("d", "red", "red")]))
    (tmp_path / "s.tgz").write_bytes(data[: len(data) // 2])
    found = rows(opened(tmp_path / "s.tgz"))
    assert [key for key, _, _ in found] == ["a", "b", "c"]
    assert str(found[2][1]).startswith("truncated: s.tgz ends at byte")
    (tmp_path / "s.tgz").write_bytes(data[:150_000] + b"\xff" * 100 + data[150_100:])
    last = rows(opened(tmp_path / "s.tgz"))[-1]
    assert str(last[1]).startswith("corrupt: s.tgz is not valid gzip after byte")
    (tmp_path / "s.tgz").write_bytes(make_tar(TWO))
    assert str(rows(opened(tmp_path / "s.tgz"))[0][1]).startswith("corrupt: s.tgz is not valid gzip after byte 0")


@given(st.integers(0, 8191), st.binary(min_size=1, max_size=600))
def test_no_damage_loses_samples_before_it_or_raises(at: int, damage: bytes) -> None:
    members: list[Member] = [member for key in "abcd" for member in sample(key, "red", key)]
    whole = bytearray(make_tar(members, tarfile.USTAR_FORMAT))
    whole[at : at + len(damage)] = damage
    url = "memory://damaged/s.tar"
    fsspec.filesystem("memory").pipe_file(url, bytes(whole))
    table = opened(url)
    found = rows(table)
    assert len(found) == table.row_count
    complete = at // 2048  # samples of four blocks each
    assert [key for key, _, _ in found[:complete]] == list("abcd")[:complete]
    assert all(image == len(RED) for _, image, _ in found[:complete])


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_reading_from_a_row_on_is_the_rest_of_reading_all(tmp_path: Path, most: int) -> None:
    for shard in range(3):
        write_tar(tmp_path / f"{shard}.tar", [m for i in range(shard + 1) for m in sample(f"{shard}{i}", "red", "x")])
    table = opened(tmp_path / "{0..2}.tar")
    whole = rows(table)
    assert [key for key, _, _ in whole] == ["00", "10", "11", "20", "21", "22"]
    for start in range(len(whole) + 1):
        assert rows(table, start, most) == whole[start:]


def test_img2dataset_writes_other_files_beside_its_shards(tmp_path: Path) -> None:
    for name in ("00000.parquet", "00000_stats.json"):
        (tmp_path / name).write_bytes(b"{}")
    write_tar(tmp_path / "00000.tar", TWO)
    assert [key for key, _, _ in rows(opened(tmp_path))] == ["a", "b"]
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(UsageError, match=r"files that are not tables, such as notes\.md"):
        open_table(str(tmp_path))


def test_a_folder_of_pictures_is_a_table(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for key, colour in (("00001/b", "blue"), ("00000/a", "red"), ("c", "lime")):
        path = root / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_png(colour))
        path.with_suffix(".txt").write_text(colour)
    (root / "00000" / "a.json").write_text('{"width": 3}')
    (root / "c-d.txt").write_text("no picture")
    for name in ("00000.parquet", "00000_stats.json", ".hidden.png", "notes.md"):
        (root / name).write_text("{}")
    table = opened(root)
    (part,) = table.read(0, 10)
    assert part.column("__key__") == ["c-d", "c", "00000/a", "00001/b"]
    assert part.column("__image__")[2] == str(root / "00000" / "a.png")
    assert part.column("caption") == ["no picture", "lime", "red", "blue"]
    assert part.column("width") == [None, None, 3, None]
    before = table.digest
    (root / "c.txt").write_text("grey")
    assert opened(root).digest != before
    before = opened(root).digest
    (root / "00001").rename(root / "renamed")  # its pictures have other keys now
    assert opened(root).digest != before
    (root / "renamed").rename(root / "00001")
    assert opened(root).digest == before
    (root / "pairs.csv").write_text("url,caption\nc.png,lime\n")
    with pytest.raises(UsageError, match="contains the folder"):
        open_table(str(root))


def test_a_link_out_of_a_folder_of_pictures_is_not_its_text(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    for key in ("a", "b", "c"):
        (folder / f"{key}.png").write_bytes(RED)
    (folder / "a.txt").write_text("red")
    (folder / "b.txt").symlink_to("a.txt")
    (folder / "c.txt").symlink_to(tmp_path / "secret.txt")
    table = open_table(str(folder))
    assert isinstance(table, SampleTable)
    table.scan()
    (_, _, first), (_, _, second), (_, image, third) = rows(table)
    assert (first, second, third) == ("red", "red", None)
    assert (
        image
        == "file_not_found: c.txt is a link that leads out of the folder, so its text is not read; put the text itself there"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, the kernel does not tell where a file is")
def test_the_case_of_a_folders_name_does_not_matter_where_the_file_system_ignores_it(tmp_path: Path) -> None:
    for name in ("Photos", "PHOTOS"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("red")
    (tmp_path / "photos").symlink_to("Photos")  # as if the file system ignored the case
    assert samples._text_in(tmp_path / "photos" / "a.txt", tmp_path / "photos") == b"red"
    with pytest.raises(RowError, match="leads out of the folder"):
        samples._text_in(tmp_path / "PHOTOS" / "a.txt", tmp_path / "photos")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, the kernel does not tell where a file is")
@pytest.mark.parametrize(
    ("late", "said"),
    [
        ("link", "a.txt is a link that leads out of the folder"),
        ("link for a moment", "a.txt is a link that leads out of the folder"),
        ("long file", "a.txt has 3,145,728 bytes"),
        ("nothing", "a.txt cannot be read: No such file"),
    ],
)
def test_a_text_that_is_replaced_when_it_is_opened_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str, said: str
) -> None:
    folder, opened = tmp_path / "photos", os.open
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "a.png").write_bytes(RED)
    (folder / "a.txt").write_text("red")

    def late_open(path: Any, *given: Any, **how: Any) -> int:
        if Path(path) != folder / "a.txt":
            return opened(path, *given, **how)
        (folder / "a.txt").unlink()
        if late.startswith("link"):
            (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
        if late == "long file":
            (folder / "a.txt").write_bytes(b"a" * (3 << 20))
        found = opened(path, *given, **how)
        if late == "link for a moment":
            (folder / "a.txt").unlink()
            (folder / "a.txt").write_text("red")
        return found

    monkeypatch.setattr(os, "open", late_open)
    (found,) = read_folder(folder)
    assert found.caption is None
    assert said in str(found.image)


def test_a_link_that_changes_while_it_is_resolved_fails_its_row_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "a.txt").symlink_to("missing.txt")
    (tmp_path / "b.png").write_bytes(RED)
    (tmp_path / "b.txt").write_text("red")

    resolved = os.path.realpath

    def changed(path: Any, **how: Any) -> Any:
        if Path(path).name == "a.txt":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        return resolved(path, **how)

    monkeypatch.setattr(os.path, "realpath", changed)
    first, second = read_folder(tmp_path)
    assert str(first.image) == f"file_not_found: a.txt cannot be read: {os.strerror(errno.EINVAL)}"
    assert second.caption == "red"


def test_columns_are_chosen_where_that_is_unambiguous(tmp_path: Path) -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for columns, chosen in (
        ({"url": pa.string(), "jpg": pa.binary(), "caption": pa.string()}, ("jpg", "caption")),
        ({"image": image, "text": pa.string()}, ("image", "text")),
        ({"url": pa.string(), "sha": pa.binary(), "caption": pa.string()}, ("url", "caption")),
        ({"photo": pa.binary(), "md5": pa.binary(16), "caption": pa.string()}, ("photo", "caption")),
        ({"photo": pa.binary(), "thumb": pa.binary(), "caption": pa.string()}, ("url", "caption")),
        ({"jpg": pa.binary(), "png": pa.binary(), "url": pa.string()}, ("url", "caption")),
        ({"image": pa.string(), "url": pa.string()}, ("url", "caption")),
    ):
        pq.write_table(pa.schema(list(columns.items())).empty_table(), tmp_path / "t.parquet")
        table = ParquetTable([str(tmp_path / "t.parquet")])
        assert choose_columns(table, None, None) == chosen, columns
        assert choose_columns(table, "a", "b") == ("a", "b")


def test_columns_that_may_hold_images_are_named_where_none_is_chosen(tmp_path: Path) -> None:
    columns = {
        "photos": pa.list_(pa.binary()),
        "more": pa.list_(pa.binary()),
        "tags": pa.list_(pa.string()),
        "caption": pa.string(),
    }
    pq.write_table(pa.schema(list(columns.items())).empty_table(), tmp_path / "t.parquet")
    with pytest.raises(
        UsageError, match=r"'url' is missing from .*; photos, more may contain the images: name .* --url-col"
    ):
        score_csv(tmp_path / "t.parquet", tmp_path / "out.csv", Config())


def test_braces_are_expanded_as_shells_do(tmp_path: Path) -> None:
    assert expand_braces("s/{00008..00010}.tar") == ["s/00008.tar", "s/00009.tar", "s/00010.tar"]
    assert expand_braces("{a,b}/{1..2}.tar") == ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]
    assert expand_braces("{3..1}{,x}") == ["3", "3x", "2", "2x", "1", "1x"]
    assert expand_braces("{9..10}") == ["9", "10"]
    assert expand_braces("{x}{}{1..}") == ["{x}{}{1..}"]
    for bomb in ("{0..9999999}", "{0..999}{0..999}{0..999}{0..999}", "{0..99999999999999}"):
        with pytest.raises(UsageError, match="more than"):
            expand_braces(bomb)
    write_tar(tmp_path / "{1..2}.tar", TWO)
    assert opened(tmp_path / "{1..2}.tar").row_count == 2  # a file of just this name
    with pytest.raises(UsageError, match=r"3\.tar does not exist"):
        open_table(str(tmp_path / "{3..4}.tar"))


def test_shards_are_not_written_and_know_no_dialect(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", TWO)
    table = opened(tmp_path / "s.tar")
    with pytest.raises(UsageError, match=r"read but not written; name a table, such as out\.parquet"):
        output_for("out.tar", table, Config().dialect)
    with pytest.raises(UsageError, match="are for CSV and TSV only"):
        open_table(str(tmp_path / "s.tar"), dialect=Dialect(delimiter=";"))
    with pytest.raises(UsageError, match="gzip is the only compression supported"):
        open_table(str(write_tar(tmp_path / "s.tar", TWO).rename(tmp_path / "s.tar.zst")))


def test_a_caption_ends_before_the_end_of_its_file(tmp_path: Path) -> None:
    place = write_tar(tmp_path / "a.tar", [("a.png", RED), ("a.txt", b" a farm\r\n")])
    assert rows(opened(place)) == [("a", len(RED), " a farm")]


def test_a_link_to_nothing_fails_alone(tmp_path: Path) -> None:
    """As in a folder of git-annex or DVC whose files were not all fetched."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(RED)
    (photos / "a.txt").write_text("red")
    (photos / "b.png").symlink_to("missing.png")
    (photos / "b.txt").write_text("red")
    (photos / "c.png").write_bytes(RED)
    (photos / "c.txt").symlink_to("missing.txt")
    (photos / "d.png").write_bytes(RED)
    os.mkfifo(photos / "d.txt")
    (photos / "e.png").symlink_to("e.png")
    (photos / "e.txt").symlink_to("e.txt")  # to itself
    score_csv(photos, tmp_path / "out.csv", Config(model="mini"))
    first, second, third, fourth, fifth = pa.csv.read_csv(tmp_path / "out.csv").to_pylist()
    assert first["similarity"] > 0
    assert second["error"].startswith("file_not_found: ")
    assert third["error"] == "file_not_found: c.txt cannot be read: No such file or directory"
    assert fourth["error"] == "file_not_found: d.txt cannot be read: it is not a regular file"
    assert fifth["error"] == f"file_not_found: e.txt cannot be read: {os.strerror(errno.ELOOP)}"


def test_the_columns_of_shards_are_counted(tmp_path: Path) -> None:
    fields = [json.dumps({f"n{number * 4000 + i}": i for i in range(4000)}).encode() for number in range(3)]
    members = [
        member for number, each in enumerate(fields) for member in ((f"{number}.png", RED), (f"{number}.json", each))
    ]
    write_tar(tmp_path / "few.tar", members[:4])
    assert len(opened(tmp_path / "few.tar").columns) == 8002
    write_tar(tmp_path / "many.tar", members)
    with pytest.raises(TableError, match=r"many\.tar has more than 10,000 columns"):
        opened(tmp_path / "many.tar")
