"""A table of pictures and captions with faults of many kinds, some of them on a loopback server."""

from __future__ import annotations

import io
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image

from tests.support.paths import ROOT, copy_challenge_set
from tests.support.server import Server, response

Outcome = tuple[float | None, str | None]

_WORDS = [
    "a",
    "red",
    "blue",
    "dog",
    "cat",
    "house",
    "tree",
    "on",
    "the",
    "grass",
    "two",
    "children",
    "playing",
    "at night",
]
_PICTURES = 150


def faulty_table(folder: Path, rows: int, server: Server) -> Path:
    """Write a Parquet table (id, url, caption) of local pictures, data: URLs and a server's; a fifth of it is at fault."""
    rng, random_ = np.random.default_rng(5), random.Random(5)
    good: list[str] = []
    for number in range(_PICTURES):
        width, height = (int(side) for side in rng.integers(40, 200, 2))
        coarse = rng.integers(0, 256, (1 + height // 16, 1 + width // 16, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height))
        body = _encoded(picture, ("JPEG", "PNG", "WEBP")[number % 3])
        if number % 10 == 0:
            server.routes[f"/{number}"] = response(body)
            good.append(server.url(f"/{number}"))
        else:
            (folder / f"{number}.img").write_bytes(body)
            good.append(f"{number}.img")
    whole = (folder / "1.img").read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"this is no picture",
        "cut": whole[: len(whole) // 2],
        "damaged": whole[:30] + bytes(60) + whole[90:],
        "pdf": b"%PDF-1.7 ...",
        "bomb": _encoded(Image.new("1", (9000, 9000)), "PNG"),
    }.items():
        (folder / f"{name}.img").write_bytes(content)
    server.routes["/gone"] = response(status="410 Gone")
    server.routes["/broken"] = response(status="500 Internal Server Error")
    server.routes["/page"] = response(b"<html></html>", content_type="text/html")
    server.routes["/loop"] = response(status="302 Found", location="/loop")
    bad = [
        *(f"{name}.img" for name in ("empty", "text", "cut", "damaged", "pdf", "bomb", "missing")),
        *map(server.url, ("/gone", "/broken", "/page", "/loop", "/nothing")),
        "ftp://example.org/a.png",
        "http://",
        "data:image/png;base64,AAAA",
        "",
        None,
    ]
    urls = [random_.choice(bad if random_.random() < 0.15 else good) for _ in range(rows)]
    captions = [
        None if n % 97 == 0 else " " if n % 89 == 0 else " ".join(random_.choices(_WORDS, k=random_.randint(1, 30)))
        for n in range(rows)
    ]
    path = folder / "pairs.parquet"
    pq.write_table(pa.table({"id": pa.array(range(rows), pa.int64()), "url": urls, "caption": captions}), path)
    return path


def faulty_and_challenge_set(folder: Path, server: Server) -> Path:
    """Write a Parquet table (id, url, caption) of 700 rows with faults and the challenge set; relative URLs start from its folder."""
    copy_challenge_set(folder)
    faulty = pq.read_table(faulty_table(folder, 700, server))
    challenge = pyarrow.csv.read_csv(ROOT / "challenge_set.csv")
    challenge = challenge.add_column(0, "id", pa.array(range(700, 700 + len(challenge)), pa.int64()))
    pq.write_table(pa.concat_tables([faulty, challenge]), folder / "both.parquet")
    return folder / "both.parquet"


def outcome(path: Path) -> dict[int, Outcome]:
    """Return similarity and error code of a scored table by row, each of which is there once."""
    found = pq.read_table(path, columns=["id", "similarity", "error"]).to_pylist()
    assert max(Counter(row["id"] for row in found).values()) == 1
    return {row["id"]: (row["similarity"], row["error"] and row["error"].partition(":")[0]) for row in found}


def _encoded(picture: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()
