"""Someone who may write to the folder of an output swaps folders while files are written; nothing elsewhere changes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from text_image_similarity import (
    Config,
    DatabaseError,
    TableError,
    UsageError,
    filter_table,
    folders,
    open_catalog,
    score_csv,
)
from text_image_similarity.encoders import onnx_export
from text_image_similarity.export.staging import whole_folder
from text_image_similarity.files import open_own, place_of, whole_file, write_whole
from text_image_similarity.folder_lock import FolderLock
from text_image_similarity.folders import links, owners, private
from text_image_similarity.search.match_log import open_match_log
from text_image_similarity.tables import filter as filter_module
from text_image_similarity.tables.places import work_folder
from text_image_similarity.tables.scored_rows import KeptRows
from text_image_similarity.training.checkpoint import only_one_in
from text_image_similarity.workspace import Part, Workspace

POSIX = pytest.mark.skipif(os.name == "nt", reason="on Windows, a file's owner and its writers are not looked up")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what was abandoned a moment ago be deleted, as a process does that has not written anything yet."""
    monkeypatch.setattr(private, "_ABANDONED_S", 0)
    monkeypatch.setattr(private, "_SEARCHED", set())


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder of files that must stay as they are."""
    home = tmp_path / "home"
    home.mkdir()
    names = ["output", "holder.json", "lock", "part-rows.partial", "part-scores.partial", "out.csv", "config.json"]
    for name in names:
        (home / name).write_text("precious")
    yield home
    assert {path.name: path.read_text() for path in home.iterdir()} == dict.fromkeys(names, "precious")


def swap(folder: Path, by: Path) -> None:
    folder.rename(folder.with_name(".moved"))
    folder.symlink_to(by)


def test_a_temporary_file_is_out_of_reach(shared: Path, home: Path) -> None:
    def write() -> None:
        with whole_file(shared / "out.csv") as partial:
            (outer,) = shared.iterdir()
            assert os.name == "nt" or outer.stat().st_mode & 0o077 == 0
            swap(outer, home)
            partial.write_text("ours")

    with pytest.raises(UsageError, match="was replaced or removed while"):
        write()
    assert not (shared / "out.csv").exists()
    assert list((shared / ".moved").iterdir())


def test_whoever_puts_a_folder_in_the_place_learns_no_name(shared: Path) -> None:
    def write() -> None:
        with whole_file(shared / "out.csv") as partial:
            (outer,) = shared.iterdir()
            outer.rename(shared / ".moved")
            outer.mkdir()
            (outer / "precious").touch()
            partial.write_text("ours")

    with pytest.raises(UsageError, match="was replaced or removed while"):
        write()
    (outer,) = (path for path in shared.iterdir() if path.name != ".moved")
    assert [path.name for path in outer.iterdir()] == ["precious"]


def test_a_folder_that_is_swapped_at_once_is_noticed(shared: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = Path.mkdir

    def beaten(path: Path, *given: Any, **how: Any) -> None:
        mkdir(path, *given, **how)
        if path.parent == shared:
            swap(path, home)

    monkeypatch.setattr(Path, "mkdir", beaten)
    with pytest.raises(UsageError, match="is a link"):
        write_whole(shared / "out.csv", "ours")


def test_new_files_have_the_usual_mode_and_leave_nothing_behind(shared: Path) -> None:
    (shared / "plain").touch()
    with whole_file(shared / "out.csv") as partial:
        partial.write_text("ours")
        partial.chmod(0o600)
    assert (shared / "out.csv").stat().st_mode == (shared / "plain").stat().st_mode
    assert {path.name for path in shared.iterdir()} == {"plain", "out.csv"}


def test_a_link_to_a_folder_below_is_refused(shared: Path) -> None:
    """That folder could become a link after the check."""
    (shared / "below").mkdir()
    (shared / "out.csv").symlink_to("below/out.csv")
    with pytest.raises(UsageError, match=r"out\.csv is a link to .*, which is not in its folder"):
        place_of(shared / "out.csv")


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_files_with_another_name_are_not_written_to(shared: Path, home: Path, link: object) -> None:
    link(home / "output", shared / "file")  # type: ignore[operator]
    with open_own(shared / "file", "w") as file:
        file.write("ours")
    assert (shared / "file").read_text() == "ours"


@pytest.mark.parametrize("when", ["scores", "rows"])
def test_filter_writes_into_its_own_folder_only(
    shared: Path, home: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    table = shared / "in.csv"
    table.write_text("url,similarity\n" + "a.png,0.5\n" * 3)
    parts = shared / "out.csv.parts"
    if when == "scores":
        opened = filter_module.open_scored  # type: ignore[attr-defined]

        def beaten(*given: object) -> object:
            swap(parts, home)
            return opened(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(filter_module, "open_scored", beaten)
    else:
        read = KeptRows.parts

        def late(*given: object) -> object:
            swap(parts, home)
            return read(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(KeptRows, "parts", late)
    with pytest.raises(UsageError, match=r"out\.csv\.parts is a link"):
        filter_table(table, shared / "out.csv", min_score=0.1)
    assert not (shared / "out.csv").exists()


def test_the_hash_of_an_output_is_not_written_elsewhere(shared: Path, home: Path) -> None:
    with Workspace(shared / "parts", "out.csv", "csv") as work:
        swap(shared / "parts", home)
        with pytest.raises(UsageError, match="is a link"):
            work.placing("hash")


@pytest.mark.parametrize("own", [True, False])
def test_a_lock_is_released_without_deleting_anything_elsewhere(shared: Path, home: Path, own: bool) -> None:
    lock = FolderLock(shared / "model", "model", own=own)
    lock.acquire()
    swap(shared / "model", home)
    with pytest.raises(UsageError):
        lock.remove()
    lock.release()


def test_a_lock_is_not_acquired_elsewhere(shared: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = FolderLock._pin

    def beaten(lock: FolderLock, held: object) -> None:
        pin(lock, held)  # type: ignore[arg-type]
        swap(shared / "parts", home)

    monkeypatch.setattr(FolderLock, "_pin", beaten)
    with pytest.raises(UsageError, match="is a link"):
        FolderLock(shared / "parts", "out.csv", own=True).acquire()


def test_an_export_is_not_written_elsewhere(shared: Path, home: Path) -> None:
    def write() -> None:
        with whole_folder(shared / "model", replaces=lambda _: False) as made:
            (outer,) = shared.iterdir()
            outer.rename(shared / ".moved")
            outer.mkdir()
            (outer / "whole").symlink_to(home)
            (made / "config.json").write_text("ours")

    with pytest.raises(UsageError, match="was replaced or removed while"):
        write()
    assert (shared / ".moved").is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, no path leads to a folder that was moved")
def test_files_of_a_pinned_folder_are_written_there(shared: Path, home: Path) -> None:
    (shared / "model").mkdir()
    with folders.pinned(shared / "model", own=False) as inside:
        with whole_file(inside / "output") as partial:
            swap(shared / "model", home)
            partial.write_text("ours")
        (inside / "lock").symlink_to(home / "lock")
        with pytest.raises(UsageError, match=rf"{shared}/\.moved/lock is a link to {home}/lock"):
            write_whole(inside / "lock", "ours")
    assert (shared / ".moved" / "output").read_text() == "ours"


def test_a_model_is_not_exported_for_onnx_runtime_elsewhere(
    shared: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_: object, made: Path, **__: object) -> None:
        (outer,) = shared.iterdir()
        swap(outer, home)
        (made / "config.json").write_text("ours")

    for name, fake in (("_write_facts", lambda *_: None), ("write_towers", write), ("_check", lambda *_, **__: None)):
        monkeypatch.setattr(onnx_export, name, fake)
    with pytest.raises(UsageError, match="was replaced or removed while"):
        onnx_export.export(None, shared / "model", int8=False)  # type: ignore[arg-type]
    assert [path.name for path in (shared / ".moved").iterdir()] != []


def test_an_export_is_not_written_through_a_link(shared: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (shared / "model").symlink_to(tmp_path / "empty")
    with pytest.raises(UsageError, match="is a link to"), whole_folder(shared / "model", replaces=lambda _: True):
        pass
    (shared / "model").unlink()
    (shared / ".text-image-similarity-01234567").symlink_to(home)
    with whole_folder(shared / "model", replaces=lambda _: False) as made:
        (made / "config.json").write_text("ours")
    assert [path.name for path in (shared / "model").iterdir()] == ["config.json"]


def test_an_export_deletes_only_what_an_export_has_left(shared: Path) -> None:
    theirs = shared / ".text-image-similarity-01234567"
    (theirs / "work").mkdir(parents=True)
    (theirs / "work" / "lock").write_text("precious")
    left = shared / ".text-image-similarity-89abcdef" / "0123456789abcdef"
    (left / "whole").mkdir(parents=True)
    left.parent.chmod(0o700)
    (left / ".text-image-similarity.lock").touch()
    with whole_folder(shared / "model", replaces=lambda _: False) as made:
        (made / "config.json").write_text("ours")
    assert {path.name for path in shared.iterdir()} == {theirs.name, "model"}
    assert (theirs / "work" / "lock").read_text() == "precious"


@pytest.mark.skipif(os.name == "nt", reason="nothing is deleted there")
@pytest.mark.parametrize(
    "change", ["mode", "second", "name", "lock", "content", "link", "hard link", "owner", "nothing"]
)
def test_a_folder_that_was_given_the_name_of_an_abandoned_one_is_kept(
    shared: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write to the shared folder may rename its folders, but not put anything into a closed one."""
    outer = shared / ".text-image-similarity-00000000"
    inner = outer / ("photographs" if change == "name" else "0123456789abcdef")
    inner.mkdir(parents=True)
    outer.chmod(0o775 if change == "mode" else 0o700)
    lock, thesis = inner / ".text-image-similarity.lock", inner / "thesis.txt"
    lock.touch()
    thesis.write_text("years of work")
    if change == "second":
        shutil.copytree(inner, outer / "fedcba9876543210")
    elif change == "lock":
        lock.unlink()
    elif change == "content":
        lock.write_text("not a lock")
    elif change == "link":
        lock.unlink()
        lock.symlink_to(thesis)
    elif change == "hard link":
        os.link(lock, shared / "other")
    elif change == "owner":
        monkeypatch.setattr(private, "_is_own", lambda _: False)
    before = set(outer.rglob("*"))
    write_whole(shared / "out.csv", "ours")
    assert set(outer.rglob("*")) == (set() if change == "nothing" else before)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give files to others")
@pytest.mark.parametrize("theirs", ["", "0123456789abcdef", "0123456789abcdef/.text-image-similarity.lock"])
def test_a_folder_with_anything_of_another_user_is_kept(shared: Path, theirs: str) -> None:
    outer = shared / ".text-image-similarity-00000000"
    (outer / "0123456789abcdef").mkdir(parents=True)
    outer.chmod(0o700)
    (outer / "0123456789abcdef" / ".text-image-similarity.lock").touch()
    os.chown(outer / theirs, 1002, -1)
    write_whole(shared / "out.csv", "ours")
    assert len(list(outer.rglob("*"))) == 2


def test_what_any_killed_writer_leaves_is_deleted_by_any_other(shared: Path) -> None:
    folders_then: list[Path] = []

    def note() -> None:
        folders_then.extend(path for path in shared.iterdir() if path.is_dir())

    with whole_file(shared / "out.csv"):
        note()
    with whole_folder(shared / "model", replaces=lambda _: False):
        note()
    assert {path.name[:-8] for path in folders_then} == {".text-image-similarity-"}


_HOLD = """
import sys, time
from pathlib import Path
from text_image_similarity.files import whole_file

with whole_file(Path(sys.argv[1])) as partial:
    print(partial.parent.parent.name, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_leaves_is_deleted_by_the_next(
    shared: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared / ".text-image-similarity-01234567").symlink_to(home)
    theirs = shared / ".text-image-similarity-89abcdef" / "0123456789abcdef"
    theirs.mkdir(parents=True)  # without a lock
    (theirs / "file").touch()
    others = {path.name for path in shared.iterdir()}
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(shared / "out.csv")], stdout=subprocess.PIPE) as run:
        try:
            assert run.stdout is not None
            left = shared / run.stdout.readline().decode().strip()
            (inner,) = left.iterdir()
            write_whole(shared / "out.csv", "ours")
            assert (inner / "out.csv").exists(), "a run that is in progress keeps its files"
        finally:
            run.kill()
    assert inner.exists()
    write_whole(shared / "out.csv", "ours")
    assert inner.exists(), "a process looks only once"
    private._SEARCHED.clear()
    monkeypatch.setattr(private, "_ABANDONED_S", 3600)
    write_whole(shared / "out.csv", "ours")
    assert inner.exists(), "it may belong to another computer, whose lock does not hold here"
    private._SEARCHED.clear()
    os.utime(left, (0, time.time() - 3601))
    write_whole(shared / "out.csv", "ours")
    assert {path.name for path in shared.iterdir()} == {*others, "out.csv"}
    assert (theirs / "file").exists()


def test_two_files_are_written_at_once(shared: Path) -> None:
    with whole_file(shared / "out.csv") as partial:
        write_whole(shared / "other.csv", "ours")
        partial.write_text("ours")
    assert {path.name for path in shared.iterdir()} == {"out.csv", "other.csv"}


def test_a_folder_that_is_deleted_before_it_is_locked_is_created_again(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire = FileLock.acquire
    beaten: list[FileLock] = []

    def late(lock: FileLock, *given: Any, **how: Any) -> Any:
        if not beaten:
            beaten.append(lock)
            raise Timeout("lock")
        return acquire(lock, *given, **how)

    monkeypatch.setattr(FileLock, "acquire", late)
    write_whole(shared / "out.csv", "ours")
    assert [path.name for path in shared.iterdir()] == ["out.csv"]


def test_files_are_written_where_there_are_no_locks(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(FileLock, "acquire", fail)
    with whole_file(shared / "out.csv") as partial:
        write_whole(shared / "other.csv", "ours")
        partial.write_text("ours")
    assert {path.name for path in shared.iterdir()} == {"out.csv", "other.csv"}


@pytest.mark.skipif(os.name == "nt", reason="files have no mode there")
def test_no_one_else_may_write_to_a_folder_of_parts(
    shared: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts, before = shared / "parts", os.umask(0o002)
    try:
        with Workspace(parts, "out.csv", "csv"):
            assert parts.stat().st_mode & 0o777 == 0o700
        parts.mkdir()
        (parts / "lock").touch()
    finally:
        os.umask(before)
    assert parts.stat().st_mode & 0o777 == 0o775
    with Workspace(parts, "out.csv", "csv"):
        assert parts.stat().st_mode & 0o777 == 0o755
    assert f"other users could put files into {parts}" in caplog.text

    def fail(path: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, "not permitted", str(path))

    parts.mkdir()
    parts.chmod(0o777)
    monkeypatch.setattr(Path, "chmod", fail)
    with Workspace(parts, "out.csv", "csv"):  # a file system that gives all files to one user
        pass
    parts.mkdir()
    os.chmod(parts, 0o777)  # noqa: PTH101 - see above
    monkeypatch.setattr(owners, "_gives_files_to", lambda *_: False)
    with pytest.raises(UsageError, match=rf"may write to {parts}; run chmod go-w"), Workspace(parts, "out.csv", "csv"):
        pass


def test_hard_links_among_the_parts_are_refused(shared: Path, home: Path) -> None:
    parts = shared / "parts"
    parts.mkdir()
    os.link(home / "output", parts / "lock")
    with pytest.raises(TableError, match=r"parts/lock has another name"), Workspace(parts, "out.csv", "csv"):
        pass
    (parts / "lock").unlink()
    part = Part(number=0, rows=1, digest="", scored=1, failures={}, captions_cut=None, seconds={})
    with Workspace(parts, "out.csv", "csv") as work:
        work.begin({}, {}, restart=False)
        (parts / "manifest.jsonl").unlink()
        os.link(home / "output", parts / "manifest.jsonl")
        with pytest.raises(TableError, match=r"manifest\.jsonl has another name elsewhere .*; remove it"):
            work.commit(part, b"rows")


def test_a_folder_that_appears_during_an_export_is_kept(shared: Path) -> None:
    (shared / "data").mkdir()
    (shared / "data" / "file").write_text("precious")
    export = whole_folder(shared / "model", replaces=lambda path: (path / "manifest.json").exists())
    with pytest.raises(UsageError, match="model already exists"), export:
        (shared / "data").rename(shared / "model")
    assert (shared / "model" / "file").read_text() == "precious"
    assert [path.name for path in shared.iterdir()] == ["model"]


def test_errors_name_the_folder_of_the_parts(shared: Path) -> None:
    (shared / "parts" / "manifest.jsonl").mkdir(parents=True)
    with (
        pytest.raises(TableError, match=r"shared/parts/manifest\.jsonl is not a regular file"),
        Workspace(shared / "parts", "out.csv", "csv"),
    ):
        pass


def enter(place: Path) -> None:
    with only_one_in(place):
        pass


def export_to(place: Path) -> None:
    with whole_folder(place, replaces=lambda _: True):
        pass


DOORS: dict[str, Callable[[Path], object]] = {
    "score": lambda place: score_csv(place.parents[1] / "in" / "*.csv", f"{place}/", Config(model="/no/such/model")),
    "filter": lambda place: filter_table(place.parents[1] / "in" / "a.csv", place / "out.csv", top=1, force=True),
    "output": lambda place: place_of(place / "out.csv"),
    "output below": lambda place: place_of(place / "deep" / ".." / "out.csv"),
    "write": lambda place: write_whole(place / "out.csv", "ours"),
    "parts": lambda place: work_folder("out.csv", place / "below"),
    "lock": lambda place: FolderLock(place, "out.csv").acquire(),
    "train": enter,
    "train below": lambda place: enter(place / "below" / "model"),
    "export": lambda place: export_to(place / "model"),
}


@POSIX
@pytest.mark.parametrize("door", DOORS)
def test_a_link_on_the_way_that_someone_else_may_have_put_there_is_refused(
    shared: Path, home: Path, tmp_path: Path, door: str
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "in" / name).write_text("url,caption,similarity\na.png,a,0.5\n")
    shared.chmod(0o777)
    (shared / "out").symlink_to(home)
    with pytest.raises(UsageError, match=rf"leads through {shared}/out, a link to {home}, which someone else may"):
        DOORS[door](shared / "out")
    mine = tmp_path / "own" / "mine"
    mine.parent.mkdir()
    mine.symlink_to(shared / "out")  # the user's own link leads to one that is not
    with pytest.raises(UsageError, match=rf"leads through {shared}/out, a link to {home}, which someone else may"):
        DOORS[door](mine)


@POSIX
def test_a_catalogue_is_opened_through_a_link_of_those_who_deploy_it(shared: Path, tmp_path: Path) -> None:
    open_catalog(tmp_path / "deployed", fields=[]).close()
    shared.chmod(0o777)
    (shared / "current").symlink_to(tmp_path / "deployed")
    with open_catalog(shared / "current") as catalog:
        assert len(catalog) == 0


@POSIX
@pytest.mark.parametrize(("name", "door"), [("catalog.sqlite", open_catalog), ("log.sqlite", open_match_log)])
def test_a_link_of_someone_else_in_the_place_of_a_catalogues_file_is_refused(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, door: Callable[[Path], Any]
) -> None:
    open_catalog(shared / "c", fields=[]).close()
    open_match_log(shared / "c").close()
    link, private = shared / "c" / name, tmp_path / name
    link.rename(private)
    link.symlink_to(private)
    door(shared / "c").close()  # the link belongs to this user
    give_away(link, monkeypatch)
    with pytest.raises(DatabaseError, match=rf"c/{name} is a link to {private}, which belongs to another user; remove"):
        door(shared / "c")
    private.unlink()
    with pytest.raises((DatabaseError, UsageError)):
        door(shared / "c")
    assert not private.exists()


@POSIX
def test_links_of_those_who_deploy_a_catalogue_are_followed(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_catalog(shared / "c", fields=[]).close()
    (shared / "c" / "catalog.sqlite").rename(shared / "c" / "catalog-2.sqlite")
    (shared / "c" / "catalog.sqlite").symlink_to("catalog-2.sqlite")
    (tmp_path / "current").symlink_to(shared / "c")
    for link in (shared / "c" / "catalog.sqlite", tmp_path / "current"):
        give_away(link, monkeypatch)
    with open_catalog(tmp_path / "current") as catalog:
        assert len(catalog) == 0


def give_away(link: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a link to another user, or let this process be another one, as only root can give anything away."""
    if os.geteuid() == 0:
        os.chown(link, 4321, 0, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4321)


@POSIX
def test_the_links_of_this_user_and_those_beside_their_targets_are_followed(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared / "real").mkdir()
    (shared / "out").symlink_to("real")
    (tmp_path / "mine").symlink_to("shared/out")
    (tmp_path / "again").symlink_to(tmp_path / "mine" / ".." / "real")
    shared.chmod(0o777)
    monkeypatch.chdir(tmp_path)
    for place in (Path("mine"), tmp_path / "again", shared / "out", Path("shared/../mine")):
        assert folders.follow_links(place) == shared / "real"
        write_whole(place / f"{place.name}.csv", "ours")
        with folders.pinned(place, own=False):
            pass
    assert {path.name for path in (shared / "real").iterdir()} == {"mine.csv", "again.csv", "out.csv"}
    root = Path(f"/{tmp_path}")  # as of "$ROOT/data", where ROOT is /
    assert str(folders.follow_links(root / "mine")) == str(shared / "real")
    (tmp_path / "from root").symlink_to(root / "shared" / "out")
    assert str(folders.follow_links(tmp_path / "from root")) == str(shared / "real")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UsageError, match=r"circle leads through more than 40 links, perhaps in a circle"):
        folders.follow_links(tmp_path / "circle")
    assert place_of(tmp_path / "circle") == tmp_path / "circle"  # which an output replaces
    (shared / "to circle").symlink_to(tmp_path / "circle")
    with pytest.raises(UsageError, match=rf"or name {tmp_path}/circle itself"):
        folders.follow_links(shared / "to circle")


@POSIX
def test_a_link_that_leaves_its_folder_by_way_of_another_is_refused(shared: Path, home: Path) -> None:
    """The link looks as if it led to a place beside it, but `..` means the parent of the folder that is reached."""
    (home.parent / "deep" / "data").mkdir(parents=True)
    (shared / "mine").mkdir()
    (shared / "mine" / "data").symlink_to(home.parent / "deep" / "data")
    shared.chmod(0o1777)
    (shared / "out").symlink_to("mine/data/../../home")
    with pytest.raises(UsageError, match="which someone else may have put there"):
        folders.follow_links(shared / "out")


@POSIX
def test_the_folder_of_parts_stays_when_a_link_to_it_is_changed(shared: Path, home: Path) -> None:
    (shared / "real").mkdir()
    (shared / "work").symlink_to("real")
    parts = work_folder("out.csv", shared / "work")
    (shared / "work").unlink()
    (shared / "work").symlink_to(home)
    assert parts.parent == shared / "real"


@POSIX
def test_the_folder_of_a_training_stays_when_a_link_on_the_way_is_changed(shared: Path, home: Path) -> None:
    (shared / "real").mkdir()
    (shared / "work").symlink_to("real")
    with only_one_in(shared / "work" / "model") as lock:
        (shared / "work").unlink()
        (shared / "work").symlink_to(home)
        lock.check()


@POSIX
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give a file away")
def test_who_may_have_put_a_link_into_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, link = tmp_path / "place", tmp_path / "place" / "out"
    place.mkdir()
    link.symlink_to("../elsewhere")
    group = 54321

    def is_followed() -> bool:
        try:
            return folders.follow_links(link) == tmp_path / "elsewhere"
        except UsageError:
            return False

    assert is_followed()
    for mode in (0o757, 0o775, 0o1777):
        os.chown(place, 0, group)
        place.chmod(mode)
        assert not is_followed()
        with monkeypatch.context() as patch:  # such as a Windows drive in WSL, where every file has this mode
            patch.setattr(links, "keeps_modes", lambda _: False)
            assert is_followed()
    with monkeypatch.context() as patch:
        patch.setattr(owners, "TemporaryFile", lambda **_: os.fdopen(os.open("/no/such/file", os.O_RDONLY)))
        assert not is_followed(), "a folder to which this user may not write"
    place.chmod(0o775)
    looked_up: list[int] = []

    def has_only_this_user(number: int) -> bool:
        looked_up.append(number)
        return number == group

    monkeypatch.setattr(links, "_has_only_this_user", has_only_this_user)
    assert is_followed()
    place.chmod(0o755)
    assert is_followed()
    assert looked_up == [group], "a network may be asked for a group only where the group may write"
    os.chown(link, 4321, 0, follow_symlinks=False)
    assert not is_followed()
    os.chown(link, 0, 0, follow_symlinks=False)
    os.chown(place, 4321, group)
    assert not is_followed()


@POSIX
def test_a_group_with_only_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    import grp
    import pwd

    user = pwd.struct_passwd(("ann", "x", 7, 70, "", "/", ""))
    groups = {70: ("ann", []), 71: ("ann", []), 72: ("staff", ["ann"])}
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    monkeypatch.setattr(
        grp, "getgrgid", lambda number: grp.struct_group((groups[number][0], "x", number, groups[number][1]))
    )
    assert [*map(links._has_only_this_user, (70, 71, 72, 73))] == [True, False, False, False]
    groups[70] = ("ann", ["ann", "bob"])
    assert not links._has_only_this_user(70)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, the kernel does not tell where a folder is")
def test_a_folder_that_is_reached_through_a_link_for_a_moment_is_not_used(
    shared: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link stands in the place of the folder while it is opened, but not while it is checked."""
    (shared / "out").mkdir()
    follow = folders.follow_links

    def back(path: Path) -> Path:
        (shared / "out").unlink()
        (shared / ".moved").rename(shared / "out")
        return follow(path)

    swap(shared / "out", home)
    monkeypatch.setattr(private, "follow_links", back)
    with (
        pytest.raises(FileNotFoundError, match="replaced while it was being opened"),
        folders.pinned(shared / "out", own=False),
    ):
        pass
