"""Local images are read only from the folder that is allowed, even if links change meanwhile."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from text_image_similarity import ErrorCode, RowError
from text_image_similarity.fetch import local, roots
from text_image_similarity.fetch.local import read_file

SECRET = b"not for this table"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where an open file is")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with an image, beside a file that tables may not read."""
    (tmp_path / "secret").write_bytes(SECRET)
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"image")
    return folder


@LINUX
def test_a_link_that_changes_after_the_check_gives_nothing_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = root / "link"
    link.symlink_to(root / "a.png")
    really_open = os.open

    def swap(path: Path, flags: int, access: int) -> int:
        link.unlink()
        link.symlink_to(root.parent / "secret")
        try:
            return really_open(path, flags, access)
        finally:
            link.unlink()
            link.symlink_to(root / "a.png")

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(RowError, match="needs --files-under") as caught:
        read_file(link, root, 100)
    assert caught.value.code is ErrorCode.FILE_NOT_FOUND


@LINUX
def test_the_links_of_a_path_are_resolved_only_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_file(root / "a.png", root, 100)
    monkeypatch.setattr(roots, "is_under", None)
    assert read_file(root / "a.png", root, 100) == b"image"


def test_without_proc_the_path_is_resolved(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(path: Path) -> Path:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "readlink", absent)
    assert read_file(root / "a.png", root, 100) == b"image"
    with pytest.raises(RowError, match="needs --files-under"):
        read_file(root.parent / "secret", root, 100)


@pytest.mark.parametrize("said", [0, 3, 100])
def test_a_file_is_read_whole_whatever_size_is_said(root: Path, said: int, monkeypatch: pytest.MonkeyPatch) -> None:
    really_stat = Path.stat

    def lying(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = really_stat(path, follow_symlinks=follow_symlinks)
        return os.stat_result((*found[:6], said, *found[7:10]))

    monkeypatch.setattr(Path, "stat", lying)
    assert read_file(root / "a.png", root, 1000) == b"image"


def test_a_file_that_grows_is_not_read_far_beyond_the_limit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_PIECE", 10)
    with (root / "a.png").open("wb") as file:
        file.write(b"x" * 1000)
    monkeypatch.setattr(local, "check_bytes", lambda count, most: None)
    assert 100 < len(read_file(root / "a.png", root, 100)) <= 120


def test_a_pipe_is_refused_at_once(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(RowError, match="not a regular file"):
        read_file(root / "pipe", root, 100)


def test_elsewhere_than_on_linux_nothing_is_asked_about_a_file_that_may_not_be_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(roots, "on_other_share", lambda path, folder: True)
    monkeypatch.setattr(os, "open", None)
    monkeypatch.setattr(Path, "stat", asked := Mock(side_effect=FileNotFoundError))
    with pytest.raises(RowError, match="needs --files-under"):
        read_file(root / "a.png", root, 100)
    assert not asked.called
