"""A run that stops goes on: same bytes, nothing scored twice, nobody else's parts."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.images import make_png
from text_image_similarity import Config, Limits, LocalEngine, TableError, UsageError, score_csv
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import BusyError, ConfigError, DeviceLostError, StoppedError
from text_image_similarity.folders import owners
from text_image_similarity.folders.owners import _has_trusted_owner
from text_image_similarity.formats import content_of
from text_image_similarity.formats.delimited import DelimitedTable
from text_image_similarity.preprocess import Pixels
from text_image_similarity.similarity import Embeddings
from text_image_similarity.tables import Summary, TableOptions, filter_table
from text_image_similarity.workspace import Workspace

CONFIG = Config(batch_size=4, io_workers=4, retries=0, chunk_size=10)
ENCODER = ColourEncoder()
ROWS = 95


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    colours = ["red", "blue", "lime", "navy", "tan", "teal", "gold"]
    for colour in colours:
        (tmp_path / f"{colour}.png").write_bytes(make_png(colour))
    lines = [f"{i:03},{'none' if i % 9 == 0 else colours[i % 7]}.png,{colours[i % 5]}" for i in range(ROWS)]
    (tmp_path / "in.csv").write_text("id,url,caption\n" + "\n".join(lines) + "\n")
    return tmp_path


def score(folder: Path, name: str = "out.csv", config: Config = CONFIG, **given: Any) -> Summary:
    return score_csv(
        folder / "in.csv",
        folder / name,
        config,
        engine=LocalEngine(encoder=given.pop("encoder", ENCODER), transport=given.pop("transport", None)),
        **given,
    )


def stop_after(rows: int) -> Callable[[int, int, int], None]:
    def progress(done: int, failed: int, total: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    return progress


def manifest(folder: Path, name: str = "out.csv") -> list[dict[str, object]]:
    lines = (folder / f"{name}.parts" / "manifest.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


class Counting(ColourEncoder):
    """Says how many pictures it encoded."""

    seen = 0

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
        type(self).seen += len(pixels)
        return super().encode_pixels(pixels)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.csv", "out.tsv.gz", "out.jsonl.zst", "out.parquet"])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(folder: Path, name: str) -> None:
    score(folder, f"whole-{name}")
    for rows in (1, 15, 38, 94, 95):
        with pytest.raises(KeyboardInterrupt):
            score(folder, name, progress=stop_after(rows))
        assert not (folder / name).exists()
    assert len(manifest(folder, name)) == 1 + 9
    seen: list[tuple[int, int, int]] = []
    summary = score(folder, name, progress=lambda *row: seen.append(row))
    assert seen[0] == (90, 10, ROWS)
    assert (folder / name).read_bytes() == (folder / f"whole-{name}").read_bytes()
    assert (summary.rows, summary.scored, summary.failures) == (ROWS, 84, {"file_not_found": 11})
    assert not (folder / f"{name}.parts").exists()


def test_finished_parts_are_not_scored_again(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(65))
    Counting.seen = 0
    score(folder, encoder=Counting())
    assert 0 < Counting.seen < 35


def test_a_model_whose_numbers_depend_on_neighbours_gives_the_same_bytes(folder: Path) -> None:
    class Drifting(ColourEncoder):
        """Its embeddings depend on their place in the batch, as those of a GPU do in the last digits."""

        def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
            vectors = super().encode_pixels(pixels)
            vectors[:, 0] += [1e-3 * i for i in range(len(pixels))]
            return vectors

    score(folder, "whole.csv", encoder=Drifting(batch_invariant=False))
    for rows in (25, 55, 60):
        with pytest.raises(KeyboardInterrupt):
            score(folder, encoder=Drifting(batch_invariant=False), progress=stop_after(rows))
    score(folder, encoder=Drifting(batch_invariant=False))
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert len({line.split(",")[3] for line in (folder / "out.csv").read_text().splitlines()}) > 5


def test_a_stopped_run_with_an_embedding_cache_gives_the_same_bytes(folder: Path) -> None:
    """The cache holds all of a part's embeddings or none, also if the run stops between its pictures and its captions."""

    class Drifting(ColourEncoder):
        calls = stop_at = 0

        def encode_tokens(self, rows: Sequence[str]) -> Embeddings:
            type(self).calls += 1
            if self.calls == self.stop_at:
                raise KeyboardInterrupt
            vectors = super().encode_tokens(rows)
            vectors[:, 0] += [1e-3 * i for i in range(len(rows))]
            return vectors

    lines = "".join(f"{i},red.png,red {i}\n" if i % 3 else f"{i},{i}.png,red {i}\n" for i in range(ROWS))
    for i in range(0, ROWS, 3):
        (folder / f"{i}.png").write_bytes(make_png(f"#{i:02x}{2 * i:02x}7f"))
    (folder / "in.csv").write_text(f"id,url,caption\n{lines}")
    config = replace(CONFIG, embedding_cache=folder / "cache.sqlite", batch_size=2)
    score(folder, "whole.csv", config, encoder=Drifting(batch_invariant=False))
    for path in folder.glob("cache.sqlite*"):
        path.unlink()
    for Drifting.stop_at in (2, 3, 2, 4, 5):
        Drifting.calls = 0
        with pytest.raises(KeyboardInterrupt):
            score(folder, "out.csv", config, encoder=Drifting(batch_invariant=False))
    Drifting.stop_at = 0
    score(folder, "out.csv", config, encoder=Drifting(batch_invariant=False))
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 5}, "batch_size was 4 and is now 5"),
        ({"score": "unit"}, 'score was "cosine" and is now "unit"'),
        ({"chunk_size": 11}, "chunk_size was 10 and is now 11"),
        ({"limits": Limits(max_pixels=1000)}, "max_pixels was 50000000 and is now 1000"),
    ],
)
def test_other_settings_do_not_go_on(folder: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(45))
    before = manifest(folder)
    with pytest.raises(UsageError, match=f"4 finished parts of a run that differs: {said}. .*--restart"):
        score(folder, config=replace(CONFIG, **change))
    assert manifest(folder) == before
    with pytest.raises(KeyboardInterrupt):
        score(folder, config=replace(CONFIG, **change), options=TableOptions(start="restart"), progress=stop_after(1))
    assert list(folder.glob("out.csv.parts/part-*")) == []
    score(folder, config=replace(CONFIG, **change))
    score(folder, "whole.csv", config=replace(CONFIG, **change))
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()


def test_another_input_does_not_go_on(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(45))
    text = (folder / "in.csv").read_text()
    (folder / "in.csv").write_text(text.replace("003,", "333,"))
    with pytest.raises(UsageError, match=r'input_content was "[0-9a-f]{32}" and is now "[0-9a-f]{32}"'):
        score(folder)
    (folder / "in.csv").write_text(text)
    assert score(folder).rows == ROWS


def test_a_folder_of_pictures_whose_subfolder_was_renamed_does_not_go_on(folder: Path) -> None:
    photos = folder / "photos"
    (photos / "b").mkdir(parents=True)
    for number in range(24):
        (photos / "b" / f"{number:02}.png").write_bytes((folder / "red.png").read_bytes())
        (photos / "b" / f"{number:02}.txt").write_text("red")

    def run(progress: Callable[[int, int, int], None] | None = None) -> Summary:
        engine = LocalEngine(encoder=ENCODER)
        return score_csv(photos, folder / "out.csv", CONFIG, engine=engine, progress=progress)

    with pytest.raises(KeyboardInterrupt):
        run(stop_after(15))
    (photos / "b").rename(photos / "c")
    with pytest.raises(UsageError, match="a run that differs: input_content was"):
        run()
    (photos / "c").rename(photos / "b")
    seen: list[int] = []
    summary = run(lambda *row: seen.append(row[0]))
    assert (summary.rows, seen[0]) == (24, 10)


def test_another_model_does_not_go_on(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(45))
    with pytest.raises(UsageError, match='weights was "colour" and is now "other"'):
        score(folder, encoder=ColourEncoder(fingerprint="other"))


def test_patience_may_change(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(45))
    patient = replace(CONFIG, timeout_s=20.0, retries=3, io_workers=2, limits=replace(CONFIG.limits, total_s=60.0))
    assert score(folder, config=patient).rows == ROWS


@pytest.mark.parametrize("damage", ["cut", "gone", "other", "torn line"])
def test_a_damaged_part_is_scored_again(folder: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    score(folder, "whole.csv")
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(65))
    part = folder / "out.csv.parts" / "part-000003.csv"
    match damage:
        case "cut":
            part.write_bytes(part.read_bytes()[:-9])
        case "gone":
            part.unlink()
        case "other":
            part.write_bytes(part.with_name("part-000004.csv").read_bytes())
        case _:
            lines = (folder / "out.csv.parts" / "manifest.jsonl").read_text()
            (folder / "out.csv.parts" / "manifest.jsonl").write_text(lines[: lines.index('"number": 3') + 20])
    seen: list[int] = []
    score(folder, progress=lambda done, *_: seen.append(done))
    assert seen[0] == 30
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert ("part 3 of" in caplog.text) == (damage != "torn line")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["part-00000-4f2c.csv"], "it holds part-00000-4f2c.csv"),
        (["lock", "notes.txt"], "it holds notes.txt"),
        (["part-000000.parquet", "part-000001.parquet"], "no run has left a lock in it"),
        (["manifest.jsonl", "holder.json", "part-000000.parquet"], "its manifest.jsonl is not that of a run"),
    ],
)
@pytest.mark.parametrize("start", ["resume", "restart"])
def test_another_folder_of_our_name_is_left_alone(folder: Path, names: list[str], problem: str, start: Any) -> None:
    """Whoever may write where the output goes can give the name of a folder of parts to any folder there."""
    theirs = folder / "out.csv.parts"
    theirs.mkdir(0o755)
    for name in names:
        (theirs / name).write_text('{"the only line": "of another tool"}\n')
    before = {path: (path.read_text(), path.stat().st_mtime_ns) for path in theirs.iterdir()}
    with pytest.raises(UsageError, match=rf"out\.csv\.parts is not a folder of parts: {problem}; .* --work-dir"):
        score(folder, options=TableOptions(start=start))
    with pytest.raises(UsageError, match=r"out\.csv\.parts is not a folder of parts"):
        filter_table(folder / "in.csv", folder / "out.csv", min_score=0.1)
    assert {path: (path.read_text(), path.stat().st_mtime_ns) for path in theirs.iterdir()} == before
    shutil.rmtree(theirs)
    assert score(folder).rows == ROWS


def test_an_empty_folder_of_our_name_is_used(folder: Path) -> None:
    (folder / "out.csv.parts").mkdir(0o755)
    assert score(folder).rows == ROWS


@pytest.mark.parametrize("left", ["lock", "lock part-000000.csv", "lock holder.json part-output.partial output"])
def test_a_folder_that_a_killed_run_left_is_used(folder: Path, left: str) -> None:
    (folder / "out.csv.parts").mkdir()
    for name in left.split():
        (folder / "out.csv.parts" / name).touch()
    assert score(folder).rows == ROWS
    assert not (folder / "out.csv.parts").exists()


def test_what_is_not_ours_stays_in_the_folder(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(45))
    names = ["part-00000-4f2c.csv", "part-notes.txt", "part-0000.csv.crc", "part-rows.partial"]
    for name in names:
        (folder / "out.csv.parts" / name).write_text("mine")
    score(folder)
    assert {path.name for path in (folder / "out.csv.parts").iterdir()} - {"lock"} == set(names)


@pytest.mark.skipif(os.name == "nt", reason="files have no mode there")
def test_no_one_else_may_change_a_part(folder: Path) -> None:
    modes: dict[str, int] = {}

    def look(done: int, *_: int) -> None:
        if done == 45:
            parts = folder / "out.csv.parts"
            for path in (parts, *parts.iterdir()):
                with suppress(FileNotFoundError):  # the thread that writes gives a part its name
                    modes[path.name] = path.stat().st_mode & 0o777

    before = os.umask(0o002)
    try:
        score(folder, progress=look)
        (folder / "plain").touch()
    finally:
        os.umask(before)
    assert modes.pop("out.csv.parts") == 0o700
    assert set(modes.values()) == {0o600}
    assert (folder / "out.csv").stat().st_mode == (folder / "plain").stat().st_mode


def test_a_part_that_is_changed_during_the_run_ends_it(folder: Path) -> None:
    def change(done: int, *_: int) -> None:
        if done == ROWS:
            path = folder / "out.csv.parts" / "part-000001.csv"
            path.write_bytes(path.read_bytes().replace(b"red", b"ted"))

    with pytest.raises(
        TableError, match=r"part 1 is lost \(.*out\.csv\.parts/part-000001\.csv: its content has changed"
    ):
        score(folder, progress=change)
    assert not (folder / "out.csv").exists()
    assert score(folder).rows == ROWS
    assert "ted" not in (folder / "out.csv").read_text()


@pytest.mark.parametrize("name", ["out.csv.gz", "out.jsonl", "out.parquet"])
def test_a_changed_part_is_noticed_in_every_format(folder: Path, name: str) -> None:
    def change(done: int, *_: int) -> None:
        if done == ROWS:
            path = next((folder / f"{name}.parts").glob("part-000000.*"))
            path.write_bytes(path.read_bytes().replace(b"red", b"ted"))

    with pytest.raises(TableError, match="part 0 is lost"):
        score(folder, name, progress=change)
    assert not (folder / name).exists()


@pytest.mark.skipif(os.name == "nt", reason="files have no mode there")
@pytest.mark.parametrize("name", ["manifest.jsonl", "part-000001.csv"])
@pytest.mark.parametrize("keeps", [True, False])
def test_what_others_may_have_changed_is_scored_again(
    folder: Path, name: str, keeps: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(45))
    (folder / "out.csv.parts" / name).chmod(0o664)
    if not keeps:  # a file system that reports the same permissions for all files
        monkeypatch.setattr(owners, "keeps_modes", lambda _: False)
    seen: list[int] = []
    score(folder, progress=lambda done, *_: seen.append(done))
    assert (seen[0] < 40) is keeps
    assert ("scored again" in caplog.text) is keeps


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give files to others")
def test_a_part_that_belongs_to_another_user_is_scored_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(45))
    os.chown(folder / "out.csv.parts" / "part-000001.csv", 1002, -1)
    score(folder)
    assert "part 1 of" in caplog.text
    assert "other users may write to it" in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="files have no mode there")
def test_parts_of_an_earlier_version_are_resumed(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(45))
    parts = folder / "out.csv.parts"
    parts.chmod(0o755)
    for path in parts.iterdir():
        path.chmod(0o644)
    seen: list[int] = []
    score(folder, progress=lambda done, *_: seen.append(done))
    assert seen[0] >= 30
    assert not parts.exists()


def test_the_finished_output_is_out_of_reach_until_it_is_in_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    placing = Workspace.placing

    def look(work: Workspace, content: str) -> None:
        outers = list(folder.glob(".text-image-similarity-*"))
        assert os.name == "nt" or all(outer.stat().st_mode & 0o077 == 0 for outer in outers)
        seen.extend(path for outer in outers for path in outer.rglob("out.csv*"))
        placing(work, content)

    monkeypatch.setattr(Workspace, "placing", look)
    score(folder)
    found = json.loads((folder / "out.csv.summary.json").read_text())
    assert {path.name for path in seen} == {"out.csv", "out.csv.summary.json"}
    assert content_of(str(folder / "out.csv")) == found["output_content"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "name", ["holder.json", "output", "part-000000.csv.partial", "part-manifest.partial", "manifest.jsonl"]
)
def test_links_in_a_shared_folder_are_not_written_through(folder: Path, name: str) -> None:
    """Whoever may write where the output goes could choose a file of ours to be overwritten."""
    victim = folder / "victim.txt"
    victim.write_text("precious")
    (folder / "out.csv.parts").mkdir()
    (folder / "out.csv.parts" / "lock").touch()
    (folder / "out.csv.parts" / name).symlink_to(victim)
    with suppress(TableError):
        score(folder)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_place_of_the_parts_is_refused(folder: Path, there: bool) -> None:
    """It would lead a run to delete files of these names elsewhere."""
    victim = folder / "victim"
    names = ["holder.json", "lock", "manifest.jsonl", "output", "part-000000.csv"]
    if there:
        victim.mkdir()
        for name in names:
            (victim / name).write_text("precious")
    (folder / "out.csv.parts").symlink_to("victim")
    with pytest.raises(UsageError, match=r"out\.csv\.parts is a link, .* --work-dir"):
        score(folder)
    with pytest.raises(UsageError, match=r"out\.csv\.parts is a link, .* --work-dir"):
        filter_table(folder / "in.csv", folder / "out.csv", top=1)
    assert victim.exists() is there
    assert all((victim / name).read_text() == "precious" for name in names if there)


def test_a_link_that_is_put_there_at_the_last_moment_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (victim := folder / "victim").mkdir()
    (victim / "part-000000.csv").write_text("precious")
    mkdir = Path.mkdir

    def beaten(path: Path, *given: Any, **how: Any) -> None:
        if path.name == "out.csv.parts" and not path.is_symlink():
            path.symlink_to("victim")
        mkdir(path, *given, **how)

    monkeypatch.setattr(Path, "mkdir", beaten)
    with pytest.raises(UsageError, match=r"out\.csv\.parts is a link, .* --work-dir"):
        score(folder)
    assert [path.name for path in victim.iterdir()] == ["part-000000.csv"]
    assert (victim / "part-000000.csv").read_text() == "precious"


@pytest.mark.parametrize("link", [True, False])
def test_a_folder_of_parts_that_is_replaced_during_a_run_is_left_alone(folder: Path, link: bool) -> None:
    (victim := folder / "victim").mkdir()
    parts = folder / "out.csv.parts"
    kept: set[str] = set()

    def replace_it(*_: int) -> None:
        if not kept:
            kept.update(path.name for path in parts.iterdir())
            parts.rename(folder / "moved")
            (victim / "manifest.jsonl").write_text("precious")
            parts.symlink_to("victim") if link else victim.rename(parts)

    with pytest.raises(UsageError, match=r"out\.csv\.parts (is a link|was replaced while .*out\.csv was written)"):
        score(folder, progress=replace_it)
    assert [path.name for path in parts.iterdir()] == ["manifest.jsonl"]
    assert (parts / "manifest.jsonl").read_text() == "precious"
    assert "manifest.jsonl" in kept


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs on Windows")
@pytest.mark.parametrize("name", ["manifest.jsonl", "part-000000.csv", "output"])
def test_a_pipe_among_the_parts_is_refused(folder: Path, name: str) -> None:
    """Reading it would wait forever, and so would writing to it."""
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(45))
    (folder / "out.csv.parts" / name).unlink(missing_ok=True)
    os.mkfifo(folder / "out.csv.parts" / name)
    with pytest.raises(TableError, match=rf"{name} is not a regular file, unlike those that a run writes; remove it"):
        score(folder)
    (folder / "out.csv.parts" / name).unlink()
    score(folder)


def test_parts_of_another_user_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(45))
    other, stat = os.getuid() + 1, Path.stat

    def someone_elses(path: Path, **how: Any) -> os.stat_result:
        found = stat(path, **how)
        return os.stat_result((*found[:4], other, *found[5:10])) if path.name.endswith(".parts") else found

    monkeypatch.setattr(Path, "stat", someone_elses)
    with pytest.raises(UsageError, match=r"out\.csv\.parts belongs to another user, .* --work-dir"):
        score(folder)
    # On some network file systems, this user's files do so too.
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", lambda _: SimpleNamespace(st_uid=other))
        assert _has_trusted_owner(folder / "out.csv.parts", other)


HOLDER = """
import sys
from pathlib import Path
from text_image_similarity import Config, LocalEngine, score_csv
from text_image_similarity.encoders.testing import ColourEncoder

def hold(done, failed, total):
    if done == 5:
        print("holding", flush=True)
        sys.stdin.readline()

score_csv("in.csv", "out.csv", Config(batch_size=4, io_workers=4, retries=0, chunk_size=10), engine=LocalEngine(encoder=ColourEncoder()), progress=hold)
"""


def test_a_second_run_says_who_holds_the_output(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "holding\n"
        with pytest.raises(BusyError, match=rf"out\.csv is being written by process {first.pid} on .* since 20"):
            score(folder)
        with pytest.raises(BusyError):
            score(folder, options=TableOptions(start="restart"))
        first.communicate("go on\n")
    assert first.returncode == 0
    assert (folder / "out.csv").exists()
    assert score(folder).rows == ROWS


def test_stopping_keeps_whole_parts(folder: Path) -> None:
    rows = []
    with pytest.raises(StoppedError, match="stopped on request with 20 of 95 rows kept; the same command resumes"):
        score(folder, progress=lambda done, *_: rows.append(done), stop=lambda: rows[-1] > 13)
    assert [line["rows"] for line in manifest(folder)[1:]] == [10, 10]
    assert score(folder).rows == ROWS


def test_a_lost_device_ends_the_run_with_its_parts_kept(folder: Path) -> None:
    class Failing(ColourEncoder):
        calls = 0

        def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
            type(self).calls += 1
            if self.calls > 5:
                raise DeviceLostError("the device cuda:0 has failed")
            return super().encode_pixels(pixels)

    score(folder, "whole.csv")
    with pytest.raises(DeviceLostError):
        score(folder, encoder=Failing(batch_invariant=False))
    assert len(manifest(folder)) > 1
    score(folder)
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()


@pytest.mark.slow
def test_a_full_disk_loses_nothing_that_was_finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space at the first write, flush or rename of a run, then at the second, and so on; each time it goes on."""
    score(folder, "whole.csv")
    left = 0

    def failing(call: Callable[..., object]) -> Callable[..., object]:
        def fail_when_it_is_time(*given: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*given, **named)

        return fail_when_it_is_time

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    for name in ("write_bytes", "write_text"):
        monkeypatch.setattr(Path, name, failing(getattr(Path, name)))
    refused = at = 0
    while left <= 0:
        at += 1
        left = at
        done = 0
        try:
            score(folder)
        except TableError as error:
            refused += 1
            assert "No space left on device" in str(error)  # noqa: PT017 - some writes may fail without harm
            done = len(manifest(folder)) - 1 if (folder / "out.csv.parts").exists() else 0
            assert done >= min((at - 6) // 5, 10), "a finished part was lost"  # five such calls a part, five before
        finally:
            reached, left = left, 0
        seen: list[int] = []
        score(folder, progress=lambda rows, *_: seen.append(rows))  # noqa: B023 - used up within the round
        assert seen[0] == min(10 * done, ROWS)
        assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()
        assert [path.name for path in folder.iterdir() if path.is_dir() or path.name.startswith(".")] == []
        (folder / "out.csv").unlink()
        left = reached
    assert refused > 30


def test_a_part_is_on_disk_before_it_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    flush, rename = os.fsync, os.replace

    def fsync(number: int) -> None:
        done.append(f"flush {Path(f'/proc/self/fd/{number}').readlink().name}")
        flush(number)

    def replace_(source: str | os.PathLike[str], place: str | os.PathLike[str]) -> None:
        done.append(f"rename to {Path(str(place)).name}")
        rename(source, place)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace_)
    score(folder)
    begin = done.index("flush part-000003.csv.partial")
    assert done[begin + 1 : begin + 4] == ["rename to part-000003.csv", "flush out.csv.parts", "flush manifest.jsonl"]
    assert done[-6:-3] == ["flush out.csv", "rename to out.csv", f"flush {folder.name}"]


class Flaky:
    """A transport that fails for the first so many requests."""

    def __init__(self, failing: int) -> None:
        import httpx

        self.requests = 0

        def answer(request: httpx.Request) -> httpx.Response:
            self.requests += 1
            if self.requests <= failing:
                return httpx.Response(503)
            return httpx.Response(404 if "none" in str(request.url) else 200, content=make_png("red"))

        self.transport = httpx.MockTransport(answer)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.jsonl"])
def test_failures_that_may_have_passed_are_retried(tmp_path: Path, name: str) -> None:
    lines = [f"http://photos.test/{'none' if i % 4 == 0 else 'red'}{i}.png,red" for i in range(40)]
    (tmp_path / "in.csv").write_text("url,caption\n" + "\n".join(lines) + "\n")
    flaky = Flaky(25)
    before = score(tmp_path, name, transport=flaky.transport)
    assert before.failures == {"http_5xx": 25, "http_4xx": before.failures["http_4xx"]}
    again = Flaky(0)
    retry = TableOptions(start="retry_failed")
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path, name, transport=again.transport, options=retry, progress=stop_after(15))
    with pytest.raises(UsageError, match=r"retry_failed was .* and is now null"):
        score(tmp_path, name)
    after = score(tmp_path, name, transport=again.transport, options=retry)
    assert 25 <= again.requests < 2 * 25  # those of the part that was kept are not asked for again
    assert (after.rows, after.failures) == (40, {"http_4xx": 10})
    whole = Flaky(0)
    score(tmp_path, f"whole-{name}", transport=whole.transport)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()


def test_retrying_needs_the_same_run(folder: Path) -> None:
    retry = TableOptions(start="retry_failed")
    with pytest.raises(UsageError, match="there is no finished run"):
        score(folder, options=retry)
    score(folder)
    with pytest.raises(UsageError, match="was written with other settings: score was"):
        score(folder, options=retry, config=replace(CONFIG, score="unit"))
    (folder / "out.csv.summary.json").write_text("{}")
    with pytest.raises(UsageError, match="there is no finished run"):
        score(folder, options=retry)


DEEP = "[" * 200_000


def test_deep_json_in_a_shared_folder_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    score(folder)
    (folder / "out.csv.summary.json").write_text(DEEP)
    with pytest.raises(UsageError, match=r"out\.csv was not written by this command"):
        score(folder)
    with pytest.raises(UsageError, match=r"no finished run of .* it is nested more than 100 levels deep"):
        score(folder, options=TableOptions(start="retry_failed"))
    with pytest.raises(KeyboardInterrupt):
        score(folder, "other.csv", progress=stop_after(45))
    (folder / "other.csv.parts" / "manifest.jsonl").write_text(DEEP)
    assert score(folder, "other.csv").rows == ROWS
    assert "cannot be read; all its parts are scored again" in caplog.text


@pytest.mark.parametrize("edit", ["sorted", "longer", "other score"])
def test_an_output_that_was_edited_is_not_retried(folder: Path, edit: str) -> None:
    score(folder)
    header, *lines = (folder / "out.csv").read_text().splitlines()
    match edit:
        case "sorted":
            lines.reverse()
        case "longer":
            lines.append(lines[-1])
        case _:
            lines[3] = lines[3].rpartition(",")[0].rpartition(",")[0] + ",999.0,"
    (folder / "out.csv").write_text("\n".join([header, *lines, ""]))
    with pytest.raises(UsageError, match=r"out\.csv was changed after it was written"):
        score(folder, options=TableOptions(start="retry_failed"))


def test_retrying_goes_on_after_its_output_is_in_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between the two renames of the end, when the output is new and the summary is still the old one's."""
    lines = [f"http://photos.test/red{i}.png,red" for i in range(30)]
    (folder / "in.csv").write_text("url,caption\n" + "\n".join(lines) + "\n")
    score(folder, transport=Flaky(12).transport)
    retry = TableOptions(start="retry_failed")
    rename = os.replace

    def replace_(source: str | os.PathLike[str], place: str | os.PathLike[str]) -> None:
        if str(place).endswith("summary.json"):
            raise KeyboardInterrupt
        rename(source, place)

    monkeypatch.setattr(os, "replace", replace_)
    with pytest.raises(KeyboardInterrupt):
        score(folder, transport=Flaky(0).transport, options=retry)
    monkeypatch.setattr(os, "replace", rename)
    assert score(folder, transport=Flaky(0).transport, options=retry).scored == 30
    assert json.loads((folder / "out.csv.summary.json").read_text())["scored"] == 30
    assert score(folder, transport=Flaky(0).transport, options=retry).scored == 30


def test_an_input_that_changes_under_the_run_is_noticed(folder: Path) -> None:
    def append(done: int, failed: int, total: int) -> None:
        if done == 50:
            with (folder / "in.csv").open("a") as file:
                file.write("099,red.png,red\n")

    with pytest.raises(TableError, match="was changed while it was being scored"):
        score(folder, progress=append)
    assert not (folder / "out.csv").exists()
    with pytest.raises(UsageError, match="input_rows was 95 and is now 96"):
        score(folder)
    assert score(folder, options=TableOptions(start="restart")).rows == 96


def test_the_same_table_in_another_folder_is_another_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "other").mkdir()
    for path in folder.glob("*.*"):
        (folder / "other" / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(folder)
    with pytest.raises(KeyboardInterrupt):
        score_csv("in.csv", folder / "out.csv", CONFIG, engine=LocalEngine(encoder=ENCODER), progress=stop_after(45))
    monkeypatch.chdir(folder / "other")
    with pytest.raises(UsageError, match="base_dir was"):
        score_csv("in.csv", folder / "out.csv", CONFIG, engine=LocalEngine(encoder=ENCODER))
    assert score(folder).rows == ROWS  # by its whole path it is the same one


def test_other_columns_do_not_go_on(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(45))
    with pytest.raises(UsageError, match='col_text was "caption" and is now "id"'):
        score(folder, col_text="id")


def test_an_encoder_without_a_fingerprint_is_known_by_its_class(folder: Path) -> None:
    class Other(ColourEncoder):
        pass

    with pytest.raises(KeyboardInterrupt):
        score(folder, encoder=ColourEncoder(fingerprint=""), progress=stop_after(45))
    with pytest.raises(UsageError, match="weights was"):
        score(folder, encoder=Other(fingerprint=""))


def test_other_versions_go_on_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(45))
    path = folder / "out.csv.parts" / "manifest.jsonl"
    header, rest = path.read_text().split("\n", 1)
    told = json.loads(header)
    told["versions"]["pillow"] = "0.1"
    path.write_text(f"{json.dumps(told)}\n{rest}")
    (warning,) = score(folder).warnings
    assert 'pillow was "0.1" and is now' in warning
    assert warning in caplog.text


def test_a_manifest_that_cannot_be_read_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, progress=stop_after(45))
    path = folder / "out.csv.parts" / "manifest.jsonl"
    path.write_text("{" + path.read_text())
    assert score(folder).rows == ROWS
    assert "cannot be read; all its parts are scored again" in caplog.text


def test_a_file_in_the_place_of_the_parts_is_told(folder: Path) -> None:
    (folder / "out.csv.parts").write_text("mine")
    with pytest.raises(TableError, match="a file is in its place"):
        score(folder)
    with pytest.raises(UsageError, match="name another --work-dir"):
        score(folder, options=TableOptions(work_dir=folder / "in.csv"))
    assert (folder / "out.csv.parts").read_text() == "mine"


def test_the_last_part_is_in_the_embedding_cache_too(folder: Path) -> None:
    config = replace(CONFIG, embedding_cache=folder / "cache.sqlite")
    score(folder, config=config)
    Counting.seen = 0
    score(folder, "again.csv", config, encoder=Counting())
    assert Counting.seen == 0


def test_a_run_that_drains_with_an_embedding_cache_gives_the_same_bytes(folder: Path) -> None:
    class Drifting(ColourEncoder):
        def encode_tokens(self, rows: Sequence[str]) -> Embeddings:
            vectors = super().encode_tokens(rows)
            vectors[:, 0] += [1e-3 * i for i in range(len(rows))]
            return vectors

    lines = "".join(f"{i},red.png,red {i % 17} {i // 4}\n" for i in range(ROWS))
    (folder / "in.csv").write_text(f"id,url,caption\n{lines}")
    config = replace(CONFIG, embedding_cache=folder / "cache.sqlite", batch_size=3)
    score(folder, "whole.csv", config, encoder=Drifting(batch_invariant=False))
    for path in folder.glob("cache.sqlite*"):
        path.unlink()
    seen: list[int] = []
    for drains in range(1, 5):
        until = 20 * drains
        with pytest.raises(StoppedError):
            score(
                *(folder, "out.csv", config),
                encoder=Drifting(batch_invariant=False),
                progress=lambda done, *_: seen.append(done),
                stop=lambda until=until: seen[-1] >= until,
            )
    score(folder, "out.csv", config, encoder=Drifting(batch_invariant=False))
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()


@pytest.mark.slow
def test_finished_parts_are_not_kept_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Watched(list[Any]):  # one that can be referred to weakly
        pass

    made: list[weakref.ref[Watched]] = []
    most = 0

    read = DelimitedTable.read

    def watched(self: DelimitedTable, start: int, most: int) -> Iterator[object]:
        for rows in read(self, start, most):
            values = Watched(rows.values)
            made.append(weakref.ref(values))
            yield replace(rows, values=values)

    def look(done: int, failed: int, total: int) -> None:
        nonlocal most
        if done % 40 == 0:
            gc.collect()
            most = max(most, sum(values() is not None for values in made))

    monkeypatch.setattr(DelimitedTable, "read", watched)
    # One part is looked ahead into: 32 rows at most, in parts of 40.
    (folder / "in.csv").write_text("url,caption\n" + "red.png,red\n" * 800)
    gc.freeze()  # what is there already takes half a second to look through
    score(folder, config=replace(CONFIG, chunk_size=40, io_workers=1), progress=look)
    assert 1 <= most <= 4


def test_a_number_is_a_caption(folder: Path) -> None:
    (folder / "in.jsonl").write_text('{"url": "red.png", "caption": 7}\n{"url": "red.png", "caption": true}\n')
    summary = score_csv(folder / "in.jsonl", folder / "out.csv", CONFIG, engine=LocalEngine(encoder=ENCODER))
    assert (summary.scored, summary.failures) == (1, {"empty_caption": 1})


def test_what_the_output_cannot_hold_is_told_before_the_model_loads(folder: Path) -> None:
    pq.write_table(pa.table({"url": ["red.png"], "caption": ["red"], "raw": [b"x"]}), folder / "in.parquet")
    with pytest.raises(UsageError, match="'raw'"):
        score_csv(folder / "in.parquet", folder / "out.csv", Config(model="/no/such/model"))


def test_parts_go_where_one_wants_them(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(folder, options=TableOptions(work_dir=folder / "work"), progress=stop_after(45))
    assert not (folder / "out.csv.parts").exists()
    (parts,) = (folder / "work").iterdir()
    assert len(list(parts.glob("part-*.csv"))) == 4
    seen: list[int] = []
    score(folder, options=TableOptions(work_dir=folder / "work"), progress=lambda done, *_: seen.append(done))
    assert seen[0] == 40
    assert list((folder / "work").iterdir()) == []


def test_a_wrong_start_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match="start='again' is not one of resume, restart, retry_failed"):
        TableOptions(start="again")  # type: ignore[arg-type]
