"""Sets of the hub, from a filled cache and with an unreachable hub: `hf:<owner>/<name>` and `hf://datasets/...`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import datasets
import httpx
import huggingface_hub
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError

from tests.dataset.test_dataset import BLUE, GREEN, RED, row, write
from tests.support.clock import HANG_S
from tests.support.shards import sample, write_tar
from text_image_similarity import Config, LocalEngine, TableError, TableOptions, UsageError, read_dataset, score_csv
from text_image_similarity.dataset import hub
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.formats import hub_files, open_table
from text_image_similarity.tables import Summary

CONFIG = Config(chunk_size=2)


def score(source: str, target: Path, **given: object) -> Summary:
    return score_csv(source, target, CONFIG, engine=LocalEngine(encoder=ColourEncoder()), **given)  # type: ignore[arg-type]


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache of `datasets` with a set in it, whose folder alone was renamed."""
    files = {
        "train": str(write(tmp_path / "a.parquet", row(BLUE, "b.jpg", "blue"))),
        "test": str(
            write(
                tmp_path / "b.parquet",
                row(RED, "r.jpg", "red"),
                row(None, None, "red"),
                row(GREEN, None, "red"),
                row(b"", "", None),
            )
        ),
    }
    image = datasets.Features({"image": datasets.Image(), "caption_0": datasets.Value("string")})
    cache = tmp_path / "cache"
    datasets.load_dataset("parquet", data_files=files, features=image, cache_dir=str(cache))
    (built,) = (path for path in (cache / "parquet").glob("default-*/*/*") if path.is_dir())
    home = cache / "some___photos" / "default" / "0.0.0" / built.name
    home.parent.mkdir(parents=True)
    built.rename(home)
    for file in home.glob("parquet-*.arrow"):
        file.rename(home / file.name.replace("parquet-", "photos-"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


@pytest.mark.usefixtures("filled")
def test_a_split_in_the_cache_is_a_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has the splits train, test; name one, such as hf:some/photos@train"):
        score("hf:some/photos", tmp_path / "out.parquet")
    with pytest.raises(UsageError, match="has no split 'dev'"):
        score("hf:some/photos@dev", tmp_path / "out.parquet")
    summary = score("hf:some/photos@test", tmp_path / "out.parquet", col_text="caption_0")
    found = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert found["image"][0] == {"bytes": RED, "path": "r.jpg"}
    assert found["similarity"] == [1.0, None, 0.0, None]
    assert summary.failures == {"empty_caption": 1, "invalid_url": 1}
    score(
        "hf:some/photos:default@test",
        tmp_path / "other.csv",
        col_text="caption_0",
        options=TableOptions(drop_columns=("image",)),
    )
    assert (tmp_path / "other.csv").read_text().splitlines()[:2] == ["caption_0,similarity,error", "red,1.0,"]
    with pytest.raises(UsageError, match="is one table; name a file"):
        score("hf:some/photos@test", tmp_path, col_text="caption_0")
    assert [image.captions for image in read_dataset("hf:some/photos@test")] == [("red",), ("red",)]


def test_a_set_that_cannot_be_had_is_known_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(TableError, match="some/photos is not in the local cache and the hub cannot be reached"):
        score("hf:some/photos@test", tmp_path / "out.parquet")
    with pytest.raises(UsageError, match="is not the name of a data set"):
        score("hf:@test", tmp_path / "out.parquet")


@pytest.fixture
def snapshot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's cache with one data set in it, as `hf download` leaves it."""
    home = tmp_path / "hub" / "datasets--some--shards"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc123")
    folder = home / "snapshots" / "abc123"
    (folder / "data").mkdir(parents=True)
    for number in range(2):
        write_tar(folder / "data" / f"{number}.tar", sample(f"{number}", "red", "red"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


def test_files_of_the_hub_are_read_from_its_cache(tmp_path: Path, snapshot: Path) -> None:
    for place in ("data/{0..1}.tar", "data/*.tar", "data"):
        assert score(f"hf://datasets/some/shards/{place}", tmp_path / "out.csv").scored == 2
    assert open_table("hf://datasets/some/shards@abc123/data/0.tar").files == [str(snapshot / "data" / "0.tar")]
    with pytest.raises(UsageError, match=r"none\.tar does not exist"):
        open_table("hf://datasets/some/shards/none.tar")
    for name in ("some/others", "some/shards@other"):
        with pytest.raises(TableError, match="not in the hub's cache and the hub cannot be reached"):
            open_table(f"hf://datasets/{name}/x.tar")


def test_a_hub_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, snapshot: Path) -> None:
    from threading import Event

    over = Event()
    monkeypatch.setattr(hub_files, "PROBE_S", 0.05)
    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: over.wait(HANG_S))
    assert open_table("hf://datasets/some/shards/data/0.tar").files == [str(snapshot / "data" / "0.tar")]
    over.set()


def test_a_set_that_the_hub_does_not_have_is_told_from_a_hub_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        request = httpx.Request("GET", "https://huggingface.co/api/datasets/some/typo")
        raise RepositoryNotFoundError("404: no such repository", response=httpx.Response(404, request=request))

    monkeypatch.setattr(HfApi, "dataset_info", missing)
    with pytest.raises(UsageError, match="the hub has no readable data set some/typo"):
        open_table("hf://datasets/some/typo/x.parquet")


def test_a_hub_within_reach_is_read_through_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: None)
    assert hub_files.local_or_url("hf://datasets/some/shards/x.tar") == "hf://datasets/some/shards/x.tar"
    assert hub_files.local_or_url("hf://buckets/some/x.tar") == "hf://buckets/some/x.tar"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub with the data set `some/photos`, whose files are in a folder; the library `datasets` must not look at it."""

    def download(name: str, file: str, **_: object) -> str:
        if not (tmp_path / "repository" / file).is_file():
            raise RemoteEntryNotFoundError(
                "404", response=httpx.Response(404, request=httpx.Request("GET", "http://x"))
            )
        return str(tmp_path / "repository" / file)

    def load(*_: object, **__: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: SimpleNamespace(sha="abc123"))
    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    (tmp_path / "repository").mkdir()
    return tmp_path / "repository"


@pytest.mark.parametrize("file", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "stated",
    [
        "data_files: /home/private/*.csv",
        "data_files: http://169.254.169.254/latest/meta-data/a.csv",
        "data_files: [a.csv, 'zip://*.csv::http://x/a.zip']",
        "data_files: [{split: train, path: [a.csv, ../../other/photos@main/a.csv]}]",
        r"data_files: '\\\\evil\\share\\a.csv'",
        "data_files: 'C:/a.csv'",
        "data_files: hf://datasets/other/photos/a.csv",
        "data_dir: /home/private",
    ],
)
def test_a_data_set_names_only_files_of_its_own_repository(file: str, stated: str, online: Path) -> None:
    text = f"configs:\n- config_name: default\n  data_files: a.csv\n- config_name: b\n  {stated}\n"
    (online / file).write_text(f"---\n{text}---\n" if file == "README.md" else text)
    for source in ("some/photos", "hf:some/photos"):
        with pytest.raises(
            TableError, match=r"names the data file .* not in its own repository; name files of the data"
        ):
            read_dataset(source)
    (online / file).write_text((online / file).read_text().replace(stated, "data_files: data/train-*.parquet"))
    with pytest.raises(TableError, match="asked"):
        read_dataset("some/photos")


_ALIASES = ["a0: &a0 {k: 1}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 30))]


@pytest.mark.parametrize("file", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "stated",
    [
        *("\n".join(_ALIASES[:levels]) for levels in (8, 30)),
        "a: &a [*a]",
        "a: 1" + ":1" * 2_100,
        'a: !!int "1' + ":1" * 2_100 + '"',
        "a: !!float |-\n  1" + ":1" * 2_100,
        "a: " + "[" * 100_000,
        "a: " + "x" * hub._MOST_CARD,
    ],
)
def test_metadata_that_would_fill_the_memory_is_refused(
    file: str, stated: str, online: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(text: str) -> None:
        raise AssertionError(f"loaded {len(text)} characters")

    monkeypatch.setattr(yaml, "safe_load", load)
    (online / file).write_text(f"---\n{stated}\n---\n" if file == "README.md" else stated)
    with pytest.raises(
        TableError, match=f"data set some/photos cannot be read: its {file} is larger than 4 MiB .*; use"
    ):
        read_dataset("some/photos")


@pytest.mark.parametrize("file", ["README.md", ".huggingface.yaml"])
def test_a_few_aliases_are_read(file: str, online: Path) -> None:
    text = f"title: {'A long title. ' * 400}\na: &a {{data_files: /etc/a.csv}}\nb: [*a, *a]\nconfigs:\n- <<: *a\n  config_name: default\n"
    (online / file).write_text(f"---\r\n{text}---\r\nhello" if file == "README.md" else text)
    with pytest.raises(TableError, match=r"names the data file '/etc/a\.csv'"):
        read_dataset("some/photos")
    (online / file).write_text("---\n---\nhello\n" if file == "README.md" else "")
    with pytest.raises(TableError, match="asked"):
        read_dataset("some/photos")


@pytest.mark.parametrize("file", ["/etc/a.csv", "http://x/a.csv", "hf://datasets/some/photos@other/a.csv"])
def test_files_that_the_library_found_elsewhere_are_not_read(
    file: str, online: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(data_files={"train": ["hf://datasets/some/photos@abc123/a.csv", file]})
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: SimpleNamespace(config=found))
    with pytest.raises(TableError, match=f"names the data file '{file}'"):
        read_dataset("some/photos")


def test_a_folder_here_is_not_taken_for_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "photos").mkdir(parents=True)
    (tmp_path / "some" / "photos" / "a.csv").write_text("url,caption\na.jpg,a row of the stranger\n")
    with pytest.raises(
        UsageError, match=r"some/photos is a folder here.*; write \./some/photos for the folder, or run in"
    ):
        read_dataset("hf:some/photos@train")


def test_nested_images_are_not_opened_by_the_library(tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("a secret")
    nested = datasets.Features({"images": [datasets.Image()], "caption": datasets.Value("string")})
    rows = {"images": [[{"path": str(tmp_path / "private.txt"), "bytes": None}]], "caption": ["red"]}
    builder = SimpleNamespace(
        download_and_prepare=lambda: None, as_dataset=lambda split: datasets.Dataset.from_dict(rows, features=nested)
    )
    ((_, (images,)),) = hub._read_split(builder, "some/photos", "train", ["images"])
    assert images == [{"bytes": None, "path": str(tmp_path / "private.txt")}]
