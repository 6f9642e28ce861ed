"""Create the inputs of `--only gpu`: tables of distinct JPEGs by size and format, and models of the exact shapes.

A GPU scores ten thousand pairs per second, so the photos of the other sections recur, each time with a different
comment in the file. To this package, each copy is a different image, which is decoded and encoded again at the same
cost.
"""

from __future__ import annotations

import csv
import io
import shutil
import tarfile
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from text_image_similarity import Record
from text_image_similarity.formats import cells_of, open_table

from .inputs import BUILD

GPU_INPUTS = BUILD / "gpu"
SOURCES = ("files", "Parquet", "tar", "HTTP")
_NAMES = {"files": "files.csv", "HTTP": "files.csv", "Parquet": "bytes.parquet", "tar": "samples.tar"}
_COLUMNS = {
    "files": ("url", "caption"),
    "HTTP": ("url", "caption"),
    "Parquet": ("image", "caption"),
    "tar": ("__image__", "caption"),
}


def make_tables(folder: Path, base: Path, side: int, pairs: int) -> Path:
    """Write the tables of one image size in each format, unless they exist, and return their folder.

    Args:
        folder: The folder that contains one folder per image size.
        base: The folder with `pairs5.csv` and its photos.
        side: The width and height of the images.
        pairs: The number of rows.
    """
    made = folder / f"{side}-{pairs}"
    if made.exists():
        return made
    partial = made.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "photos").mkdir(parents=True)
    rows = list(_rows(base, side, pairs))
    with (
        (partial / "files.csv").open("w", newline="", encoding="utf-8") as file,
        tarfile.open(partial / "samples.tar", "w") as tar,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("url", "caption"))
        for number, (image, caption) in enumerate(rows):
            name = f"photos/{number:06}.jpg"
            (partial / name).write_bytes(image)
            writer.writerow((name, caption))
            for ending, content in (("jpg", image), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:06}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    images, captions = zip(*rows, strict=True)
    table = pa.table({"image": pa.array(images, pa.binary()), "caption": list(captions)})
    pq.write_table(table, partial / "bytes.parquet", compression="none", row_group_size=1000)
    return partial.rename(made)


def records(made: Path, source: str, server: str = "") -> Iterator[Record]:
    """Open a table that `make_tables` wrote, and return an iterator that reads its rows on demand.

    Args:
        made: The folder of the table.
        source: The format of the table.
        server: The address to prepend to the file names of `HTTP`.
    """
    table = open_table(str(made / _NAMES[source]))
    table.scan()  # as a run does at its start
    before = server if source == "HTTP" else f"{made}/" if source == "files" else ""
    return (
        Record(before + image if before else image, caption) for image, caption in cells_of(table, _COLUMNS[source])
    )


def make_large_models(folder: Path) -> None:
    """Write a ViT-L/14 and a SigLIP base with random weights, unless they exist."""
    # Imported here, because it loads torch and transformers, which nothing else here needs.
    from tests.support.models import save_clip, save_siglip

    if not (folder / "vitl14").exists():
        save_clip(_emptied(folder / "vitl14.partial"), full_size=True, large=True).rename(folder / "vitl14")
    if not (folder / "siglip").exists():
        save_siglip(_emptied(folder / "siglip.partial"), full_size=True).rename(folder / "siglip")


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _rows(base: Path, side: int, pairs: int) -> Iterator[tuple[bytes, str]]:
    """Yield `pairs` images with captions: all photos with their first caption, then all of them with the next one."""
    photos = list(_photos(base, side, pairs))
    for number in range(pairs):
        again, place = divmod(number, len(photos))
        image, captions = photos[place]
        caption = captions[again % len(captions)]
        yield _stamped(image, number), caption if again < len(captions) else f"{caption} {number}"


def _photos(base: Path, side: int, most: int) -> Iterator[tuple[bytes, list[str]]]:
    with (base / "pairs5.csv").open(newline="", encoding="utf-8") as file:
        for url, lines in islice(groupby(csv.DictReader(file), lambda row: row["url"]), most):
            content = (base / url).read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                if image.size != (side, side):
                    out = io.BytesIO()
                    image.resize((side, side), Image.Resampling.LANCZOS).save(out, "JPEG", quality=90)
                    content = out.getvalue()
            yield content, [line["caption"] for line in lines]


def _stamped(jpeg: bytes, number: int) -> bytes:
    """Return a JPEG with a comment after its first marker."""
    comment = f"{number:08}".encode()
    return b"".join((jpeg[:2], b"\xff\xfe", (len(comment) + 2).to_bytes(2, "big"), comment, jpeg[2:]))
