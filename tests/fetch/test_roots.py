"""References of a table lead under one folder, and what they lead to elsewhere is not told."""

from __future__ import annotations

import os
import re
import sys
from hashlib import sha256
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
from huggingface_hub import constants

from text_image_similarity import Config
from text_image_similarity.client.pairs import Pairs
from text_image_similarity.decode.formats import sniff
from text_image_similarity.errors import ErrorCode, RowError, UsageError
from text_image_similarity.fetch import Fetcher, roots
from text_image_similarity.fetch.roots import is_under
from text_image_similarity.files import network_share, on_other_share
from text_image_similarity.formats import with_base_dir
from text_image_similarity.records import Record, ScoreResult
from text_image_similarity.tables.failures import FailureWatch

SECRET = b"the secret of this machine"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "table"
    (folder / "in").mkdir(parents=True)
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (folder / "in" / "near.txt").write_bytes(SECRET)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "out").symlink_to(tmp_path)
    (folder / "near.txt").symlink_to("in/near.txt")
    return folder / "pairs.csv"


def references(table: Path) -> list[str]:
    outside = table.parents[1] / "secret.txt"
    return [
        "../secret.txt",
        "in/../../secret.txt",
        str(outside),
        outside.as_uri(),
        "../table/../nothing.txt",
        "../nothing.txt",
        "link.txt",
        "out/secret.txt",
    ]


@pytest.mark.parametrize("number", range(8))
def test_a_reference_that_leaves_the_tables_folder_is_refused(table: Path, number: int) -> None:
    fetcher = Fetcher(with_base_dir(Config(), str(table)))
    with pytest.raises(RowError, match="--files-under") as caught:
        fetcher.fetch(references(table)[number])
    assert caught.value.code is ErrorCode.FILE_NOT_FOUND
    assert "secret of" not in str(caught.value)


@pytest.mark.parametrize("name", [r"\\evil\share\x.jpg", "//evil/share/x.jpg", r"\\?\UNC\evil\share\x.jpg"])
def test_a_host_that_a_table_names_is_not_asked_for_a_file(name: str) -> None:
    share: Any = PureWindowsPath(name)  # has no files, so that looking for one would raise
    assert not is_under(share, "C:/tables")
    assert network_share(share)
    assert not network_share(PureWindowsPath("C:/tables/x.jpg"))
    assert on_other_share(share, PureWindowsPath("C:/tables"))
    assert on_other_share(share, PureWindowsPath("//own/tables"))
    assert not on_other_share(PureWindowsPath("//own/tables/x.jpg"), PureWindowsPath("//own/tables"))


def test_another_root_allows_them_and_the_folder_itself_is_allowed(table: Path) -> None:
    fetcher = Fetcher(with_base_dir(Config(), str(table)))
    inside = [
        "in/near.txt",
        "in/../in/near.txt",
        str(table.parent / "in" / "near.txt"),
        "near.txt",
    ]
    assert [fetcher.fetch(each) for each in inside] == [SECRET] * 4
    for root in (table.parents[1], "/"):
        elsewhere = Fetcher(with_base_dir(Config(files_under=root), str(table)))
        assert [elsewhere.fetch(each) for each in references(table) if "nothing" not in each] == [SECRET] * 6


def test_a_base_folder_is_the_root_where_nobody_names_one(table: Path) -> None:
    fetcher = Fetcher(with_base_dir(Config(base_dir=table.parent / "in"), str(table)))
    assert fetcher.fetch("near.txt") == SECRET
    with pytest.raises(RowError, match="--files-under / for any"):
        fetcher.fetch("../../secret.txt")


@pytest.mark.parametrize("named", [{}, {"base_dir": True}, {"files_under": True}])
def test_a_table_that_is_in_no_folder_names_files_only_where_that_is_said(
    table: Path, named: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table.parent)
    config = Config(**dict.fromkeys(named, table.parent))  # type: ignore[arg-type]
    fetcher = Fetcher(with_base_dir(config, "s3://bucket/pairs.csv"))
    if named:
        assert fetcher.fetch("in/near.txt") == SECRET
    else:
        with pytest.raises(
            RowError, match=r"--files-under FOLDER .* is named by a table that is not in a folder on this machine"
        ):
            fetcher.fetch("in/near.txt")


def test_a_long_path_does_not_hide_the_option(table: Path) -> None:
    with pytest.raises(RowError, match=r"--files-under FOLDER .*--files-under / for any"):
        Fetcher(with_base_dir(Config(), str(table))).fetch("/" + "\x1b/" * 900)


@pytest.mark.parametrize(
    "form", ["{}x.jpg", "{}../x.jpg", "/{}x.jpg", "../{}x.jpg", "{folder}/{}x.jpg", "file:///{}x.jpg"]
)
def test_a_path_that_no_system_reads_is_refused_before_work_on_it(table: Path, form: str) -> None:
    config = with_base_dir(Config(), str(table))
    reference = form.format("a/" * (3000 if "file:" in form else 500_000), folder=table.parent)
    with pytest.raises(RowError, match=r"file_not_found: the path has [\d,]+ characters, more than 4,096") as caught:
        Fetcher(config).fetch(reference)
    assert len(str(caught.value)) < 100
    with pytest.raises(RowError, match=re.escape(str(caught.value))):
        roots.locate(reference, config)
    assert roots.resolve_reference(reference, table.parent) == reference
    result = Pairs(config).pair(Record(reference, "a caption"))
    assert isinstance(result, ScoreResult)
    assert result.error == str(caught.value)
    with pytest.raises(RowError, match="the reference is base64"):
        Fetcher(config).fetch("iVBORw0KGgo" + "A/" * 500_000)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, the kernel does not tell where a file is")
def test_the_case_of_a_folders_name_does_not_matter_where_the_file_system_ignores_it(tmp_path: Path) -> None:
    for name in ("Photos", "PHOTOS"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(SECRET)
    root = tmp_path / "photos"
    root.mkdir()
    roots._folders(str(root))  # remembers that this folder's own path ends in "photos"
    root.rmdir()
    root.symlink_to("Photos")  # as if the file system ignored the case
    fetcher = Fetcher(Config(files_under=root))
    assert fetcher.fetch(str(root / "a.jpg")) == SECRET
    with pytest.raises(RowError, match="--files-under"):
        fetcher.fetch(str(tmp_path / "PHOTOS" / "a.jpg"))


def test_records_that_no_table_holds_name_any_file(table: Path) -> None:
    assert Fetcher(Config()).fetch(references(table)[2]) == SECRET


def test_files_in_the_hub_s_cache_are_links_to_their_neighbours(tmp_path: Path) -> None:
    home = tmp_path / "datasets--somebody--photos"
    snapshot = home / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "blobs" / "1").write_bytes(SECRET)
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (snapshot / "a.jpg").symlink_to("../../blobs/1")
    (snapshot / "b.jpg").symlink_to("../../../secret.txt")
    fetcher = Fetcher(with_base_dir(Config(), str(snapshot / "pairs.csv")))
    assert fetcher.fetch("a.jpg") == SECRET
    with pytest.raises(RowError, match="--files-under"):
        fetcher.fetch("b.jpg")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the hub's caches, which is a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    home = tmp_path / "link"
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    for name in ("HF_DATASETS_CACHE", "HF_DATASETS_DOWNLOADED_DATASETS_PATH", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return home


def unpacked(snapshot: Path, archive: str, downloads: Path) -> Path:
    """Return a file from an archive of a snapshot, unpacked as the library `datasets` does."""
    (snapshot / archive).parent.mkdir(parents=True, exist_ok=True)
    (snapshot / archive).touch()
    folder = downloads / "extracted" / sha256(bytes(snapshot / archive)).hexdigest()
    folder.mkdir(parents=True)
    (folder / "b.jpg").write_bytes(SECRET)
    return folder / "b.jpg"


def test_a_set_is_walked_once_however_many_archives_are_looked_for(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, mine = (
        cache / "hub" / f"datasets--{name}" / "snapshots" / ("a" * 40) for name in ("somebody--photos", "me--private")
    )
    downloads = cache / "datasets" / "downloads"
    places = [unpacked(theirs, f"data/{number}.zip", downloads) for number in range(5)]
    others = [unpacked(mine, f"{number}.zip", downloads) for number in range(5)]
    fetcher, scandir, listed = Fetcher(with_base_dir(Config(), "hf:somebody/photos")), os.scandir, []

    def list_folder(path: Any = ".") -> Any:
        listed.append(Path(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", list_folder)
    for place in places:
        assert fetcher.fetch(str(place)) == SECRET
    for place in others:
        with pytest.raises(RowError, match="--files-under"):
            fetcher.fetch(str(place))
    assert listed.count(theirs / "data") == 1
    later = unpacked(theirs, "data/more/later.zip", downloads)  # as when another split is read
    assert fetcher.fetch(str(later)) == SECRET


def test_archives_may_be_unpacked_in_a_folder_of_the_users_choice(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cache / "hub" / "datasets--somebody--photos" / "snapshots" / ("a" * 40)
    monkeypatch.setenv("HF_DATASETS_DOWNLOADED_DATASETS_PATH", str(tmp_path / "large disk"))
    place = unpacked(snapshot, "a.zip", tmp_path / "large disk")
    assert Fetcher(with_base_dir(Config(), "hf:somebody/photos")).fetch(str(place)) == SECRET


def test_a_folder_that_is_only_named_like_a_set_on_the_hub_has_none_of_its_files(cache: Path, tmp_path: Path) -> None:
    snapshot = cache / "hub" / "datasets--me--private" / "snapshots" / ("a" * 40)
    place = unpacked(snapshot, "a.zip", cache / "datasets" / "downloads")
    folder = tmp_path / "datasets--me--private"
    folder.mkdir()
    with pytest.raises(RowError, match="--files-under"):
        Fetcher(with_base_dir(Config(), str(folder / "pairs.csv"))).fetch(str(place))
    assert Fetcher(with_base_dir(Config(), "hf:me/private")).fetch(str(place)) == SECRET


@pytest.mark.parametrize("through_link", [False, True])
def test_a_set_on_the_hub_names_files_of_its_own_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through_link: bool
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    home = tmp_path / ("link" if through_link else "real")
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    for name in ("HF_DATASETS_CACHE", "HF_DATASETS_DOWNLOADED_DATASETS_PATH", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    (home / "token").write_bytes(SECRET)
    places = {}
    for name in ("somebody--photos", "me--private"):
        own = home / "hub" / f"datasets--{name}"
        snapshot = own / "snapshots" / ("a" * 40)
        for folder in (snapshot, own / "blobs"):
            folder.mkdir(parents=True)
        (own / "blobs" / "1").write_bytes(SECRET)
        for file in ("a.jpg", "a.zip"):
            (snapshot / file).symlink_to("../../blobs/1")
        unpacked = home / "datasets" / "downloads" / "extracted" / sha256(bytes(snapshot / "a.zip")).hexdigest()
        unpacked.mkdir(parents=True)
        (unpacked / "b.jpg").write_bytes(SECRET)
        places[name] = (snapshot / "a.jpg", unpacked / "b.jpg")
    fetcher = Fetcher(with_base_dir(Config(), "hf:somebody/photos:default@train"))
    for place in places["somebody--photos"]:
        assert fetcher.fetch(str(place)) == SECRET
    assert fetcher.fetch(f"snapshots/{'a' * 40}/a.jpg") == SECRET
    others = ["../../token", str(home / "token"), "../datasets--me--private/blobs/1", *map(str, places["me--private"])]
    for reference in others:
        with pytest.raises(RowError, match="--files-under"):
            fetcher.fetch(reference)


def test_content_is_not_quoted_and_goes_to_no_service(table: Path) -> None:
    with pytest.raises(RowError) as caught:
        sniff(SECRET)
    assert "secret" not in str(caught.value)
    result = Pairs(with_base_dir(Config(), str(table))).pair(Record("in/near.txt", "a caption"))
    assert isinstance(result, ScoreResult)
    assert result.error == "not_an_image: the content is text"


def test_a_job_whose_first_rows_may_not_be_read_ends(table: Path) -> None:
    config = with_base_dir(Config(), str(table))
    results = []
    for reference in references(table):
        with pytest.raises(RowError) as caught:
            Fetcher(config).fetch(reference)
        results.append(ScoreResult.failed(caught.value))
    with pytest.raises(UsageError, match="--files-under"):
        FailureWatch(config, ("url", "caption")).look_at(results)
    FailureWatch(config, ("url", "caption")).look_at([*results, ScoreResult(similarity=0.5)])


def test_an_error_does_not_tell_what_exists_elsewhere(table: Path) -> None:
    fetcher = Fetcher(with_base_dir(Config(), str(table)))
    outside = str(table.parents[1])
    (table.parents[1] / "dir").mkdir()
    for name, missing in (
        (f"{outside}/secret.txt".replace("/", "%2F"), f"{outside}/absent.txt".replace("/", "%2F")),
        ("..\\secret.txt", "..\\absent.txt"),
        ("OUT/secret.txt", "OUT/absent.txt"),
        ("../secret.txt/../table/no.txt", "../absent.txt/../table/no.txt"),
    ):
        said = []
        for reference in (name, missing):
            with pytest.raises(RowError) as caught:
                fetcher.fetch(reference)
            said.append(str(caught.value).replace("secret", "absent"))
        assert said[0] == said[1]
    for folder in ("dir", "no_dir"):
        assert fetcher.fetch(f"../{folder}/../table/in/near.txt") == SECRET
    with pytest.raises(RowError, match=r"upper and lower case differ: .*in/near.txt exists"):
        fetcher.fetch("in/NEAR.txt")
