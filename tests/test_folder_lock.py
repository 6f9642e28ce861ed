"""A lock on a folder, as seen by the process that has to wait for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from text_image_similarity.errors import BusyError
from text_image_similarity.folder_lock import FolderLock


@pytest.mark.parametrize(("before", "holder"), [(0, "process 7 on here since today"), (5000, "another process")])
def test_only_the_start_of_the_holders_note_is_read(before: int, holder: str, tmp_path: Path) -> None:
    """Others who may write to the folder could put gigabytes there."""
    ours, theirs = FolderLock(tmp_path / "parts", "out.csv"), FolderLock(tmp_path / "parts", "out.csv")
    theirs.acquire()
    note = json.dumps({"pid": 7, "host": "here", "since": "today", "command": "score"})
    (tmp_path / "parts" / "holder.json").write_text(" " * before + note)
    with pytest.raises(BusyError, match=rf"out\.csv is being written by {holder}"):
        ours.acquire()
    theirs.release()
