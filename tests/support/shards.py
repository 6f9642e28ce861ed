"""Tar shards, made member by member."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.support.images import make_png

Member = tuple[str, bytes]


def sample(key: str, colour: str, caption: str | None, **more: bytes) -> list[Member]:
    """Return the members of a picture of one colour with its caption."""
    texts = [] if caption is None else [(f"{key}.txt", caption.encode())]
    return [(f"{key}.png", make_png(colour)), *texts, *((f"{key}.{ending}", data) for ending, data in more.items())]


def make_tar(members: Iterable[Member], kind: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def write_tar(path: Path, members: Iterable[Member]) -> Path:
    """Write a shard, compressed if its name says so."""
    data = make_tar(members)
    path.write_bytes(data if path.suffix == ".tar" else gzip.compress(data))
    return path
