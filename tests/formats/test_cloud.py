"""Tables in an object store: moto's S3 server on the loopback, through fsspec and s3fs as users have them."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from tests.support.images import make_png
from text_image_similarity import Config, LocalEngine, TableError, UsageError, score_csv
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.formats import open_table
from text_image_similarity.formats.storage import reading

CONFIG = Config(
    batch_size=4, io_workers=2, retries=0, chunk_size=3, files_under="/"
)  # the pictures lie here, the tables do not


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    store.mkdir("pairs")
    yield store
    store.rm("pairs", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def table(folder: Path, rows: int) -> bytes:
    (folder / "red.png").write_bytes(make_png("red"))
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["id", "url", "caption"], *([i, folder / "red.png", "red"] for i in range(rows))])
    return text.getvalue().encode()


def test_a_table_goes_from_the_store_to_the_store(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe("pairs/in/a.csv", table(tmp_path, 4))
    bucket.pipe("pairs/in/b.csv", table(tmp_path, 5))
    for source in ("s3://pairs/in", "s3://pairs/in/*.csv"):
        summary = score_csv(source, "s3://pairs/out.parquet", CONFIG, engine=LocalEngine(encoder=ColourEncoder()))
        assert (summary.rows, summary.scored) == (9, 9)
    with bucket.open("pairs/out.parquet") as file:
        scored = pq.read_table(file)
    assert scored["id"].to_pylist() == ["0", "1", "2", "3", "0", "1", "2", "3", "4"]
    assert scored["similarity"].to_pylist() == [1.0] * 9
    assert bucket.exists("pairs/out.parquet.summary.json")
    assert list((tmp_path / "cache").rglob("part-*")) == []


def test_a_run_to_the_store_goes_on(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe("pairs/in.csv", table(tmp_path, 10))

    def interrupt(done: int, failed: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_csv(
            "s3://pairs/in.csv",
            "s3://pairs/out.csv.gz",
            CONFIG,
            engine=LocalEngine(encoder=ColourEncoder()),
            progress=interrupt,
        )
    assert not bucket.exists("pairs/out.csv.gz")
    seen: list[int] = []
    score_csv(
        "s3://pairs/in.csv",
        "s3://pairs/out.csv.gz",
        CONFIG,
        engine=LocalEngine(encoder=ColourEncoder()),
        progress=lambda n, *_: seen.append(n),
    )
    assert seen[0] == 6
    with bucket.open("pairs/out.csv.gz") as file:
        lines = gzip.decompress(file.read()).decode().splitlines()
    assert len(lines) == 11
    assert lines[0] == "id,url,caption,similarity,error"


@pytest.mark.parametrize("failed", [PermissionError(13, "Forbidden"), ValueError("Unable to locate credentials")])
def test_a_store_that_wants_credentials_says_which(failed: Exception) -> None:
    with (
        pytest.raises(TableError, match=r"s3://pairs/in.csv cannot be read: .*; check the credentials"),
        reading("s3://pairs/in.csv"),
    ):
        raise failed
    with pytest.raises(TableError) as found, reading("in.csv"):
        raise PermissionError(13, "Permission denied")
    assert str(found.value) == "in.csv cannot be read: Permission denied"


def test_what_is_not_there_is_told(bucket: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"s3://pairs/none.csv does not exist; check the bucket and the path"):
        score_csv("s3://pairs/none.csv", tmp_path / "out.csv", CONFIG, engine=LocalEngine(encoder=ColourEncoder()))
    bucket.pipe("pairs/in.csv", table(tmp_path, 1))
    with pytest.raises(TableError, match=r"s3://nobucket/out.csv cannot be written"):
        score_csv("s3://pairs/in.csv", "s3://nobucket/out.csv", Config(model="/no/such/model"))
    assert [name for name in bucket.ls("pairs") if "writable" in name] == []
    with pytest.raises(UsageError, match=r"nosuch://x/in.csv is not a URL that fsspec supports"):
        score_csv("nosuch://x/in.csv", tmp_path / "out.csv", CONFIG, engine=LocalEngine(encoder=ColourEncoder()))


def test_a_folder_made_in_the_console_and_odd_names(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe("pairs/in/", b"")
    bucket.pipe("pairs/in/a.csv", table(tmp_path, 2))
    s3fs.S3FileSystem.clear_instance_cache()
    for source in ("s3://pairs/in", "s3://pairs/in/"):
        assert open_table(source).columns == ["id", "url", "caption"]
    bucket.pipe("pairs/odd/a[1]?.csv", table(tmp_path, 2))
    bucket.pipe("pairs/odd/a1x.csv", b"other,columns\n")
    assert open_table("s3://pairs/odd/a[1]?.csv").columns == ["id", "url", "caption"]


def test_partitions_and_folders_in_the_store(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe("pairs/p/day=1/a.parquet", b"")
    bucket.pipe("pairs/q/deep/a.parquet", b"")
    for source in ("s3://pairs/p", "s3://pairs/p/*/*.parquet", "s3://pairs/*/day=1/*.parquet"):
        with pytest.raises(UsageError, match=r"belongs to the partition day=1"):
            open_table(source)
    with pytest.raises(UsageError, match=r'with a pattern such as "s3://pairs/q/\*\*/\*\.parquet"; relative'):
        open_table("s3://pairs/q")


def test_any_other_file_system_will_do(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/t/in.csv", table(tmp_path, 4))
    score_csv("memory://t/in.csv", "memory://t/out.csv", CONFIG, engine=LocalEngine(encoder=ColourEncoder()))
    assert memory.cat("/t/out.csv").decode().splitlines()[1].endswith("red.png,red,1.0,")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("memory://same/in.csv", "memory:///same/in.csv"),
        ("memory://same/*.csv", "memory://same/out.csv"),
        ("memory://same", "memory://same/out.csv"),
    ],
)
def test_an_output_is_no_part_of_the_input_at_a_url_either(tmp_path: Path, source: str, target: str) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/same/in.csv", table(tmp_path, 4))
    with pytest.raises(UsageError, match=r"is also the input|would be part of the input"):
        score_csv(source, target, CONFIG, engine=LocalEngine(encoder=ColourEncoder()))
    assert memory.cat("/same/in.csv") == table(tmp_path, 4)
